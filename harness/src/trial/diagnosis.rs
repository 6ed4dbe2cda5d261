//! What a hanging guest hangs on: asked of QEMU first, which always knows, then of the guest, which may not answer.

use std::fmt::Write as _;

use hotplug_protocol::Request;

use super::vm::Vm;
use crate::Result;
use crate::limits::limits;
use crate::qmp::commands::{HumanMonitorCommand, InjectNmi};

/// Where QEMU's own account is kept.
const FILE: &str = "qemu-state.log";

/// What QEMU is asked, in its monitor's own words (`help info`). Asked twice, registers tell a CPU that spins from one
/// that stands still.
const QUESTIONS: [&str; 6] = [
    "info status",
    "info registers -a",
    "info memory-devices",
    "info hotpluggable-cpus",
    "info irq",
    "info registers -a",
];

/// Asks all that can be asked; the guest's answers go into its own log. An error is our disk's.
pub(super) async fn diagnose(vm: &Vm) -> Result<()> {
    fs_err::write(vm.dir.join(FILE), ask_qemu(vm).await)?;
    ask_guest(vm).await;
    Ok(())
}

async fn ask_qemu(vm: &Vm) -> String {
    let mut account = String::new();
    for question in QUESTIONS {
        let command = HumanMonitorCommand { command_line: question.into() };
        let answer = match tokio::time::timeout(limits().diagnosis, vm.qmp.execute(command)).await {
            Ok(Ok(answer)) => answer.replace("\r\n", "\n"),
            Ok(Err(error)) => format!("{error}\n"),
            Err(_) => {
                // A monitor that is stuck would have each further question wait as long.
                let _ = writeln!(
                    account,
                    "== {question}: no answer within {} s",
                    limits().diagnosis.as_secs_f64()
                );
                break;
            }
        };
        let _ = writeln!(account, "== {question}, at {} us\n{answer}", vm.journal.now().0);
    }
    account
}

/// Blocked tasks, held locks and backtraces.
async fn ask_guest(vm: &Vm) {
    // Documentation/admin-guide/sysrq.rst: w, blocked tasks; d, held locks; l, backtraces of active CPUs.
    for key in ["w", "d", "l"] {
        let request = Request::Write { path: "/proc/sysrq-trigger".into(), data: key.into() };
        if !matches!(tokio::time::timeout(limits().diagnosis, vm.agent.ask(request)).await, Ok(Ok(_))) {
            // No agent: an NMI makes the kernel print where its CPUs are (arch/x86/kernel/nmi.c).
            let _ = tokio::time::timeout(limits().diagnosis, vm.qmp.execute(InjectNmi {})).await;
            let _ = tokio::time::timeout(limits().diagnosis, vm.serial.silent_for(limits().backtraces)).await;
            return;
        }
    }
    vm.drain(limits().diagnosis).await;
}

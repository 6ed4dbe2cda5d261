//! Collects the state of a guest that hangs: from QEMU first, which always answers, then from the
//! guest, which may not.

use std::fmt::Write as _;

use hotplug_protocol::Request;

use super::vm::Vm;
use crate::Result;
use crate::limits::limits;
use crate::vmm::qmp::commands::{HumanMonitorCommand, InjectNmi};

/// The file with the state that QEMU reports.
const FILE: &str = "qemu-state.log";

/// The commands of QEMU's human monitor (`help info`). The registers are read twice: they differ if
/// a CPU spins, and are the same if it does not run.
const QUESTIONS: [&str; 6] = [
    "info status",
    "info registers -a",
    "info memory-devices",
    "info hotpluggable-cpus",
    "info irq",
    "info registers -a",
];

/// Runs all queries, and returns QEMU's answers. The guest's answers go to its kernel log. Errors only
/// on a disk error.
pub(super) async fn diagnose(vm: &Vm) -> Result<String> {
    let account = ask_qemu(vm).await;
    fs_err::write(vm.dir.join(FILE), &account)?;
    ask_guest(vm).await;
    Ok(account)
}

async fn ask_qemu(vm: &Vm) -> String {
    let mut account = String::new();
    for question in QUESTIONS {
        let command = HumanMonitorCommand { command_line: question.into() };
        let answer = match tokio::time::timeout(limits().diagnosis, vm.qmp.execute(command)).await {
            Ok(Ok(answer)) => answer.replace("\r\n", "\n"),
            Ok(Err(error)) => format!("{error}\n"),
            Err(_) => {
                // If the monitor does not answer, each further query would wait as long.
                let _ = writeln!(
                    account,
                    "== {question}: no answer within {} s",
                    limits().diagnosis.as_secs_f64()
                );
                break;
            }
        };
        let _ = writeln!(account, "== {question}, at {} us\n{answer}", vm.event_log.now().0);
    }
    account
}

/// Makes the kernel print blocked tasks, held locks and backtraces.
async fn ask_guest(vm: &Vm) {
    // The keys of Documentation/admin-guide/sysrq.rst: w for blocked tasks, d for held locks, l for
    // backtraces of active CPUs.
    for key in ["w", "d", "l"] {
        let request = Request::Write { path: "/proc/sysrq-trigger".into(), data: key.into() };
        if !matches!(tokio::time::timeout(limits().diagnosis, vm.agent.ask(request)).await, Ok(Ok(_))) {
            // If the agent does not answer, an NMI makes the kernel print the backtraces of its
            // CPUs (arch/x86/kernel/nmi.c).
            let _ = tokio::time::timeout(limits().diagnosis, vm.qmp.execute(InjectNmi {})).await;
            let _ = tokio::time::timeout(limits().diagnosis, vm.serial.silent_for(limits().backtraces)).await;
            return;
        }
    }
    vm.drain(limits().diagnosis).await;
}

//! Hands the guest of a trial to the user at its end: a shell on the guest's console, or QEMU's
//! gdbstub. The trial's own log ends before.

use std::path::{Path, PathBuf};
use std::pin::pin;

use hotplug_protocol::{Answer, ProgramRun, Request};
use hotplug_side::Side;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::sync::Mutex;

use super::context::TrialContext;
use super::vm::{Cut, Vm};
use crate::limits::limits;
use crate::vmm::qmp::commands::{HumanMonitorCommand, QueryChardev};

/// The program of the shell, by the name of its folder in the guest.
pub(crate) const SHELL: &str = "shell";

/// The file that the shell is a part of.
pub(crate) const BUSYBOX: &str = "busybox";

/// The name that QEMU gives the device of a gdbstub that it opens on request (gdbstub/system.c,
/// `gdbserver_start()`).
const GDB_DEVICE: &str = "gdb";

/// What the user gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOverKind {
    /// A shell in the guest.
    Shell,
    /// QEMU's gdbstub.
    Gdb,
}

/// An event of a hand-over.
#[derive(Debug, Clone, Copy)]
pub enum Handed<'a> {
    /// The shell begins: the terminal is the guest's console from now on.
    Shell,
    /// The shell has ended.
    ShellEnded,
    /// gdb can connect. The user ends the hand-over with a line, or by ending QEMU.
    Gdb {
        /// The address of the stub, such as `127.0.0.1:40001`.
        address: &'a str,
        /// The kernel's vmlinux, if it is known.
        vmlinux: Option<&'a Path>,
        /// The folder of the kernel's source, if it is one.
        source: Option<&'a Path>,
    },
    /// The guest cannot be handed over.
    Nothing {
        /// The reason.
        why: &'a str,
    },
}

/// The receiver of the events of a hand-over.
pub type Receiver = Box<dyn Fn(Handed<'_>) + Send + Sync>;

/// A user who gets a guest.
pub struct HandOver {
    wanted: HandOverKind,
    terminal: Mutex<DuplexStream>,
    receiver: Receiver,
    source: Option<PathBuf>,
}

impl std::fmt::Debug for HandOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandOver").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl HandOver {
    /// For a user with this terminal. What is typed there ends if the user leaves the guest.
    pub fn new(wanted: HandOverKind, terminal: DuplexStream, receiver: Receiver) -> Self {
        Self { wanted, terminal: terminal.into(), receiver, source: None }
    }

    /// With the source of the kernel, if it is a folder: its scripts are for gdb.
    #[must_use]
    pub fn with_source(self, source: &str) -> Self {
        let folder = Path::new(source);
        Self { source: folder.is_dir().then(|| folder.to_owned()), ..self }
    }

    /// What the user gets.
    pub fn wanted(&self) -> HandOverKind {
        self.wanted
    }

    /// Hands the guest over, and returns when the user is done or the guest is gone.
    pub(super) async fn give(&self, vm: &Vm, context: &TrialContext, side: Side, cut: Option<&Cut>) {
        let mut terminal = self.terminal.lock().await;
        let given = match (cut, self.wanted) {
            (Some(Cut::Broken(why)), _) => Err(why.clone()),
            (Some(Cut::Panicked | Cut::Ended(_)), HandOverKind::Shell) => {
                Err("its kernel has ended, so no shell can run in it; --gdb shows where it is".into())
            }
            (_, HandOverKind::Shell) => self.shell(vm, &mut terminal).await,
            (_, HandOverKind::Gdb) => self.gdb(vm, context, side, &mut terminal).await,
        };
        if let Err(why) = given {
            (self.receiver)(Handed::Nothing { why: &why });
        }
    }

    async fn shell(&self, vm: &Vm, terminal: &mut DuplexStream) -> Result<(), String> {
        (self.receiver)(Handed::Shell);
        let mut attached = pin!(vm.serial.attach(terminal));
        let (ended, is_attached) = tokio::select! {
            ended = vm.agent.ask(Request::Run(shell(vm.arch.console))) => {
                let ended = match ended {
                    // All that the shell prints goes to the console, unless it could not begin.
                    Ok(Answer::Ran(ran)) if ran.output.start.is_empty() => Ok(()),
                    Ok(Answer::Ran(ran)) => Err(ran.output.start.trim().to_owned()),
                    Ok(other) => Err(format!("the agent answered {other:?}")),
                    Err(error) => Err(error.to_string()),
                };
                (ended, true)
            }
            left = &mut attached => (left.map_err(|error| error.to_string()), false),
            cut = vm.cut() => (Err(cut.words()), true),
        };
        if is_attached {
            // Its last words are still on their way.
            let _ = tokio::time::timeout(limits().calm, attached).await;
        }
        (self.receiver)(Handed::ShellEnded);
        ended
    }

    async fn gdb(
        &self,
        vm: &Vm,
        context: &TrialContext,
        side: Side,
        terminal: &mut DuplexStream,
    ) -> Result<(), String> {
        // QEMU chooses a free port.
        let command_line = "gdbserver tcp:127.0.0.1:0".to_owned();
        let answer =
            vm.qmp.execute(HumanMonitorCommand { command_line }).await.map_err(|error| error.to_string())?;
        let devices = vm.qmp.execute(QueryChardev {}).await.map_err(|error| error.to_string())?;
        let device = devices.iter().find(|device| device.label == GDB_DEVICE);
        let address = device.and_then(|device| address(&device.filename));
        let address = address.ok_or_else(|| format!("QEMU opened no gdbstub: {}", answer.trim()))?;
        let (vmlinux, source) = (context.vmlinux.of(side).as_deref(), self.source.as_deref());
        (self.receiver)(Handed::Gdb { address, vmlinux, source });
        tokio::select! {
            () = vm.gone() => {}
            () = line(terminal) => {}
        }
        Ok(())
    }
}

/// The shell, on the guest's console. Its first process leads a session without a terminal, so the
/// console that it opens becomes its terminal, and Ctrl-C works (`tty_open_proc_set_tty()` in
/// drivers/tty).
fn shell(console: &str) -> ProgramRun {
    /// A day for each trial that is looked at.
    const LIMIT_MS: u64 = 24 * 3_600_000;
    let (place, tty) = (format!("{}/{SHELL}", hotplug_protocol::PROGRAMS), console);
    // A serial line does not tell its size.
    let size = terminal_size::terminal_size().map_or_else(String::new, |(width, height)| {
        format!("./{BUSYBOX} stty rows {} cols {} -F /dev/{tty}; ", height.0, width.0)
    });
    let script = format!(
        "{size}./{BUSYBOX} --install -s {place}; exec ./{BUSYBOX} sh -c 'cd /; exec {BUSYBOX} sh -i' \
         </dev/{tty} >/dev/{tty} 2>&1"
    );
    let run = ["./busybox", "sh", "-c", &script].map(str::to_owned).into();
    let env = [("PATH", place.as_str()), ("TERM", "linux"), ("PS1", "guest:\\w# ")];
    ProgramRun {
        name: SHELL.into(),
        run,
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        folder: place.clone(),
        limit_ms: LIMIT_MS,
        ..ProgramRun::default()
    }
}

/// The address in `disconnected:tcp:127.0.0.1:40001,server=on`.
fn address(filename: &str) -> Option<&str> {
    let (_, rest) = filename.split_once("tcp:")?;
    rest.split(',').next()
}

/// Waits for a line. The end of the input is none: it may be `/dev/null`.
async fn line(terminal: &mut DuplexStream) {
    loop {
        match terminal.read_u8().await {
            Ok(b'\n' | b'\r') => return,
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_stub_is_that_of_its_device() {
        let name = "disconnected:tcp:127.0.0.1:44795,server=on";
        assert_eq!(address(name), Some("127.0.0.1:44795"));
        assert_eq!(address("unix:q.sock"), None);
    }

    #[tokio::test]
    async fn a_line_ends_the_wait_for_gdb_and_an_empty_input_does_not() {
        let (mut user, mut terminal) = tokio::io::duplex(16);
        tokio::io::AsyncWriteExt::write_all(&mut user, b"go on\n").await.unwrap();
        line(&mut terminal).await;
        drop(user);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(10), line(&mut terminal)).await;
        assert!(waited.is_err());
    }
}

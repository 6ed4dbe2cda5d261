//! Child processes that never outlive the harness. Each leads a process group that is killed with
//! the harness, and each is reaped.

use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::limits::limits;
use crate::{Error, Result};

/// A child in its own process group. Dropping this value kills the whole group.
#[derive(Debug)]
pub struct ProcessGroup {
    child: Child,
    leader: Pid,
    reaped: bool,
}

impl ProcessGroup {
    /// Starts `command` as the leader of a new group, with an empty standard input.
    ///
    /// The child receives `on_our_death` when the harness dies, however it dies (prctl(2),
    /// `PR_SET_PDEATHSIG`). For make(1), SIGTERM is the right signal, because make forwards it to
    /// its jobs. SIGKILL would leave them running.
    ///
    /// Fails with a user error if the program is not installed.
    pub fn spawn(command: Command, on_our_death: Signal) -> Result<Self> {
        Self::spawn_reading(command, Stdio::null(), on_our_death)
    }

    /// Like [`ProcessGroup::spawn`], but with a standard input that the caller chooses.
    ///
    /// An open file that holds a flock(2) extends the lock to the lifetime of the child, even if
    /// the harness is killed and the child needs some time to end.
    pub fn spawn_reading(
        mut command: Command,
        stdin: impl Into<Stdio>,
        on_our_death: Signal,
    ) -> Result<Self> {
        command.process_group(0).kill_on_drop(true).stdin(stdin);
        die_with_us(&mut command, on_our_death);
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::user(format!("{name} is not installed")).help("hotplug doctor --install")
            }
            _ => Error::infrastructure(format!("cannot start {name}: {error}")),
        })?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let leader =
            Pid::from_raw(id.ok_or_else(|| Error::infrastructure(format!("{name} has no process id")))?);
        Ok(Self { child, leader, reaped: false })
    }

    /// The child, with its streams if they were piped.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process id of the leader, which is also the group's id.
    pub fn id(&self) -> Pid {
        self.leader
    }

    /// Waits for the leader to end. This is cancel safe.
    pub async fn wait(&mut self) -> Result<std::process::ExitStatus> {
        let status = self.child.wait().await?;
        self.reaped = true;
        Ok(status)
    }

    /// Sends `signal` to the whole group. A group that has ended is not an error.
    pub fn signal(&self, signal: Signal) {
        let _ = killpg(self.leader, signal);
    }

    /// Ends the group: SIGTERM, a grace period, SIGKILL.
    pub async fn stop(mut self) -> Result<std::process::ExitStatus> {
        self.signal(Signal::SIGTERM);
        let ended = tokio::time::timeout(limits().grace, self.wait()).await;
        // Other processes of the group may still be alive after the leader has ended.
        self.signal(Signal::SIGKILL);
        match ended {
            Ok(status) => status,
            Err(_) => self.wait().await,
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::SIGKILL);
        }
    }
}

/// Runs `command` with the policy `SCHED_BATCH` (sched(7)), so that a thread that wakes up does not
/// preempt it.
///
/// Such a preemption mostly hits a virtual CPU that holds a spinlock, and the other virtual CPUs
/// then spin. With as many guests as cores, under TCG, this takes a fifth of all CPU time. If the
/// kernel refuses the policy, the command runs without it.
#[expect(unsafe_code, reason = "pre_exec is the only way to set the policy before the threads start")]
pub fn run_in_batches(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; sched_setscheduler is
    // a plain system call.
    unsafe {
        command.pre_exec(|| {
            let no_priority: nix::libc::sched_param = std::mem::zeroed();
            nix::libc::sched_setscheduler(0, nix::libc::SCHED_BATCH, &raw const no_priority);
            Ok(())
        });
    }
}

#[expect(unsafe_code, reason = "pre_exec is the only way to set the parent-death signal in the child")]
fn die_with_us(command: &mut Command, signal: Signal) {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl, getppid and
    // _exit are.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(signal)?;
            // The parent may have died before prctl took effect. The signal would then never be
            // sent.
            if nix::unistd::getppid() != parent {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}

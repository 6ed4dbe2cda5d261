//! Child processes that never outlive the harness: a process group each, killed with us, reaped always.

use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::limits::limits;
use crate::{Error, Result};

/// A child in a process group of its own. Dropping it kills the whole group.
#[derive(Debug)]
pub struct Group {
    child: Child,
    leader: Pid,
    reaped: bool,
}

impl Group {
    /// Starts `command` as the leader of a new group, standard input empty.
    ///
    /// `on_our_death` is sent to it when the harness dies, however it dies (prctl(2), `PR_SET_PDEATHSIG`): make(1)
    /// forwards SIGTERM to its jobs, where SIGKILL would leave them running.
    pub fn spawn(command: Command, on_our_death: Signal) -> Result<Self> {
        Self::spawn_reading(command, Stdio::null(), on_our_death)
    }

    /// As [`Group::spawn`], with a standard input of the caller's choice.
    ///
    /// An open file that holds a flock(2) is a good one: the lock then lasts as long as the child does, even where
    /// the harness was killed and the child needs a moment to follow.
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

    /// Its streams, where they were piped.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Process id of the leader, which is the group's too.
    pub fn id(&self) -> Pid {
        self.leader
    }

    /// Waits for the leader to end. Safe to cancel.
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
        // The leader may be gone and a straggler of its group alive.
        self.signal(Signal::SIGKILL);
        match ended {
            Ok(status) => status,
            Err(_) => self.wait().await,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::SIGKILL);
        }
    }
}

/// Has `command` run as `SCHED_BATCH` (sched(7)): who wakes up does not take the processor from it.
///
/// Of a guest's virtual CPUs that mostly hits one that holds a spinlock, for which the others then spin: with as many
/// guests as cores, under TCG, a fifth of all CPU time. Where the kernel refuses, it runs as it would have.
#[expect(unsafe_code, reason = "pre_exec is the only way to set the policy before the threads start")]
pub fn run_in_batches(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; sched_setscheduler is a plain system call.
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
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl, getppid and _exit are.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(signal)?;
            // The parent may have died before prctl took effect; then nobody would send the signal.
            if nix::unistd::getppid() != parent {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}

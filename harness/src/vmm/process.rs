//! A QEMU process. It starts with its sockets connected, it is watched until it ends, and it does
//! not outlive the harness.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use command_fds::CommandFdExt;
use command_fds::FdMapping;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Identity, Inherited, core};
use crate::Result;
use crate::capped::Capped;
use crate::process::{ProcessGroup, run_in_batches};

fn mapping(file: Inherited, fd: OwnedFd) -> FdMapping {
    FdMapping { parent_fd: fd, child_fd: file.number() }
}

/// How QEMU ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that killed it, such as `SIGABRT`.
    pub signal: Option<String>,
    /// The place of its core dump, if one was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<String>,
}

impl Ended {
    /// Whether it exited with status 0: it was asked to quit, or the guest shut down.
    pub fn well(&self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.signal, self.code) {
            (Some(signal), _) => {
                write!(f, "QEMU was killed by {signal}")?;
                self.core.iter().try_for_each(|core| write!(f, " (core: {core})"))
            }
            (None, Some(code)) => write!(f, "QEMU exited with status {code}"),
            (None, None) => f.write_str("QEMU ended, and its exit status could not be read"),
        }
    }
}

/// The connected sockets of a QEMU.
#[derive(Debug)]
pub struct Streams {
    /// The monitor.
    pub qmp: UnixStream,
    /// The serial console.
    pub serial: UnixStream,
    /// Requests to the agent.
    pub agent: UnixStream,
    /// Kernel records.
    pub kmsg: UnixStream,
    /// The gdbstub, if QEMU has one.
    pub gdb: Option<UnixStream>,
}

/// A QEMU process. Dropping it kills the process group; a task reaps it.
#[derive(Debug)]
pub struct QemuProcess {
    pid: Pid,
    ended: watch::Receiver<Option<Ended>>,
    kill: CancellationToken,
}

impl Drop for QemuProcess {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl QemuProcess {
    /// Starts `program` with `arguments`. QEMU inherits `files` and its sockets, and the gdbstub's
    /// socket is one of them if `gdb` is set. Its standard error goes to the file `stderr` up to a
    /// limit, because a guest can make it long.
    ///
    /// A missing program is a user error. Any other failure is the host's. A QEMU that rejects its
    /// arguments ends, which [`QemuProcess::ended`] reports.
    pub fn start(
        program: &Path,
        arguments: &[String],
        files: Vec<(Inherited, OwnedFd)>,
        gdb: bool,
        identity: Identity,
        stderr: &Path,
    ) -> Result<(Self, Streams)> {
        let mut mappings: Vec<FdMapping> = files.into_iter().map(|(file, fd)| mapping(file, fd)).collect();
        let mut connect = |file| -> Result<UnixStream> {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            mappings.push(mapping(file, theirs.into()));
            Ok(UnixStream::from_std(ours)?)
        };
        let streams = Streams {
            qmp: connect(Inherited::Qmp)?,
            serial: connect(Inherited::Serial)?,
            agent: connect(Inherited::Agent)?,
            kmsg: connect(Inherited::Kmsg)?,
            gdb: gdb.then(|| connect(Inherited::Gdb)).transpose()?,
        };
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
        let kept = Capped::over(fs_err::File::create(stderr)?);
        command.fd_mappings(mappings).map_err(crate::Error::infrastructure)?;
        identity.apply(&mut command);
        run_in_batches(&mut command);
        // The call consumes the command, and with it our copies of QEMU's ends of the sockets. So
        // the streams end when QEMU ends.
        let group = ProcessGroup::spawn(command, Signal::SIGKILL)?;
        Ok((Self::watch(group, kept), streams))
    }

    fn watch(mut group: ProcessGroup, mut kept: Capped) -> Self {
        let (tell, ended) = watch::channel(None);
        let kill = CancellationToken::new();
        let asked = kill.clone();
        let pid = group.id();
        let stderr = group.child().stderr.take();
        let said = tokio::spawn(async move {
            let Some(mut stderr) = stderr else { return };
            let mut some = [0; 4096];
            // A pipe that cannot be read has no more output. A full disk is reported by the trial's
            // other files. Reading goes on then, because a full pipe would block QEMU.
            while let Ok(length @ 1..) = stderr.read(&mut some).await {
                let _ = kept.append(&some[..length]).await;
            }
            let _ = kept.finish().await;
        });
        tokio::spawn(async move {
            let status = tokio::select! {
                status = group.wait() => status,
                () = asked.cancelled() => {
                    group.signal(Signal::SIGKILL);
                    group.wait().await
                }
            };
            let signal = |status: &std::process::ExitStatus| {
                status.signal().map(|n| Signal::try_from(n).map_or_else(|_| n.to_string(), |s| s.to_string()))
            };
            let ended = match status {
                Ok(status) => Ended {
                    code: status.code(),
                    signal: signal(&status),
                    core: status.core_dumped().then(|| core::place(pid)),
                },
                Err(_) => Ended { code: None, signal: None, core: None },
            };
            // The file of standard error is complete before the end of QEMU is announced.
            let _ = said.await;
            tell.send_replace(Some(ended));
        });
        Self { pid, ended, kill }
    }

    /// The part of its memory that the host has swapped out, in KiB (proc(5), `VmSwap`). Memory
    /// that a guest has written to is private to the process, so it is included. `None` if the
    /// process has ended.
    pub fn swapped_kib(&self) -> Option<u64> {
        swapped_kib(&fs_err::read_to_string(format!("/proc/{}/status", self.pid)).ok()?)
    }

    /// Waits until it has ended. Safe to cancel, and to call again.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let lost = Ended { code: None, signal: None, core: None };
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => (*ended).clone().unwrap_or(lost),
            // The runtime is shutting down, and the process group ended with the watcher.
            Err(_) => lost,
        }
    }

    /// Kills it and waits until it is reaped.
    pub async fn kill(&self) -> Ended {
        self.kill.cancel();
        self.ended().await
    }
}

fn swapped_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmSwap:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::swapped_kib;

    #[test]
    fn what_was_swapped_out_is_read() {
        assert_eq!(swapped_kib("VmLib:\t   1 kB\nVmSwap:\t    1234 kB\nThreads:\t1\n"), Some(1234));
        assert_eq!(swapped_kib("VmLib:\t   1 kB\n"), None);
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(swapped_kib(&own).is_some());
    }
}

//! A running QEMU: started with its sockets connected, watched until it ends, never left behind.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Channels, PrivateFolder};
use crate::process::Group;
use crate::{Error, Result};

/// How QEMU ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its exit code, where it exited.
    pub code: Option<i32>,
    /// The signal that killed it, such as `SIGABRT`.
    pub signal: Option<String>,
}

impl Ended {
    /// It exited by itself with success: asked to quit, or the guest shut down.
    pub fn well(&self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.signal, self.code) {
            (Some(signal), _) => write!(f, "QEMU was killed by {signal}"),
            (None, Some(code)) => write!(f, "QEMU exited with status {code}"),
            (None, None) => f.write_str("QEMU ended in a way that its parent could not read"),
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
}

/// A QEMU process. Dropping it kills the process group; a task reaps it.
#[derive(Debug)]
pub struct Machine {
    ended: watch::Receiver<Option<Ended>>,
    kill: CancellationToken,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl Machine {
    /// Starts `program` with `arguments` and waits until it has connected to all of `channels`.
    ///
    /// Its standard error goes to the file `stderr`. An error is infrastructure's, with the last of what it wrote.
    pub async fn start(
        program: &Path,
        arguments: &[String],
        channels: &Channels,
        private: &PrivateFolder,
        stderr: &Path,
    ) -> Result<(Self, Streams)> {
        let listen = |path: &Path| -> Result<UnixListener> {
            let listener = UnixListener::bind(path).map_err(|error| {
                Error::infrastructure(format!("cannot listen on {}: {error}", path.display()))
            })?;
            private.share(path)?;
            Ok(listener)
        };
        let listeners =
            [&channels.qmp, &channels.serial, &channels.agent, &channels.kmsg].map(|path| listen(path));
        let [qmp, serial, agent, kmsg] = listeners;
        let (qmp, serial, agent, kmsg) = (qmp?, serial?, agent?, kmsg?);

        let mut command = Command::new(program);
        command.args(arguments).stdout(std::process::Stdio::null());
        command.stderr(fs_err::File::create(stderr)?.into_parts().0);
        private.identity().apply(&mut command);
        let group = Group::spawn(command, Signal::SIGKILL)?;
        let machine = Self::watch(group);

        let connect = async {
            let accept = async |listener: UnixListener| listener.accept().await.map(|(stream, _)| stream);
            // In the order of the command line.
            Ok::<_, std::io::Error>(Streams {
                qmp: accept(qmp).await?,
                serial: accept(serial).await?,
                agent: accept(agent).await?,
                kmsg: accept(kmsg).await?,
            })
        };
        tokio::select! {
            streams = connect => Ok((machine, streams?)),
            ended = machine.ended() => {
                let said = fs_err::read(stderr).unwrap_or_default();
                let said = String::from_utf8_lossy(&said).into_owned();
                Err(Error::infrastructure(format!("{ended} before it was ready")).detail(said))
            }
        }
    }

    fn watch(mut group: Group) -> Self {
        let (tell, ended) = watch::channel(None);
        let kill = CancellationToken::new();
        let asked = kill.clone();
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
                Ok(status) => Ended { code: status.code(), signal: signal(&status) },
                Err(_) => Ended { code: None, signal: None },
            };
            tell.send_replace(Some(ended));
        });
        Self { ended, kill }
    }

    /// Waits until it has ended. Safe to cancel, and to call again.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let lost = Ended { code: None, signal: None };
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => (*ended).clone().unwrap_or(lost),
            // The runtime is shutting down; the process group died with the watcher.
            Err(_) => lost,
        }
    }

    /// Kills it and waits until it is reaped.
    pub async fn kill(&self) -> Ended {
        self.kill.cancel();
        self.ended().await
    }
}

//! Runs make(1) in its own process group, with a controlled environment.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::toolchain::Variable;
use crate::Result;
use crate::process::ProcessGroup;

/// The variables of the user's environment that make receives. MAKEFLAGS is not among them, because
/// the harness may itself be run by a make with a jobserver, whose descriptors are closed here.
/// ARCH, CC and KCFLAGS are not among them, because they are not part of the kernel's id.
const KEPT: [&str; 6] = ["PATH", "HOME", "TMPDIR", "CCACHE_DIR", "LD_LIBRARY_PATH", "USER"];

/// Variables that give every build of both sides the same banner
/// (Documentation/kbuild/reproducible-builds.rst).
const FIXED: [(&str, &str); 6] = [
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "hotplug"),
    ("KBUILD_BUILD_HOST", "hotplug"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// The folders and options of a make invocation.
#[derive(Debug)]
pub(crate) struct Make<'a> {
    /// The source tree.
    pub(crate) source: &'a Path,
    /// The object folder. `None` means that make builds in the source itself.
    pub(crate) objects: Option<&'a Path>,
    /// The user's variables.
    pub(crate) variables: &'a [Variable],
    /// The tree's lock, which make inherits and holds until it ends.
    pub(crate) lock: &'a File,
    /// Number of parallel jobs.
    pub(crate) jobs: usize,
}

/// How make ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// make ended by itself.
    Finished(ExitStatus),
    /// make was stopped because the run was cancelled.
    Cancelled {
        /// Whether make ended on SIGTERM, after removing its partial targets.
        orderly: bool,
    },
}

impl Make<'_> {
    /// Makes `targets`. Each line of output is written to `log` and passed to `on_line`.
    pub(crate) async fn run(
        &self,
        targets: &[&str],
        log: &mut File,
        mut on_line: impl FnMut(&str),
        cancel: &CancellationToken,
    ) -> Result<Ended> {
        let mut command = Command::new("make");
        command.env_clear().envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(FIXED).env("GIT_CEILING_DIRECTORIES", self.source.parent().unwrap_or(self.source));
        command.arg("-C").arg(self.source).arg(format!("-j{}", self.jobs));
        command.args(self.objects.map(|objects| format!("O={}", objects.display()))).args(targets);
        command.args(self.variables.iter().map(Variable::to_string));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());

        let mut group = ProcessGroup::spawn_reading(command, self.lock.try_clone()?, Signal::SIGTERM)?;
        let (send, mut lines) = mpsc::channel(256);
        let out = group.child().stdout.take().map(|stream| tokio::spawn(read_lines(stream, send.clone())));
        let err = group.child().stderr.take().map(|stream| tokio::spawn(read_lines(stream, send)));
        loop {
            tokio::select! {
                () = cancel.cancelled() => {
                    let status = group.stop().await?;
                    out.iter().chain(&err).for_each(tokio::task::JoinHandle::abort);
                    return Ok(Ended::Cancelled { orderly: status.signal() != Some(Signal::SIGKILL as i32) });
                }
                line = lines.recv() => match line {
                    Some(line) => {
                        log.write_all(&line)?;
                        on_line(String::from_utf8_lossy(&line).trim_end());
                    }
                    None => break,
                }
            }
        }
        Ok(Ended::Finished(group.wait().await?))
    }
}

async fn read_lines(stream: impl AsyncRead + Unpin, send: mpsc::Sender<Vec<u8>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match stream.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) if send.send(line).await.is_err() => return,
            Ok(_) => {}
        }
    }
}

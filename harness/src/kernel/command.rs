//! Runs helper programs and captures their output: git, tar, gcc. Each is stopped when the run is
//! cancelled.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::process::ProcessGroup;
use crate::{Error, Result};

/// A command and its standard input.
pub(crate) struct Tool {
    command: Command,
    stdin: Option<File>,
}

/// The output of a program, and whether it succeeded.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) good: bool,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Said {
    /// The standard output, or the error that `wrong` makes of the standard error.
    pub(crate) fn ok(self, wrong: impl FnOnce(&str) -> Error) -> Result<Vec<u8>> {
        if self.good {
            return Ok(self.stdout);
        }
        // tar goes on, and says it of each of 80,000 files.
        if let Some(first) = self.stderr.lines().find(|line| line.contains("No space left on device")) {
            return Err(disk_full(first));
        }
        Err(wrong(self.stderr.trim()))
    }
}

pub(crate) fn disk_full(said: impl std::fmt::Display) -> Error {
    Error::infrastructure("the disk is full").detail(said).help(
        "free some space (a source and its objects take 2 GB), run `hotplug kernel prune`, or set --cache DIR",
    )
}

/// `git`, run in `folder`. It ignores the user's configuration and any repository that contains
/// `folder`.
pub(crate) fn git(folder: &Path) -> Tool {
    let mut tool = Tool::new("git", folder);
    let parent = folder.parent().unwrap_or(folder);
    tool.command
        .env("GIT_CEILING_DIRECTORIES", parent)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_OPTIONAL_LOCKS", "0");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"] {
        tool.command.env_remove(name);
    }
    tool
}

impl Tool {
    pub(crate) fn new(program: &str, folder: &Path) -> Self {
        let mut command = Command::new(program);
        command.current_dir(folder).env("LC_ALL", "C");
        Self { command, stdin: None }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(file);
        self
    }
}

/// Runs `tool` until it ends or the run is cancelled.
pub(crate) async fn capture(tool: Tool, cancel: &CancellationToken) -> Result<Said> {
    let Tool { mut command, stdin } = tool;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let stdin = stdin.map_or_else(Stdio::null, Stdio::from);
    let mut group = ProcessGroup::spawn_reading(command, stdin, Signal::SIGKILL)?;
    let stdout = drain(group.child().stdout.take());
    let stderr = drain(group.child().stderr.take());
    let both = async { tokio::try_join!(stdout, stderr) };
    tokio::select! {
        () = cancel.cancelled() => {
            group.stop().await?;
            Err(Error::interrupted())
        }
        said = both => {
            let (stdout, stderr) = said?;
            let status = group.wait().await?;
            let stderr = String::from_utf8_lossy(&stderr).into_owned();
            Ok(Said { good: status.success(), stdout, stderr })
        }
    }
}

async fn drain(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

//! Boots one guest of the accelerator probe: starts QEMU, reads its serial port, and kills it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use super::payload::{self, Stage};
use super::{Accelerator, Qemu};
use crate::arch::Architecture;
use crate::process::ProcessGroup;
use crate::{Error, Result};

/// The first line of the kernel log in every version.
const KERNEL_BANNER: &[u8] = b"Linux version ";

/// The payload of the probe's guest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Boot<'a> {
    /// The boot sector of [`payload`].
    Sector,
    /// A bzImage with a serial console.
    Kernel(&'a Path),
}

/// The outcome of booting one guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProbeOutcome {
    /// The guest answered: the boot sector completed its work, or the kernel printed its first
    /// line.
    Answered {
        /// Time from QEMU's exec to the answer.
        after: Duration,
        /// The part of `after` that the boot sector worked in long mode. Zero for a kernel.
        work: Duration,
    },
    /// The guest did not answer within the limit.
    Silent {
        /// The last stage that the boot sector reached.
        reached: Option<Stage>,
        /// The limit.
        limit: Duration,
    },
    /// QEMU ended before the guest answered.
    Ended {
        /// The end of its standard error, or its exit status.
        how: String,
    },
}

/// Boots one guest and waits for its answer, QEMU's exit, the limit, or `cancel`.
pub(super) async fn boot(
    qemu: &Qemu,
    accelerator: Accelerator,
    what: Boot<'_>,
    limit: Duration,
    cancel: &CancellationToken,
) -> Result<ProbeOutcome> {
    // The files have no name, so nothing is left behind, however this process ends.
    let disk = boot_disk()?;
    let mut stderr = tempfile::tempfile()?;
    let mut command = Command::new(&qemu.path);
    command.args(arguments(accelerator, what, &disk)).stdout(Stdio::piped()).stderr(stderr.try_clone()?);

    let mut group = ProcessGroup::spawn(command, Signal::SIGKILL)?;
    let stdout = group.child().stdout.take();
    let mut serial = stdout.ok_or_else(|| Error::infrastructure("QEMU has no standard output"))?;
    let mut heard = Heard::new(what);
    let heard_in_time = tokio::select! {
        () = cancel.cancelled() => return Err(Error::interrupted()),
        answered = tokio::time::timeout(limit, heard.listen(&mut serial)) => answered,
    };
    let outcome = match heard_in_time {
        Ok(Some(after)) => ProbeOutcome::Answered { after, work: heard.work() },
        Ok(None) => ProbeOutcome::Ended { how: last_words(&mut group, &mut stderr).await? },
        Err(_) => ProbeOutcome::Silent { reached: heard.reached.map(|(stage, _)| stage), limit },
    };
    group.signal(Signal::SIGKILL);
    group.wait().await?;
    Ok(outcome)
}

/// QEMU's arguments. The CPU model is that of the trials, because KVM may fail to set its features.
fn arguments(accelerator: Accelerator, what: Boot<'_>, disk: &File) -> Vec<String> {
    let fixed =
        "-cpu max -machine q35 -m 256 -nodefaults -no-user-config -no-reboot -display none -serial stdio";
    let mut arguments = vec!["-accel".to_owned(), accelerator.argument().to_owned()];
    arguments.extend(fixed.split(' ').map(str::to_owned));
    match what {
        Boot::Sector => {
            // QEMU opens the file through this process's descriptor, because the file has no name.
            let path = format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd());
            arguments.extend(["-drive".to_owned(), format!("file={path},format=raw,if=ide")]);
        }
        Boot::Kernel(image) => {
            arguments.extend(["-kernel".to_owned(), image.display().to_string(), "-append".to_owned()]);
            let console = Architecture::X86.table().console;
            arguments.push(format!("console={console} earlyprintk=serial,{console},115200 panic=-1"));
        }
    }
    arguments
}

fn boot_disk() -> Result<File> {
    let mut disk = tempfile::tempfile()?;
    disk.write_all(&payload::boot_sector())?;
    disk.set_len(payload::DISK_SIZE)?;
    Ok(disk)
}

/// The reason why QEMU ended by itself.
async fn last_words(group: &mut ProcessGroup, stderr: &mut File) -> Result<String> {
    let status = group.wait().await?;
    stderr.seek(SeekFrom::Start(0))?;
    let mut text = Vec::new();
    stderr.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // Lines with "warning:" name features that the host lacks. A QEMU that works prints some too.
    let lines: Vec<_> = text.lines().filter(|line| !line.contains(": warning: ")).collect();
    let last = lines[lines.len().saturating_sub(5)..].join("\n");
    Ok(if last.is_empty() {
        status.to_string()
    } else {
        last.replace(&format!("{}: ", Architecture::X86.table().qemu), "").replace("error: ", "")
    })
}

/// The output of the serial port.
struct Heard<'a> {
    what: Boot<'a>,
    started: Instant,
    bytes: Vec<u8>,
    reached: Option<(Stage, Instant)>,
    long_mode: Option<Instant>,
}

impl<'a> Heard<'a> {
    fn new(what: Boot<'a>) -> Self {
        Self { what, started: Instant::now(), bytes: Vec::new(), reached: None, long_mode: None }
    }

    /// Reads the serial port until the answer is complete. Returns the time since the start, or
    /// `None` if the stream ended before the answer.
    async fn listen(&mut self, serial: &mut ChildStdout) -> Option<Duration> {
        let mut buffer = [0; 4096];
        loop {
            let count = serial.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return None;
            }
            if self.take(&buffer[..count], Instant::now()) {
                return Some(self.started.elapsed());
            }
        }
    }

    /// Processes bytes from the serial port. Returns whether they complete the answer.
    fn take(&mut self, bytes: &[u8], now: Instant) -> bool {
        match self.what {
            Boot::Sector => {
                for stage in bytes.iter().filter_map(|byte| Stage::of(*byte)) {
                    if self.reached.is_none_or(|(reached, _)| stage > reached) {
                        self.reached = Some((stage, now));
                    }
                    if stage == Stage::LongMode {
                        self.long_mode = Some(now);
                    }
                }
                matches!(self.reached, Some((Stage::Done, _)))
            }
            Boot::Kernel(_) => {
                self.bytes.extend_from_slice(bytes);
                memchr::memmem::find(&self.bytes, KERNEL_BANNER).is_some()
            }
        }
    }

    fn work(&self) -> Duration {
        match (self.long_mode, self.reached) {
            (Some(from), Some((Stage::Done, to))) => to - from,
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A shell script in place of QEMU.
    fn script(folder: &Path, text: &str) -> Qemu {
        let path = folder.join("qemu");
        fs_err::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Qemu { path, version: crate::host::FOR_CPU_REMOVAL }
    }

    async fn tcg(qemu: &Qemu, limit: Duration) -> Result<ProbeOutcome> {
        boot(qemu, Accelerator::Tcg, Boot::Sector, limit, &CancellationToken::new()).await
    }

    #[test]
    fn the_work_of_a_boot_sector_is_timed_from_long_mode_on() {
        let mut heard = Heard::new(Boot::Sector);
        let begin = Instant::now();
        assert!(!heard.take(b"RPL", begin));
        assert!(heard.take(b"D", begin + Duration::from_millis(200)));
        assert_eq!(heard.work(), Duration::from_millis(200));
    }

    #[test]
    fn a_kernel_is_heard_though_its_banner_comes_in_pieces() {
        let mut heard = Heard::new(Boot::Kernel(Path::new("bzImage")));
        assert!(!heard.take(b"early console in setup code\r\n[    0.000000] Linux ver", Instant::now()));
        assert!(heard.take(b"sion 6.1.192", Instant::now()));
    }

    #[tokio::test]
    async fn silence_is_cut_short() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = script(folder.path(), "printf RPL; exec sleep 1000");
        let limit = Duration::from_millis(500);
        let outcome = tcg(&qemu, limit).await.unwrap();
        assert_eq!(outcome, ProbeOutcome::Silent { reached: Some(Stage::LongMode), limit });
    }

    #[tokio::test]
    async fn a_qemu_that_ends_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(60);
        let qemu = script(folder.path(), "echo 'qemu-system-x86_64: no such accelerator' >&2; exit 1");
        assert_eq!(
            tcg(&qemu, limit).await.unwrap(),
            ProbeOutcome::Ended { how: "no such accelerator".into() }
        );
        let qemu = script(folder.path(), "kill -9 $$");
        assert_eq!(
            tcg(&qemu, limit).await.unwrap(),
            ProbeOutcome::Ended { how: "signal: 9 (SIGKILL)".into() }
        );
    }

    #[tokio::test]
    async fn a_missing_qemu_is_the_users_to_mend() {
        let qemu = Qemu { path: "/nonexistent/qemu".into(), version: crate::host::FOR_CPU_REMOVAL };
        let error = tcg(&qemu, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.exit_status(), 2);
    }

    #[tokio::test]
    async fn cancelling_ends_the_guest() {
        let folder = tempfile::tempdir().unwrap();
        let qemu = script(folder.path(), "exec sleep 1000");
        let cancel = CancellationToken::new();
        cancel.cancel();
        let outcome = boot(&qemu, Accelerator::Tcg, Boot::Sector, Duration::from_secs(60), &cancel).await;
        assert_eq!(outcome.unwrap_err().exit_status(), 130);
    }
}

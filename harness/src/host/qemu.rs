//! The QEMU binary on this machine: its path and version.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::Signal;
use serde::{Serialize, Serializer};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{Accelerator, System};
use crate::arch::{Arch, Architecture};
use crate::limits::limits;
use crate::process::ProcessGroup;
use crate::{Error, Result};

/// Environment variable with the path of another QEMU binary.
pub const OVERRIDE: &str = "HOTPLUG_QEMU";

/// A version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number, which increases once a year.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub micro: u32,
}

/// The oldest version whose TCG works after the removal of CPUs. QEMU 7.2's APIC emulation loses
/// interrupts to CPUs after the removed one, and corrupts its heap when the next CPU is added.
/// 10.0.2 works after dozens of removals in any order.
pub const FOR_CPU_REMOVAL: Version = Version { major: 9, minor: 0, micro: 0 };

/// The first QEMU known to run all that the harness does with POWER guests. QEMU 10.0.2 aborted in 11
/// of 15 trials in which memory changed after the removal of a CPU ("`qemu_mutex_lock_impl`:
/// Assertion `mutex->initialized` failed"), and the CPUs of its restored guests did not wake in 12 of
/// 12. With 11.1.3, neither happened in 8 trials and 2.
const FOR_ALL_OF_POWER: Version = Version { major: 11, minor: 0, micro: 0 };

impl Version {
    /// Parses the first line of `--version`: "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)".
    pub fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.lines().next()?.split_once("version ")?;
        let number = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = number.split('.').map(str::parse);
        let major = parts.next()?.ok()?;
        let mut next = || parts.next().and_then(Result::ok).unwrap_or(0);
        Some(Self { major, minor: next(), micro: next() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Serializes the version as text: "10.0.2".
impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An installed QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Qemu {
    /// The path of the binary.
    pub path: PathBuf,
    /// The version that the binary prints.
    pub version: Version,
}

impl Qemu {
    /// Checks that this QEMU has the devices, which are given as for `-device`. Fails with a user
    /// error that names one that it lacks. Each device is looked up once per process, which takes a
    /// tenth of a second.
    pub fn check_devices(&self, devices: &[String]) -> Result<()> {
        static FOUND: Mutex<BTreeSet<(PathBuf, String)>> = Mutex::new(BTreeSet::new());
        for device in devices {
            let name = device.split(',').next().unwrap_or_default();
            let device = (self.path.clone(), name.to_owned());
            let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
            if found.contains(&device) {
                continue;
            }
            let help = std::process::Command::new(&self.path)
                .args(["-device", &format!("{name},help")])
                .stdin(Stdio::null())
                .output()
                .map_err(Error::infrastructure)?;
            if !help.status.success() {
                let what = format!("QEMU {} has no device `{name}`", self.version);
                return Err(Error::user(what)
                    .help(format!("{} -device help lists those that it has", self.path.display())));
            }
            found.insert(device);
        }
        Ok(())
    }

    /// The name of its binary.
    pub(crate) fn program(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Finds the QEMU that `HOTPLUG_QEMU` names, or else the first for `arch` on the search path.
    /// Returns `None` if there is none.
    ///
    /// Fails with a user error if `HOTPLUG_QEMU` does not name a QEMU, and with an infrastructure
    /// error if the binary on the search path does not print a version.
    pub async fn find(system: &System, arch: &Arch) -> Result<Option<Self>> {
        match std::env::var_os(OVERRIDE).filter(|value| !value.is_empty()) {
            Some(path) => {
                let path = PathBuf::from(path);
                let version = version_of(&path).await;
                let version =
                    version.map_err(|why| Error::user(format!("{OVERRIDE}={}: {why}", path.display())))?;
                Ok(Some(Self { path, version }))
            }
            None => match system.program(arch.qemu) {
                Some(path) => {
                    let version = version_of(&path).await;
                    let version =
                        version.map_err(|why| Error::infrastructure(format!("{}: {why}", path.display())))?;
                    Ok(Some(Self { path, version }))
                }
                None => Ok(None),
            },
        }
    }

    /// Whether it runs all that the harness does with guests of `arch`.
    fn has_all_of(&self, arch: Architecture) -> bool {
        arch != Architecture::Power || self.version >= FOR_ALL_OF_POWER
    }

    /// Checks that memory may come and go in a guest of `arch` after one of its CPUs was removed.
    /// Fails with a user error if this QEMU would abort.
    pub fn check_memory_after_cpu_removal(&self, arch: Architecture) -> Result<()> {
        if self.has_all_of(arch) {
            return Ok(());
        }
        let newer = FOR_ALL_OF_POWER.major;
        Err(Error::user(format!(
            "QEMU {} aborts when the memory of a {arch} guest changes after a CPU was removed: the scenario needs QEMU {newer}",
            self.version
        ))
        .help(format!("set {OVERRIDE} to a newer {}, or remove CPUs in a scenario of their own", self.program())))
    }

    /// Why guests of `arch` cannot be restored from a checkpoint, if they cannot.
    pub(crate) fn cannot_restore(&self, arch: Architecture) -> Option<String> {
        (!self.has_all_of(arch))
            .then(|| format!("the CPUs of a restored {arch} guest do not wake under QEMU {}", self.version))
    }

    /// Checks that CPUs may be removed from the guests of this QEMU. Fails with a user error if its
    /// TCG would corrupt its own memory.
    pub fn check_cpu_removal(&self, accelerator: Accelerator) -> Result<()> {
        if accelerator == Accelerator::Kvm || self.version >= FOR_CPU_REMOVAL {
            return Ok(());
        }
        Err(Error::user(format!(
            "QEMU {} cannot remove CPUs under TCG: the scenario needs QEMU {} or newer",
            self.version, FOR_CPU_REMOVAL.major
        ))
        .detail(
            "its interrupt controller loses interrupts, or its heap is corrupted, after a CPU was removed",
        )
        .help(format!("hotplug doctor --install, or set {OVERRIDE} to a newer {}", self.program())))
    }
}

/// Runs the binary with `--version`. The error is a fragment that follows the binary's name.
async fn version_of(path: &Path) -> Result<Version, String> {
    let mut command = Command::new(path);
    command.arg("--version").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut group = ProcessGroup::spawn(command, Signal::SIGKILL).map_err(|error| error.to_string())?;
    let mut text = String::new();
    if let Some(stdout) = &mut group.child().stdout {
        let read = tokio::time::timeout(limits().program, stdout.read_to_string(&mut text)).await;
        read.map_err(|_| "does not answer --version".to_owned())?.map_err(|error| error.to_string())?;
    }
    let ended = tokio::time::timeout(limits().program, group.wait()).await;
    ended.map_err(|_| "does not end after --version".to_owned())?.map_err(|error| error.to_string())?;
    Version::parse(&text).ok_or_else(|| "does not print a QEMU version: not a QEMU".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let cases = [
            (
                "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright",
                Some("10.0.2"),
            ),
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", Some("7.2.22")),
            ("QEMU emulator version 10.1.50 (v10.1.0-1234-gabcdef)", Some("10.1.50")),
            ("QEMU emulator version 9.2-rc1", Some("9.2.0")),
            ("bash, version unknown", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Version::parse(text).map(|v| v.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn an_old_qemu_may_not_remove_cpus_under_tcg() {
        let version = Version { major: 7, minor: 2, micro: 22 };
        let qemu = Qemu { path: "/usr/bin/qemu-system-x86_64".into(), version };
        assert!(qemu.check_cpu_removal(Accelerator::Kvm).is_ok());
        insta::assert_snapshot!(qemu.check_cpu_removal(Accelerator::Tcg).unwrap_err(), @r#"
        QEMU 7.2.22 cannot remove CPUs under TCG: the scenario needs QEMU 9 or newer
            its interrupt controller loses interrupts, or its heap is corrupted, after a CPU was removed
          help: hotplug doctor --install, or set HOTPLUG_QEMU to a newer qemu-system-x86_64
        "#);
    }

    #[tokio::test]
    async fn what_is_no_qemu_is_told_apart() {
        assert_eq!(
            version_of(Path::new("/bin/true")).await.unwrap_err(),
            "does not print a QEMU version: not a QEMU"
        );
        assert!(version_of(Path::new("/nonexistent")).await.unwrap_err().contains("not installed"));
    }
}

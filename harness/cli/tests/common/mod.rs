//! Helpers of the tests of the whole binary: a folder for one run, and checks for what a run leaves
//! behind.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// The default scenario, as shipped.
pub(crate) const SCENARIO: &str = include_str!("../../../../scenarios/dimm-and-cpu.toml");

/// A file or folder of `guest-images/patches`.
pub(crate) fn patch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-images/patches").join(name)
}

/// The kernel source that `hotplug` takes when none is named: what `hotplug doctor` installs.
pub(crate) fn default_source() -> String {
    hotplug::kernel::Source::Package { version: None }.with_version().unwrap().to_string()
}

/// The arguments for one scenario. Without them, a comparison runs the portfolio.
pub(crate) const DEFAULT: [&str; 2] = ["--scenario", "dimm-and-cpu"];

/// One run of the binary, in a folder of its own. Kernels come from the user's cache, and missing
/// ones are built.
pub(crate) struct Run {
    home: TempDir,
}

impl Run {
    pub(crate) fn new() -> Self {
        let home = tempfile::Builder::new().prefix("ht").tempdir().unwrap();
        // QEMU may run as another user, which must be able to enter this folder.
        let mode = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(home.path(), mode.clone()).unwrap();
        std::fs::create_dir(home.path().join("tmp")).unwrap();
        std::fs::set_permissions(home.path().join("tmp"), mode).unwrap();
        Self { home }
    }

    /// `hotplug compare` with results and temporary files below this run's folder. Control,
    /// coverage, reach and latency are off, because they have tests of their own.
    pub(crate) fn compare(&self) -> assert_cmd::Command {
        let mut command = self.compare_with_control();
        command.args(["--no-control", "--no-coverage", "--no-reach", "--no-latency"]);
        command
    }

    /// The same, in one scenario.
    pub(crate) fn compare_default(&self) -> assert_cmd::Command {
        let mut command = self.compare();
        command.args(DEFAULT);
        command
    }

    /// The same with control, coverage, reach and latency.
    ///
    /// One guest runs at a time. There are as many concurrent tests as processors, and a starved
    /// guest reports stalls.
    pub(crate) fn compare_with_control(&self) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::from_std(Command::new(env!("CARGO_BIN_EXE_hotplug")));
        command.arg("compare").arg("--results").arg(self.results()).env("TMPDIR", self.tmp());
        // Also patches that change no code are tried out. The result does not depend on earlier runs.
        command.args(["--workers", "1", "--anyway", "--no-atlas"]);
        command
    }

    /// Starts it and returns at once.
    pub(crate) fn spawn(&self, command: &assert_cmd::Command) -> Child {
        let mut plain = Command::new(command.get_program());
        plain.args(command.get_args()).env("TMPDIR", self.tmp());
        plain.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs it with the results folder on a disk of `size`, a tmpfs in a mount namespace of its
    /// own.
    ///
    /// Mounting needs root. Another user gets root in a user namespace, and a second namespace maps
    /// the user back.
    pub(crate) fn on_small_disk(&self, command: &assert_cmd::Command, size: &str) -> std::process::Output {
        std::fs::create_dir(self.results()).unwrap();
        let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let mount =
            format!("mount -t tmpfs -o size={size},mode=0755,uid={user},gid={group} tmpfs \"$0\" && exec");
        let mut unshare = Command::new("unshare");
        let script = if user.is_root() {
            unshare.arg("--mount");
            format!("{mount} \"$@\"")
        } else {
            unshare.args(["--map-root-user", "--mount"]);
            let mount = mount.replace(&format!("uid={user},gid={group}"), "uid=0,gid=0");
            format!("{mount} unshare --user --map-user={user} --map-group={group} \"$@\"")
        };
        unshare.args(["sh", "-c", &script]).arg(self.results());
        unshare.arg(command.get_program()).args(command.get_args()).env("TMPDIR", self.tmp());
        unshare.output().unwrap()
    }

    pub(crate) fn results(&self) -> PathBuf {
        self.home.path().join("results")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.home.path().join("tmp")
    }

    /// The only run's folder.
    pub(crate) fn folder(&self) -> PathBuf {
        // The history is a file beside it.
        let entries = std::fs::read_dir(self.results()).unwrap().map(|e| e.unwrap().path());
        let all: Vec<_> = entries.filter(|path| path.is_dir()).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        let path = self.folder().join(name);
        let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_slice(&text).unwrap()
    }

    pub(crate) fn result(&self) -> Value {
        self.json("result.json")
    }

    pub(crate) fn trial(&self, name: &str) -> Value {
        self.json(&format!("trials/{name}/trial.json"))
    }

    /// A file with the default scenario after `change`.
    pub(crate) fn scenario(&self, change: impl Fn(&str) -> String) -> PathBuf {
        let text = change(SCENARIO);
        assert_ne!(text, SCENARIO, "the change found nothing to change");
        let path = self.home.path().join("scenario.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A program that prints the version of Debian 12's QEMU.
    pub(crate) fn old_qemu(&self) -> PathBuf {
        self.qemu_but("--version", "echo 'QEMU emulator version 7.2.0 (Debian 1:7.2)'")
    }

    /// A program that runs `instead` if its arguments have `pattern`, and QEMU otherwise. Both are
    /// parts of a shell script.
    pub(crate) fn qemu_but(&self, pattern: &str, instead: &str) -> PathBuf {
        let path = self.home.path().join("another-qemu");
        let real = "exec qemu-system-x86_64 \"$@\"";
        let text = format!("#!/bin/sh\ncase \"$*\" in {pattern}) {instead};; *) {real};; esac\n");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The QEMUs of this run's trials, found by the run's folder in their environment.
    pub(crate) fn qemus(&self) -> Vec<Pid> {
        let ours = format!("TMPDIR={}", self.tmp().display());
        let mut all = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let file = |name| std::fs::read(entry.path().join(name)).unwrap_or_default();
            let ours = file("environ").split(|byte| *byte == 0).any(|variable| variable == ours.as_bytes());
            if ours && String::from_utf8_lossy(&file("comm")).contains("qemu") {
                all.push(Pid::from_raw(pid));
            }
        }
        all
    }

    /// Waits until a trial's QEMU runs and has printed something.
    pub(crate) fn wait_for_qemu(&self) -> Pid {
        let mut found = None;
        wait_until(Duration::from_secs(900), || {
            let booting = walkdir::WalkDir::new(self.results()).into_iter().flatten().any(|entry| {
                entry.file_name() == "serial.log" && entry.metadata().is_ok_and(|meta| meta.len() > 0)
            });
            found = self.qemus().first().copied();
            booting && found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.qemus(), []);
        let left: Vec<_> = std::fs::read_dir(self.tmp()).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Polls for a condition that no event signals to a test.
pub(crate) fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "waited {} s in vain", limit.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

//! Kernel builds with a real source and a real make: what goes wrong, what is killed, what runs at once.
//!
//! Takes the source that `hotplug doctor` installs: 6.1 on Debian 12, 6.12 on Debian 13. The cache is in the target folder; the first run unpacks the source there. Configs are
//! tinyconfig and little more, which takes about a minute.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for anything but a whole build.
const SOON: Duration = Duration::from_secs(300);

/// One tree: tests that use it take turns.
static TREE: Mutex<()> = Mutex::new(());

struct Bench {
    folder: tempfile::TempDir,
    cache: PathBuf,
    config: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    fn new(config: &str) -> Self {
        let turn = TREE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let fragment = folder.path().join("test.config");
        // No earlier test's kernel has this process's number in its config: everything is built.
        fs_err::write(&fragment, format!("# {}\n{config}", std::process::id())).unwrap();
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-cache");
        let bench = Self { folder, cache, config: fragment, _turn: turn };
        bench.remove("obj");
        bench
    }

    fn remove(&self, name: &str) {
        for tree in fs_err::read_dir(self.cache.join("trees")).into_iter().flatten().flatten() {
            let _ = fs_err::remove_dir_all(tree.path().join(name));
        }
    }

    fn patch(&self, text: &str) -> PathBuf {
        let file = self.folder.path().join("test.patch");
        fs_err::write(&file, text).unwrap();
        file
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
        command.args(["kernel", "build", "--json", "--no-default-config"]);
        command.arg("--config").arg(&self.config).arg("--cache").arg(&self.cache);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn fails(&self, patch: &Path) -> String {
        let Output { status, stdout, stderr } = self.command().arg(patch).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert_eq!(stdout, b"");
        stderr
    }

    /// Starts a build and waits until it compiles.
    fn compiling(&self) -> Child {
        // Else the last build's log would be taken for this one's.
        self.remove("work");
        let mut child = self.command().spawn().unwrap();
        wait_for("compilation to start", || {
            assert_eq!(child.try_wait().unwrap(), None, "the build ended early");
            self.log().lines().filter(|line| line.starts_with("  CC ")).count() > 20
        });
        child
    }

    fn log(&self) -> String {
        let trees = fs_err::read_dir(self.cache.join("trees")).into_iter().flatten().flatten();
        let logs = trees.map(|tree| tree.path().join("work/install/build.log"));
        logs.filter_map(|log| std::fs::read_to_string(log).ok()).collect()
    }

    /// Processes with our cache in their command line or as their working folder.
    fn processes(&self) -> Vec<String> {
        let cache = self.cache.to_str().unwrap();
        let mut found = Vec::new();
        for process in fs_err::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let folder = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
            if line.contains(cache) || folder.starts_with(cache) {
                found.push(line);
            }
        }
        found
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON, "no {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

fn pair(child: Child) -> serde_json::Value {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

#[test]
fn a_missing_patch_and_a_file_that_is_no_kernel_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    fs_err::write(&text, "no kernel").unwrap();
    let run = |args: &[&str]| {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_hotplug"));
        let assert =
            command.args(["kernel", "build", "--cache"]).arg(folder.path()).args(args).assert().code(2);
        String::from_utf8(assert.get_output().stderr.clone()).unwrap()
    };
    let said = run(&["/no/such.patch"]);
    assert!(said.contains("no such patch: /no/such.patch") && said.contains("mend: "), "{said}");
    let text = text.to_str().unwrap();
    let said = run(&["--before-image", text, "--after-image", text]);
    assert!(said.contains("is no x86 kernel image"), "{said}");
    let said = run(&["--source", "linux-source-0.0"]);
    assert!(said.contains("apt-get install linux-source-0.0"), "{said}");
}

#[test]
fn a_hunk_that_does_not_apply_is_shown_before_anything_is_compiled() {
    let bench = Bench::new("CONFIG_64BIT=y\n");
    let said = bench.fails(&bench.patch(
        "--- a/kernel/cpu.c\n+++ b/kernel/cpu.c\n@@ -1,3 +1,3 @@\n /* CPU control.\n- * (C) 1991 Nobody\n\
         + * (C) 1992 Nobody\n  *\n",
    ));
    assert!(said.contains("test.patch does not apply at kernel/cpu.c:1"), "{said}");
    assert!(said.contains("- * (C) 1991 Nobody") && said.contains("this source has there:"), "{said}");
    assert!(said.contains("    2   * (C) 2001, 2002, 2003, 2004 Rusty Russell"), "{said}");
    assert!(!said.contains("compiling"), "{said}");
}

#[test]
fn an_option_that_cannot_be_set_is_named_with_its_reason() {
    let bench = Bench::new("CONFIG_64BIT=y\nCONFIG_NUMA_BALANCING=y\n");
    let Output { status, stderr, .. } = bench.command().output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("test.config:3: CONFIG_NUMA_BALANCING=y became not set"), "{said}");
    assert!(said.contains("init/Kconfig:") && said.contains("SMP=n"), "{said}");
    assert!(!said.contains("compiling"), "{said}");
}

#[test]
fn builds_survive_ctrl_c_sigkill_company_and_compile_errors() {
    let bench = Bench::new("CONFIG_64BIT=y\n");

    let child = bench.compiling();
    send(&child, Signal::SIGINT);
    let said = child.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(130), "{}", String::from_utf8_lossy(&said.stderr));
    wait_for("end of the compilers after Ctrl-C", || bench.processes().is_empty());
    assert!(!bench.log().contains("vmlinux"), "make ran to its end, nobody stopped it");

    let mut child = bench.compiling();
    send(&child, Signal::SIGKILL);
    child.wait().unwrap();
    wait_for("end of make after a SIGKILL of the harness", || bench.processes().is_empty());

    let (one, two) = (bench.command().spawn().unwrap(), bench.command().spawn().unwrap());
    let (one, two) = (pair(one), pair(two));
    assert_eq!(one["before"]["id"], two["before"]["id"]);
    assert_eq!(one["before"]["id"], one["after"]["id"], "no patch: one kernel");
    let built = [&one, &two].map(|pair| pair["before"]["built"] == "cached");
    assert!(built[0] != built[1], "one builds, the other takes it from the cache: {one} {two}");
    let image = PathBuf::from(one["before"]["image"].as_str().unwrap());
    assert!(fs_err::metadata(&image).unwrap().len() > 100_000);

    let context = " /* CPU control.\n  * (C) 2001, 2002, 2003, 2004 Rusty Russell\n  *\n";
    let header = "--- a/kernel/cpu.c\n+++ b/kernel/cpu.c\n@@ -1,3 +1,4 @@\n";
    let said = bench.fails(&bench.patch(&format!("{header}+nonsense;\n{context}")));
    assert!(said.contains("does not compile: kernel/cpu.c:"), "{said}");
    let log = said.split_whitespace().find(|word| word.contains("/failed/")).unwrap();
    assert!(fs_err::read_to_string(log).unwrap().contains("nonsense"));

    // The error left nothing behind: a good patch on the same tree builds, and only what it changes.
    let good = bench.patch(&format!("{header}+/* A comment. */\n{context}"));
    let pair = pair(bench.command().arg(good).spawn().unwrap());
    assert_eq!(pair["before"]["built"], "cached");
    let record = &pair["after"]["record"];
    assert!(record["incremental"] == true && record["compiled"].as_u64().unwrap() < 60, "{record}");
    for side in ["before", "after"] {
        let image = Path::new(pair[side]["image"].as_str().unwrap());
        let _ = fs_err::remove_dir_all(image.parent().unwrap());
    }
}

//! Kernel builds of the toy source with a real make: failed, killed and concurrent builds.
//! Kconfig's reasons for an option need a real source and are in `tests/kernel_source.rs`.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

#[expect(dead_code, reason = "nothing is booted here")]
mod common;
#[path = "common/fake.rs"]
mod fake;
#[path = "common/kept.rs"]
#[expect(dead_code, reason = "only copy() is used here")]
mod kept;
#[path = "common/toy.rs"]
#[expect(dead_code, reason = "nothing is booted here")]
mod world;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use world::Toy;

/// The longest wait for a condition.
const SOON: Duration = Duration::from_secs(60);

struct Bench {
    toy: Toy,
    config: PathBuf,
}

impl Bench {
    fn new(config: &str) -> Self {
        let toy = Toy::new();
        let fragment = toy.path("test.config");
        std::fs::write(&fragment, format!("# A test's.\n{config}")).unwrap();
        Self { toy, config: fragment }
    }

    fn patch(&self, text: &str) -> PathBuf {
        let file = self.toy.path("test.patch");
        std::fs::write(&file, text).unwrap();
        file
    }

    fn command(&self) -> Command {
        let mut command = self.toy.hotplug(&["kernel", "build", "--json", "--no-default-config"]);
        command.arg("--config").arg(&self.config).arg("--source").arg(self.toy.source());
        let mut plain = Command::new(command.get_program());
        plain.args(command.get_args());
        plain.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        plain.stdout(Stdio::piped()).stderr(Stdio::piped());
        plain
    }

    fn fails(&self, patch: &Path) -> String {
        let Output { status, stdout, stderr } = self.command().arg(patch).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert_eq!(stdout, b"");
        stderr
    }

    /// Starts a build and waits until its slow file compiles, which it does until [`Bench::go_on`].
    fn compiling(&self) -> Child {
        // Otherwise the log of the previous build would be taken for the log of this one.
        for log in self.logs() {
            let _ = std::fs::remove_file(log);
        }
        let mut child = self.command().spawn().unwrap();
        wait_for("compilation to start", || {
            assert_eq!(child.try_wait().unwrap(), None, "the build ended early");
            self.log().contains("  CC      kernel/slow.o")
        });
        child
    }

    fn go_on(&self) {
        std::fs::write(self.toy.path("tmp/go"), "").unwrap();
    }

    fn logs(&self) -> Vec<PathBuf> {
        let trees = std::fs::read_dir(self.toy.path("cache/hotplug/trees")).into_iter().flatten().flatten();
        trees.map(|tree| tree.path().join("work/install/build.log")).collect()
    }

    fn log(&self) -> String {
        self.logs().iter().filter_map(|log| std::fs::read_to_string(log).ok()).collect()
    }

    /// Processes with this test's cache in their command line or as their working folder.
    fn processes(&self) -> Vec<String> {
        let cache = self.toy.path("cache");
        let mut found = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let folder = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
            if line.contains(cache.to_str().unwrap()) || folder.starts_with(&cache) {
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

fn pair(output: Output) -> serde_json::Value {
    let Output { status, stdout, stderr } = output;
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
    assert!(said.contains("no such patch: /no/such.patch") && said.contains("help: "), "{said}");
    let text = text.to_str().unwrap();
    let said = run(&["--before-image", text, "--after-image", text]);
    assert!(said.contains("is not an x86 kernel image"), "{said}");
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
    assert!(said.contains("- * (C) 1991 Nobody") && said.contains("the source at this place:"), "{said}");
    assert!(said.contains("    2   * (C) 2001, 2002, 2003, 2004 Rusty Russell"), "{said}");
    assert!(!said.contains("compiling"), "{said}");
}

#[test]
fn an_option_that_cannot_be_set_is_named_before_anything_is_compiled() {
    let bench = Bench::new("CONFIG_64BIT=y\nCONFIG_NUMA_BALANCING=y\n");
    let Output { status, stderr, .. } = bench.command().output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("test.config:3: CONFIG_NUMA_BALANCING=y became not set"), "{said}");
    assert!(said.contains("Kconfig:4: depends on SMP (SMP=n)"), "{said}");
    assert!(!said.contains("compiling"), "{said}");
}

#[test]
fn builds_survive_ctrl_c_and_sigkill() {
    let bench = Bench::new("CONFIG_TOY_WAITS=y\n");
    let child = bench.compiling();
    kill(common::pid(&child), Signal::SIGINT).unwrap();
    let said = child.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(130), "{}", String::from_utf8_lossy(&said.stderr));
    wait_for("end of the compilers after Ctrl-C", || bench.processes().is_empty());
    assert!(!bench.log().contains("vmlinux"), "make ran to its end, it was not stopped");

    let mut child = bench.compiling();
    kill(common::pid(&child), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    wait_for("end of make after a SIGKILL of the harness", || bench.processes().is_empty());

    // Neither build left a partly written object that the next build takes for a complete one.
    let mut child = bench.compiling();
    bench.go_on();
    wait_for("end of the build", || child.try_wait().unwrap().is_some());
    let pair = pair(child.wait_with_output().unwrap());
    assert_eq!(pair["before"]["record"]["compiled"], 6, "{pair:#}");
}

/// Of two concurrent builds of one kernel, one builds, and the other waits and takes the kernel
/// from the cache.
#[test]
fn a_build_waits_for_another_of_the_same_tree() {
    let bench = Bench::new("CONFIG_TOY_WAITS=y\n");
    let one = bench.compiling();
    let mut two = bench.command().spawn().unwrap();
    // The second build requests the lock before or after this sleep. Its result is the same.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(two.try_wait().unwrap(), None, "the second did not wait");
    bench.go_on();
    let (one, two) = (pair(one.wait_with_output().unwrap()), pair(two.wait_with_output().unwrap()));
    assert_eq!(one["before"]["id"], two["before"]["id"]);
    assert_eq!(one["before"]["id"], one["after"]["id"], "no patch: one kernel");
    let cached = [&one, &two].map(|pair| pair["before"]["built"] == "cached");
    assert_eq!(cached, [false, true], "one builds, the other takes it from the cache: {one} {two}");
    let image = PathBuf::from(one["before"]["image"].as_str().unwrap());
    assert!(std::fs::metadata(&image).unwrap().len() > 1024);
}

/// A kernel is configured once, unless a patch changes Kconfig.
#[test]
fn a_kernel_is_configured_again_where_kconfig_differs() {
    let bench = Bench::new("CONFIG_64BIT=y\n");
    let configured = |patch: &str| {
        let output = bench.command().arg(bench.patch(patch)).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        ["before", "after"].map(|side| said.contains(&format!("{side}: configuring")))
    };
    let added = "@@ -1,3 +1,4 @@\n /* CPU control.\n+ * And a line.\n  * (C) 2001, 2002, 2003, 2004 Rusty Russell\n  *\n";
    let code = format!("--- a/kernel/cpu.c\n+++ b/kernel/cpu.c\n{added}");
    assert_eq!(configured(&code), [true, false]);
    let option = "--- a/Kconfig\n+++ b/Kconfig\n@@ -1,2 +1,3 @@\n+# A line.\n config SMP\n \tbool \"Several processors\"\n";
    assert_eq!(configured(option), [false, true]);
    // That build had an object folder of its own, and the folder of the unpatched source is
    // unchanged.
    assert_eq!(configured(&code.replace("And a line", "Another line")), [false, false]);
}

#[test]
fn a_patch_that_does_not_compile_leaves_nothing_behind() {
    let bench = Bench::new("CONFIG_64BIT=y\n");
    let first = pair(bench.command().output().unwrap());
    assert_ne!(first["before"]["built"], "cached");

    let context = " /* CPU control.\n  * (C) 2001, 2002, 2003, 2004 Rusty Russell\n  *\n";
    let header = "--- a/kernel/cpu.c\n+++ b/kernel/cpu.c\n@@ -1,3 +1,4 @@\n";
    let said = bench.fails(&bench.patch(&format!("{header}+nonsense;\n{context}")));
    assert!(said.contains("does not compile: kernel/cpu.c:"), "{said}");
    let log = said.split_whitespace().find(|word| word.contains("/failed/")).unwrap();
    assert!(std::fs::read_to_string(log).unwrap().contains("nonsense"));

    // The error left nothing behind: a good patch on the same tree compiles only what it changes.
    let good = bench.patch(&format!("{header}+/* A comment. */\n{context}"));
    let pair = pair(bench.command().arg(good).output().unwrap());
    assert_eq!(pair["before"]["built"], "cached");
    let record = &pair["after"]["record"];
    assert!(record["incremental"] == true && record["compiled"].as_u64().unwrap() < 5, "{record}");
}

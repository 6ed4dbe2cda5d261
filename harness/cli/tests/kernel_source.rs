//! Tests that need a real kernel source: the first lines of its reports, so that a new report of a
//! new kernel is noticed, and Kconfig's own reasons. No test is skipped: on a machine without a
//! source the tests fail, and the message names what to install.
//!
//! The reports come from `$HOTPLUG_KERNEL_SOURCE` (a folder), or the newest
//! `/usr/src/linux-source-*` archive.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use regex::Regex;

/// The source files of the checkers. Files that a kernel does not have are skipped.
const FILES: &[&str] = &[
    "kernel/locking/lockdep.c",
    "kernel/locking/spinlock_debug.c",
    "kernel/watchdog.c",
    "kernel/watchdog_hld.c",
    "kernel/hung_task.c",
    "kernel/workqueue.c",
    "kernel/rcu/tree_stall.h",
    "kernel/rcu/tree_exp.h",
    "kernel/rcu/tasks.h",
    "kernel/panic.c",
    "kernel/sched/core.c",
    "kernel/fork.c",
    "kernel/irq/spurious.c",
    "kernel/kcsan/report.c",
    "lib/bug.c",
    "lib/smp_processor_id.c",
    "lib/ubsan.c",
    "mm/filemap.c",
    "mm/kasan/report.c",
    "mm/kfence/report.c",
    "mm/kmsan/report.c",
    "mm/memory.c",
    "mm/mempool.c",
    "mm/page_alloc.c",
    "mm/slub.c",
    "net/core/dev.c",
    "fs/dcache.c",
    "arch/x86/kernel/traps.c",
    "arch/x86/mm/fault.c",
    "arch/arm64/kernel/traps.c",
    "arch/arm64/mm/fault.c",
    "arch/powerpc/mm/fault.c",
    "arch/powerpc/kernel/traps.c",
    "arch/riscv/mm/fault.c",
    "arch/s390/mm/fault.c",
];

/// Lines that look like the first line of a report and are not, each with the reason.
const NOT_REPORTS: &[(&str, &str)] = &[
    ("INFO: lockdep is turned off.", "a remark inside other reports"),
    ("INFO: Stall ended before state dump start", "nothing is left to report"),
    ("INFO: Stall ended during stack backtracing", "a remark inside a stall's report"),
    ("INFO: Expedited stall ended before state dump start", "nothing is left to report"),
    ("messages suppressed", "a count of reports that were printed before"),
    ("WARNING: Flushing system-wide workqueues", "advice to authors, without a stack"),
    ("WARNING: workqueue cpumask", "about the machine's description, without a stack"),
];

/// A folder with the files of the checkers, and the guard that keeps it while it is read.
fn source() -> (PathBuf, Option<tempfile::TempDir>) {
    if let Some(folder) = std::env::var_os("HOTPLUG_KERNEL_SOURCE") {
        return (folder.into(), None);
    }
    let archives = std::fs::read_dir("/usr/src").unwrap().map(|entry| entry.unwrap().path());
    let is_source = |path: &PathBuf| {
        path.to_string_lossy().contains("linux-source-") && path.extension().is_some_and(|end| end == "xz")
    };
    let newest = archives.filter(is_source).max().expect("no kernel source: hotplug doctor --install");
    let target = tempfile::tempdir().unwrap();
    // A file that this kernel does not have makes tar fail, but only after it has extracted the
    // others.
    let tar = Command::new("tar")
        .args(["--extract", "--wildcards", "--strip-components=1", "--file"])
        .arg(&newest)
        .arg("--directory")
        .arg(target.path())
        .args(FILES.iter().map(|file| format!("*/{file}")))
        .output();
    tar.unwrap();
    (target.path().to_owned(), Some(target))
}

/// Turns a format into a text. The filler word satisfies the rows that require "rcu" or "tainted"
/// in a `%s`.
fn sample(format: &str) -> String {
    let words = Regex::new(r"%-?[0-9]*(s|p[A-Za-z]*)").unwrap();
    let numbers = Regex::new(r"%#?[-+0-9.]*(l|ll|h|z)?[duxXi]|%c").unwrap();
    let text = words.replace_all(format, "rcu_tainted+0x1/0x2");
    numbers.replace_all(&text, "1").replace("\\n", "").replace("\\\"", "\"")
}

#[test]
fn every_headline_of_the_kernel_source_is_known() {
    let (source, _held) = source();
    let printed = Regex::new(
        r#"(?:pr_\w+|printk\w*|print_lockdep_off|slab_\w+)\((?:KERN_\w+\s*)?\s*"((?:[^"\\]|\\.)*)""#,
    )
    .unwrap();
    let headline = Regex::new(
        r"^(\[ )?(BUG[: ]|WARNING: |INFO: |UBSAN: |Kernel panic - |[Kk]ernel BUG|unregister_netdevice|irq %d: nobody|Watchdog detected|Unable to handle|Internal error: )",
    )
    .unwrap();
    let mut seen = 0;
    let mut unknown = Vec::new();
    for file in FILES {
        let Ok(code) = std::fs::read_to_string(source.join(file)) else { continue };
        for found in printed.captures_iter(&code) {
            let format = &found[1];
            if !headline.is_match(format) || NOT_REPORTS.iter().any(|(text, _)| format.contains(text)) {
                continue;
            }
            seen += 1;
            let text = sample(format);
            let kind = hotplug_kreport::headline(&text);
            // The catch-all row for "BUG: " requires a stack below it and does not identify the
            // bug.
            if kind.is_none() {
                unknown.push(format!("{file}: {format:?} as {text:?}"));
            }
        }
    }
    assert!(seen > 40, "only {seen} headlines found: did the kernel's way of printing change?");
    assert!(unknown.is_empty(), "reports this kernel can print and we do not know:\n{}", unknown.join("\n"));
}

/// Kconfig's reason is found in the installed source: 6.1 on Debian 12, 6.12 on Debian 13.
#[test]
fn an_option_that_cannot_be_set_is_named_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let fragment = folder.path().join("test.config");
    std::fs::write(&fragment, "# An option that wants SMP.\nCONFIG_64BIT=y\nCONFIG_NUMA_BALANCING=y\n")
        .unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-cache");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
    command.args(["kernel", "build", "--json", "--no-default-config", "--config"]).arg(fragment);
    let Output { status, stderr, .. } = command.arg("--cache").arg(cache).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("test.config:3: CONFIG_NUMA_BALANCING=y became not set"), "{said}");
    assert!(said.contains("init/Kconfig:") && said.contains("SMP=n"), "{said}");
    assert!(!said.contains("compiling"), "{said}");
}

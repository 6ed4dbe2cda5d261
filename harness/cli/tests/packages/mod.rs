//! Kernels that were not built here: those of packages, and of folders with the files of one.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::Path;
use std::process::Command;

use predicates::prelude::*;
use serde_json::{Value, json};

use crate::common::{DEFAULT, Run, patch};

fn hotplug(words: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_hotplug")).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The file that `hotplug kernel fetch` prints.
fn fetched(suite: &str, package: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_hotplug"))
        .args(["kernel", "fetch", suite, package])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_folder_with_a_kernel_and_its_symbols_is_judged_like_a_built_one() {
    let run = Run::new();
    let seed = patch("seed");
    let pair = hotplug(&["kernel", "build", "--json", seed.to_str().unwrap()]);
    let own = tempfile::tempdir().unwrap();
    let mut command = run.compare();
    command.args(DEFAULT).args(["--trials", "1"]);
    for side in ["before", "after"] {
        let kernel = &pair[side];
        let to = own.path().join(side);
        std::fs::create_dir_all(&to).unwrap();
        for (key, name) in [("image", "bzImage"), ("config", "config"), ("vmlinux", "vmlinux")] {
            let from = Path::new(kernel[key].as_str().unwrap());
            std::os::unix::fs::symlink(from, to.join(name)).unwrap();
        }
        command.arg(format!("--{side}-package")).arg(to);
    }
    // One trial a side decides nothing, and the report is found and has its source line.
    command.assert().code(3).stdout(predicate::str::contains("flush_all_cpus_locked at mm/slub.c"));
    let result = run.result();
    assert_eq!(result["trials"]["after"]["without_lockdep"], 0);
    assert_eq!(result["run"]["kernels"]["after"]["lacks"], Value::Null, "{:#}", result["run"]["kernels"]);
    // The lock order is read with the symbols, and nothing can be planted.
    assert!(result["lock_order"]["extent"]["before"]["edges"].as_u64().unwrap() > 1000, "{result:#}");
    run.assert_nothing_left();
}

/// Those of Debian 12 and 13, without lockdep. The first has virtio as modules, which are not
/// compressed.
#[test]
fn nightly_kernels_of_two_distributions_are_judged_against_each_other() {
    let run = Run::new();
    let [before, after] = ["bookworm", "trixie"].map(|suite| fetched(suite, "linux-image-amd64"));
    let mut command = run.compare();
    command.args(DEFAULT).args(["--trials", "2", "--before-package", &before, "--after-package", &after]);
    command
        .assert()
        .code(0)
        .stdout(predicate::str::contains("without lockdep"))
        .stdout(predicate::str::contains("these kernels have no lockdep: what it would report is not known"));
    let result = run.result();
    assert_eq!(result["verdict"], "unchanged");
    assert!(result["reason"].as_str().unwrap().contains("these kernels have no lockdep"), "{result:#}");
    for side in ["before", "after"] {
        let trials = &result["trials"][side];
        assert_eq!((&trials["armed"], &trials["without_lockdep"]), (&json!(0), &json!(2)), "{trials:#}");
        assert_eq!(trials["operations_refused"], 0, "{trials:#}");
        let lacks = result["run"]["kernels"][side]["lacks"].as_array().unwrap();
        assert!(lacks.contains(&json!("PROVE_LOCKING")), "{lacks:?}");
    }
    run.assert_nothing_left();
}

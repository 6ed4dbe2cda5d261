//! A recorded trial is shrunk, and the resulting scenario runs like any other.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::Path;

use predicates::prelude::*;
use serde_json::Value;

use super::{hotplug, read};
use crate::common::{Run, patch};
use crate::recorded::{self, Recorded};

/// The signatures of the findings in a run of `scenario` on the kernels of `pair`.
fn signatures(scenario: &Path, pair: &[&Path]) -> Vec<Value> {
    let run = Run::new();
    let until = ["--trials", "8", "--until-report"];
    run.compare().arg("--scenario").arg(scenario).args(pair).args(until).output().unwrap();
    let reports = run.result()["reports"].as_array().unwrap().clone();
    reports.into_iter().map(|report| report["signature"].clone()).collect()
}

/// Shrinks a trial, and checks that the scenario gives the same report. Returns the scenario's text
/// and `shrink.json`.
fn shrunk(run: &Run, trial: &str, pair: &[&Path]) -> (String, Value) {
    let results = run.results().with_file_name("shrunk");
    let out = run.results().with_file_name("shrunk.toml");
    let assert = hotplug(&["shrink", "--times", "4"], &run.folder().join("trials").join(trial))
        .arg("--results")
        .arg(&results)
        .arg("--out")
        .arg(&out)
        .assert()
        .code(0)
        .stderr(predicate::str::contains("the report of the recorded trial came again in "));
    let screen = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    assert!(screen.contains("comes again in "), "{screen}");
    let folder = std::fs::read_dir(&results).unwrap().next().unwrap().unwrap().path();
    let result = read(&folder.join("shrink.json"));
    assert!(result["shrunk"]["seen"].as_u64().unwrap() > 0, "{result:#}");
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text.contains(result["signature"].as_str().unwrap()), "{text}");
    assert!(signatures(&out, pair).contains(&result["signature"]), "{text}");
    (text, result)
}

#[test]
fn nightly_what_the_seed_patch_breaks_needs_one_dimm() {
    let Recorded { run, .. } = recorded::seed();
    let seed = patch("seed");
    let clean = hotplug(&["shrink"], &run.folder().join("trials/before-000")).assert().code(2);
    clean.stderr(predicate::str::contains("nothing that could be shrunk"));
    hotplug(&["shrink", "--signature", "nosuch"], &run.folder().join("trials/after-000"))
        .assert()
        .code(2)
        .stderr(predicate::str::contains("flush_all_cpus_locked"));
    let (text, result) = shrunk(&run, "after-000", &[&seed]);
    assert!(result["sizes"][0].as_str().unwrap().starts_with("lanes 2, loads 1, operations 16,"));
    assert!(result["sizes"][1].as_str().unwrap().starts_with("lanes 1, loads 0, operations 2,"), "{text}");
}

//! Every scenario, once on each side of the same kernel: each operation does what it should, and the accounts add up.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::Run;

fn folder(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "toml"));
    files.sort();
    assert!(!files.is_empty(), "{name}");
    files
}

/// Runs one trial a side; what did not go as it should.
fn run(scenario: &Path) -> Vec<String> {
    let run = Run::new();
    run.compare().arg("--scenario").arg(scenario).args(["--trials", "1"]).output().unwrap();
    let mut wrong = Vec::new();
    for name in ["before-000", "after-000"] {
        let trial = run.trial(name);
        // A kernel may have bugs of its own, which is what scenarios are for: a report is no failure of this test.
        let outcome = trial["outcome"].as_str().unwrap();
        if !["clean", "reported"].contains(&outcome) {
            wrong.push(format!("{name} is {outcome}: {}", trial["why"]));
        }
        let operations = trial["operations"].as_array().unwrap();
        if operations.is_empty() {
            wrong.push(format!("{name} did nothing"));
        }
        wrong.extend(operations.iter().filter(|o| !as_expected(o)).map(|o| format!("{name}: {o}")));
        wrong.extend(trial["mismatches"].as_array().unwrap().iter().map(|m| format!("{name}: {m}")));
    }
    run.assert_nothing_left();
    wrong
}

fn as_expected(operation: &Value) -> bool {
    let outcome = &operation["outcome"];
    let refused = outcome.get("refused-by-guest").or(outcome.get("failed-in-qemu")).is_some();
    match operation["expect"].as_str().unwrap() {
        "done" => outcome == "done",
        "refused" => refused,
        _ => outcome == "done" || refused,
    }
}

fn all_of(name: &str) {
    let wrong: Vec<(PathBuf, Vec<String>)> = folder(name)
        .into_iter()
        .map(|scenario| (scenario.clone(), run(&scenario)))
        .filter(|(_, wrong)| !wrong.is_empty())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_kind_of_device_and_operation() {
    all_of("tests/scenarios");
}

#[test]
fn every_shipped_scenario() {
    all_of("../scenarios");
}

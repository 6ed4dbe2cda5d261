//! Every scenario runs once on each side, with the same kernel. Each operation has its expected
//! outcome, and the accounting is right.
//!
//! Each file is a test, named after its folder and its name: `shipped::dimm-and-cpu`,
//! `devices::boot`. A new file is a new test. The longest ones are nightly tests:
//! `nightly_shipped::random-soup`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

#[expect(dead_code, reason = "other tests use the other helpers")]
mod common;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use common::Run;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// The prefix of the tests of each folder of scenarios: those for users, and those for tests only.
const FOLDERS: [(&str, &str); 2] = [("shipped", "../../scenarios"), ("devices", "tests/scenarios")];

/// Scenarios that take twenty seconds or more.
const FOR_THE_NIGHT: [&str; 4] = ["cpu-into-offline", "many-dimms", "plug-during-boot", "random-soup"];

/// What the names of scenarios for guests of POWER begin with. The tests that run every night have
/// one of them each; `compare.rs` has a short one for every change.
const POWER: &str = "pseries-";

/// The scenario that an older QEMU would abort in. It is refused by name there.
const NEEDS_QEMU_11: &str = "pseries-removal";

/// Scenarios that need wide kernels, which take minutes to build.
const WIDE: [&str; 3] = ["busy-callbacks", "failing-allocations", "loads"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tests = FOLDERS.into_iter().flat_map(|(name, folder)| tests(name, folder)).collect();
    libtest_mimic::run(&arguments, tests).exit_code()
}

fn tests(name: &str, folder: &str) -> Vec<Trial> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "toml"));
    assert!(!files.is_empty(), "no scenario in {}", folder.display());
    let test = |file: PathBuf| {
        let scenario = file.file_stem().unwrap().to_str().unwrap();
        let is_long =
            FOR_THE_NIGHT.contains(&scenario) || WIDE.contains(&scenario) || scenario.starts_with(POWER);
        let night = if is_long { "nightly_" } else { "" };
        let name = format!("{night}{name}::{scenario}");
        Trial::test(name, move || run(&file))
    };
    files.into_iter().map(test).collect()
}

/// Runs one trial a side. The error has a line for each thing that is wrong.
fn run(scenario: &Path) -> Result<(), Failed> {
    let run = Run::new();
    let name = scenario.file_stem().unwrap().to_str().unwrap();
    let mut command = run.compare();
    command.arg("--scenario").arg(scenario).args(["--same", "--trials", "1"]);
    if WIDE.contains(&name) {
        command.arg("--wide");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let is_refused =
        output.status.code() == Some(2) && said.contains("aborts when the memory of a ppc64le guest changes");
    if name == NEEDS_QEMU_11 && is_refused {
        return Ok(());
    }
    // Scenarios exist to find bugs of the kernel, so a report is no failure of this test.
    if !matches!(output.status.code(), Some(0 | 1 | 3)) {
        return Err(format!("{}\n{}", output.status, said).into());
    }
    let mut every = Vec::new();
    for trial in ["before-000", "after-000"] {
        let mut record = run.trial(trial);
        // A CPU that is plugged at the wrong moment keeps the firmware from starting the kernel
        // (`trial/firmware.rs`).
        if record["why"].as_str().unwrap().contains("the firmware, at ") {
            record = run.trial(&format!("{trial}-again1"));
        }
        let mut wrong = wrong(&record);
        wrong.extend(idle(&record).filter(|_| name == "loads"));
        every.extend(wrong.into_iter().map(|what| format!("{trial}: {what}")));
    }
    run.assert_nothing_left();
    if every.is_empty() { Ok(()) } else { Err(every.join("\n").into()) }
}

/// The loads of a trial that did not loop.
fn idle(trial: &Value) -> Option<String> {
    let loops = trial["load_loops"].as_array().unwrap();
    loops.contains(&0.into()).then(|| format!("a load did not loop: {loops:?}"))
}

/// Everything that is wrong with a trial.
fn wrong(trial: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let outcome = trial["outcome"].as_str().unwrap();
    if !["clean", "reported"].contains(&outcome) {
        wrong.push(format!("{outcome}: {}", trial["why"]));
    }
    let operations = trial["operations"].as_array().unwrap();
    if operations.is_empty() {
        wrong.push("it did nothing".to_owned());
    }
    wrong.extend(operations.iter().filter(|one| !as_expected(one)).map(ToString::to_string));
    wrong.extend(trial["mismatches"].as_array().unwrap().iter().map(ToString::to_string));
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

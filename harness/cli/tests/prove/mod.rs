//! `hotplug prove`, and the control of a comparison: planted bugs are found, and a proof that finds
//! nothing fails.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Run, patch};
use crate::recorded::{self, Recorded};

/// A bug that the kernel reports, a bug that only the accounting shows, and a patch without a bug.
const ENTRIES: [&str; 3] = ["seed", "planted-memtotal-off-by-a-block", "clean-comment"];

fn prove(run: &Run) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::from_std(Command::new(env!("CARGO_BIN_EXE_hotplug")));
    command.arg("prove").arg("--results").arg(run.results()).args(["--workers", "1"]);
    command
}

fn result(run: &Run) -> Value {
    serde_json::from_slice(&std::fs::read(run.folder().join("prove.json")).unwrap()).unwrap()
}

/// Copies the repository's suite to `to`, each file after `change`.
fn suite(to: &Path, change: impl Fn(&str, String) -> String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for folder in ["guest-images/patches", "guest-images/configs", "scenarios"] {
        for entry in walkdir::WalkDir::new(root.join(folder)).into_iter().map(Result::unwrap) {
            let place = to.join(entry.path().strip_prefix(&root).unwrap());
            if entry.file_type().is_dir() {
                std::fs::create_dir_all(place).unwrap();
            } else {
                let name = entry.file_name().to_string_lossy();
                std::fs::write(place, change(&name, std::fs::read_to_string(entry.path()).unwrap())).unwrap();
            }
        }
    }
}

#[test]
fn nightly_what_is_there_is_found_and_what_is_not_is_not() {
    let run = Run::new();
    let output = prove(&run).args(["--trials", "3"]).args(ENTRIES).assert().code(0).get_output().clone();
    let screen = String::from_utf8(output.stdout).unwrap();
    for words in [
        "found     1 of 1 real bugs (2 % to 100 %",
        "1 of 1 planted bugs",
        "0 false reports in 12 trials",
        "3/3",
    ] {
        assert!(screen.contains(words), "{words}: {screen}");
    }
    let result = result(&run);
    let (found, silent) = (json!("found"), json!("silent"));
    let sights: Vec<&Value> =
        result["entries"].as_array().unwrap().iter().map(|entry| &entry["sight"]).collect();
    assert_eq!(sights, [&found, &found, &silent], "{result:#}");
    let seed = &result["entries"][0];
    assert_eq!(seed["seen"]["key"], seed["expect"][0]["key"], "{seed:#}");
    assert!(seed["seconds"].as_f64().unwrap() > 0.0, "{seed:#}");
    // It is a comparison like any other, so its trials can be replayed.
    let folder = run.folder().join(seed["tried"][0]["run"].as_str().unwrap());
    assert!(folder.join(seed["seen"]["example"].as_str().unwrap()).join("trial.json").exists());
    run.assert_nothing_left();
}

#[test]
fn nightly_a_proof_can_fail() {
    let run = Run::new();
    let changed = run.results().with_file_name("suite");
    suite(&changed, |name, text| match name {
        // The bug is there, but another one is expected.
        "seed.toml" => text.replace("flush_all_cpus_locked", "flush_none"),
        // The patch does not apply: the source has no such line.
        "planted-memtotal-off-by-a-block.patch" => text.replace("-\tadjust_managed", "-\tmisadjust_managed"),
        // The patch that should change nothing has a bug.
        "comment-only.patch" => {
            let seed = std::fs::read_dir(patch("seed")).unwrap().next().unwrap().unwrap().path();
            std::fs::read_to_string(seed).unwrap()
        }
        _ => text,
    });
    let output =
        prove(&run).arg("--suite").arg(&changed).args(["--trials", "3"]).args(ENTRIES).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let result = result(&run);
    let entries = result["entries"].as_array().unwrap();
    assert_eq!(entries[0]["sight"], "not-found", "{result:#}");
    assert_eq!(entries[0]["other"][0]["kind"], "warning", "{result:#}");
    let why = entries[1]["sight"]["failed"]["why"].as_str().unwrap();
    assert!(why.contains("does not apply"), "{why}");
    assert_eq!(entries[2]["sight"], "false-report", "{result:#}");
    assert_eq!(result["totals"]["missed"], 1, "{result:#}");
    assert_eq!(result["totals"]["false_reports"], 1, "{result:#}");
}

#[test]
fn nightly_the_seed_patch_is_found_blind() {
    let run = Run::new();
    let output = prove(&run).args(["--blind=2m", "seed"]).assert().code(0).get_output().clone();
    let screen = String::from_utf8(output.stdout).unwrap();
    assert!(
        screen.contains("blind     the portfolio on wide kernels, at most 2 m 0 s of trials each"),
        "{screen}"
    );
    assert!(screen.contains("found     1 of 1 real bugs"), "{screen}");
    let result = result(&run);
    let seed = &result["entries"][0];
    assert_eq!((&seed["sight"], &seed["tried"][0]["scenario"]), (&json!("found"), &json!("portfolio")));
    let bet = &seed["seen"]["bet"];
    assert!(bet["e_value"].as_f64().unwrap() >= bet["needed"].as_f64().unwrap(), "{seed:#}");
    // With the bug's name as its trace, and not as what its card expects.
    let changed = run.results().with_file_name("suite");
    suite(&changed, |name, text| match name {
        "seed.toml" => {
            let (head, _) = text.split_once("[on.").unwrap();
            format!(
                "{head}[on.\"6.1\"]\npatches = [\"../seed/{}\"]\ntraces = [\"no such function\"]\n",
                seed_patch()
            )
        }
        _ => text,
    });
    let output = prove(&run).args(["--blind=2m", "seed", "--suite"]).arg(&changed).assert().code(0);
    let screen = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    // A decided finding that does not lead to the bug is shown, and does not count.
    assert!(screen.contains("found     0 of 1 real bugs") && screen.contains("also: "), "{screen}");
}

/// The file of the seed patch.
fn seed_patch() -> String {
    let file = std::fs::read_dir(patch("seed")).unwrap().next().unwrap().unwrap();
    file.file_name().into_string().unwrap()
}

#[test]
fn a_wrong_name_leaves_nothing() {
    let run = Run::new();
    let output = prove(&run).arg("sed").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no known bug is called sed"), "{output:?}");
    assert!(!run.results().exists());
}

#[test]
fn a_comparison_has_a_control() {
    let Recorded { run, screen } = recorded::comment_only();
    let ran = &run.result()["control"]["ran"];
    assert_eq!(ran["found"], json!(["planted-lock-inversion", "planted-memtotal-off-by-a-block"]), "{ran:#}");
    assert_eq!(ran["missed"], json!([]), "{ran:#}");
    let folder = run.folder().join(ran["run"].as_str().unwrap());
    assert!(folder.join("trials/after-000/trial.json").exists());
    assert!(screen.contains("control   planted, and found in 1 of 1: planted-lock-inversion"), "{screen}");
}

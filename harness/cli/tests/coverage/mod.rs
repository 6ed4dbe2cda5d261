//! Which lines of a patch ran, on real kernels with real counters.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::Path;
use std::process::Command;

use predicates::prelude::*;
use serde_json::Value;

use crate::common::{DEFAULT, Run, default_source, patch};
use crate::recorded::{self, Recorded};

fn compare(run: &Run, name: &str) -> assert_cmd::Command {
    let mut command = run.compare_with_control();
    command.args(DEFAULT).args(["--no-control", "--no-reach"]).arg(patch(name)).args(["--trials", "4"]);
    command
}

/// The output of `hotplug coverage`.
fn printed(run: &Run) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_hotplug")).arg("coverage").arg(run.folder()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The seed patch only removes lines. They ran before, and the functions that contained them ran on
/// both sides.
#[test]
fn removed_lines_ran_before_and_their_functions_on_both_sides() {
    let Recorded { run, screen } = recorded::seed();
    assert!(screen.contains("coverage  2 of 2 changed lines ran"), "{screen}");
    let result = run.result();
    assert_eq!(result["verdict"], "regressed");
    let coverage = &result["coverage"];
    let [file] = &coverage["files"].as_array().unwrap()[..] else { panic!("{coverage:#}") };
    assert_eq!(file["path"], "mm/memory_hotplug.c");
    assert_eq!(file["counting"], serde_json::json!({ "before": "counted", "after": "counted" }));
    let lines = file["lines"].as_array().unwrap();
    let texts: Vec<&str> = lines.iter().map(|line| line["text"].as_str().unwrap().trim()).collect();
    assert_eq!(texts, ["cpus_read_lock();", "cpus_read_unlock();"]);
    for line in lines {
        assert_eq!(line["side"], "before");
        // Four DIMMs of one block or more are plugged and unplugged, and each calls the function at
        // least once in either direction.
        for operation in ["plug dimm", "unplug dimm"] {
            assert!(line["ran"]["during"][operation].as_u64().unwrap() >= 4, "{line:#}");
        }
    }
    for name in ["mem_hotplug_begin", "mem_hotplug_done"] {
        let function = &file["functions"][name];
        for side in ["before", "after"] {
            assert!(function[side]["times"].as_u64().unwrap() >= 8, "{function:#}");
        }
    }
    assert_eq!(coverage["trials"], serde_json::json!({ "before": 1, "after": 1 }));
    // The judged kernels have no counters.
    let judged = run.folder().join("trials");
    let counted = walkdir_names(&judged).into_iter().filter(|name| name == "coverage.json").count();
    assert_eq!(counted, 0);
    let text = printed(&run);
    assert!(text.contains("mem_hotplug_begin()") && text.contains("-    cpus_read_lock();"), "{text}");
}

fn walkdir_names(folder: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for trial in std::fs::read_dir(folder).unwrap() {
        for file in std::fs::read_dir(trial.unwrap().path()).unwrap() {
            names.push(file.unwrap().file_name().into_string().unwrap());
        }
    }
    names
}

/// A patch that changes no observable behaviour, with lines that no trial runs.
#[test]
fn lines_that_never_ran_are_named_and_take_unchanged_away() {
    let run = Run::new();
    compare(&run, "coverage/error-path.patch")
        .assert()
        .code(3)
        .stdout(predicate::str::contains("INCONCLUSIVE   not reached: mm/memory_hotplug.c:"))
        .stdout(predicate::str::contains("coverage  5 of 7 changed lines ran, in 1 + 4 trials"));
    let result = run.result();
    assert_eq!(result["reports"].as_array().unwrap().len(), 0, "{result:#}");
    let lines = result["coverage"]["files"][0]["lines"].as_array().unwrap();
    let never: Vec<&Value> = lines.iter().filter(|line| line["ran"]["times"] == 0).collect();
    let [assignment, message] = never[..] else { panic!("{lines:#?}") };
    assert!(assignment["text"].as_str().unwrap().contains("left = true;"), "{assignment:#}");
    assert!(message["text"].as_str().unwrap().contains("left behind by"), "{message:#}");
    let places = format!("mm/memory_hotplug.c:{},{}", assignment["line"], message["line"]);
    assert_eq!(result["reason"], format!("not reached: {places}"));
    // A declaration and a comment carry no code.
    let plain = lines.iter().filter(|line| line["ran"].is_null()).count();
    assert!(plain >= 2, "{lines:#?}");
    assert!(printed(&run).contains("NEVER"));
}

/// The two kernels are the same bit for bit, because neither is built from the changed file.
#[test]
fn a_file_that_is_not_built_is_not_unchanged() {
    let run = Run::new();
    let wanted = "not reached: mm/kmemleak.c, which this config does not build";
    compare(&run, "coverage/not-built.patch").assert().code(3).stdout(predicate::str::contains(wanted));
    let result = run.result();
    assert_eq!((&result["verdict"], &result["reason"]), (&"inconclusive".into(), &wanted.into()));
    let kernels = &result["run"]["kernels"];
    assert_eq!(kernels["before"]["image_hash"], kernels["after"]["image_hash"]);
}

/// A run has a copy of its patch, so that an edit of the patch changes nothing. If the copy itself is
/// edited, no coverage of the new patch is printed.
#[test]
fn a_patch_that_changed_meanwhile_is_not_counted() {
    let run = Run::new();
    let edited = run.results().with_file_name("edited.patch");
    std::fs::copy(patch("clean/comment-only.patch"), &edited).unwrap();
    run.compare_default().args(["--trials", "1"]).arg(&edited).assert().code(0);
    let source = default_source();
    assert_eq!(run.json("run.json")["spec"]["kernels"]["source"], *source, "{source}");
    let copy = run.json("run.json")["spec"]["kernels"]["patches"][0].as_str().unwrap().to_owned();
    assert!(Path::new(&copy).starts_with(run.folder().canonicalize().unwrap()), "{copy}");
    let again = |wanted: &'static str| {
        let mut again = assert_cmd::Command::new(env!("CARGO_BIN_EXE_hotplug"));
        again.args(["compare", "--no-control", "--no-latency", "--no-reach", "--continue"]).arg(run.folder());
        again.assert().code(0).stdout(predicate::str::contains(wanted));
    };
    std::fs::copy(patch("coverage/not-built.patch"), &edited).unwrap();
    again("no changed line carries code that is counted");
    std::fs::copy(patch("coverage/not-built.patch"), &copy).unwrap();
    again("no longer yields the after kernel");
    assert_eq!(run.result()["coverage"]["files"], serde_json::json!([]));
}

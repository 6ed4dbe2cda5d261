//! A recorded run, on real kernels under real QEMU: continued after a kill, replayed, and repeated
//! by a shell script. No test is skipped: on a machine that lacks something the tests fail, and the
//! message names what is missing.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

mod shrink;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use predicates::prelude::*;
use serde_json::{Value, json};

use crate::common::{self, Run, patch};
use crate::recorded::{self, Recorded};

/// `hotplug` with one guest at a time.
fn hotplug(arguments: &[&str], path: &Path) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::from_std(Command::new(env!("CARGO_BIN_EXE_hotplug")));
    command.args(arguments).arg(path).args(["--workers", "1"]);
    command
}

/// Inode and modification time of the record of each finished trial.
fn records(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let Ok(trials) = std::fs::read_dir(folder.join("trials")) else { return BTreeMap::new() };
    let paths = trials.map(|entry| entry.unwrap().path().join("trial.json"));
    paths
        .filter_map(|path| {
            let meta = path.metadata().ok()?;
            Some((path, (meta.ino(), meta.modified().unwrap())))
        })
        .collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

fn write(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn nightly_a_killed_run_goes_on_and_no_trial_runs_twice() {
    let run = Run::new();
    let mut child = run.spawn(run.compare_default().arg(patch("seed")).args(["--trials", "5"]));
    common::wait_until(Duration::from_secs(900), || {
        run.results().exists()
            && std::fs::read_dir(run.results()).unwrap().count() == 1
            && records(&run.folder()).len() >= 3
    });
    child.kill().unwrap();
    child.wait().unwrap();
    common::wait_until(Duration::from_secs(30), || run.qemus().is_empty());
    let before = records(&run.folder());
    assert!(before.len() < 10, "{before:?}");

    hotplug(&["compare", "--continue"], &run.folder()).assert().code(1);
    let after = records(&run.folder());
    assert_eq!(after.len(), 10, "{after:?}");
    for (path, file) in &before {
        assert_eq!(after[path], *file, "{} was run again", path.display());
    }
    let result = run.result();
    assert_eq!(result["verdict"], "regressed", "{result:#}");
    for report in result["reports"].as_array().unwrap() {
        assert_eq!(
            (&report["before"]["trials"], &report["after"]["seen"]),
            (&json!(5), &json!(5)),
            "{report:#}"
        );
    }
    assert_eq!(result["run"]["continued"].as_array().unwrap().len(), 1);

    // Continued once more, the run has no trial left.
    hotplug(&["compare", "--continue"], &run.folder())
        .assert()
        .code(1)
        .stderr(predicate::str::contains("judged again"))
        .stdout(predicate::str::contains("REGRESSED"));
    assert_eq!(records(&run.folder()), after);
}

#[test]
fn nightly_what_was_spoilt_or_cut_off_is_run_again_and_more_trials_can_be_asked_for() {
    let run = Run::new();
    run.compare_default().args(["--same", "--trials", "1"]).assert().code(0);
    let folder = run.folder();
    let trials = folder.join("trials");
    // The state after a failure of infrastructure, if the harness was killed during the next
    // attempt.
    let mut spoilt = read(&trials.join("before-000/trial.json"));
    spoilt["outcome"] = "infrastructure".into();
    spoilt["why"] = "the test says so".into();
    write(&trials.join("before-000/trial.json"), &spoilt);
    std::fs::create_dir(trials.join("before-000-again1")).unwrap();
    std::fs::write(trials.join("before-000-again1/kmsg.log"), "cut off").unwrap();
    std::fs::remove_file(trials.join("after-000/trial.json")).unwrap();

    hotplug(&["compare", "--trials", "2", "--continue"], &folder).assert().code(0);
    let result = run.result();
    assert_eq!(result["repeated"].as_array().unwrap().len(), 1, "{result:#}");
    assert_eq!(result["repeated"][0]["folder"], "before-000");
    for side in ["before", "after"] {
        assert_eq!(
            (&result["trials"][side]["trials"], &result["trials"][side]["infrastructure"]),
            (&json!(2), &json!(0))
        );
    }
    assert_eq!(run.trial("before-000"), spoilt);
    for trial in ["before-000-again1", "after-000", "before-001", "after-001"] {
        assert_eq!(run.trial(trial)["outcome"], "clean", "{trial}");
    }
    assert_eq!(run.json("run.json")["trials"], 2);

    // Anything that would make the trials differ is an error, and nothing runs.
    let mistake = |arguments: &[&str], says: &[&str]| {
        let assert = hotplug(arguments, &folder).assert().code(2);
        let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        for text in says {
            assert!(stderr.contains(text), "{arguments:?} should say {text:?}:\n{stderr}");
        }
    };
    let resume = ["compare", "--continue"];
    mistake(&["compare", "--seed", "3", "--continue"], &["--continue", "--seed"]);
    mistake(&["compare", "--scenario", "x.toml", "--continue"], &["--continue", "--scenario"]);
    mistake(&["compare", "--trials", "1", "--continue"], &["this run has 2 a side", "help:"]);
    let good = run.json("run.json");
    let with = |pointer: &str, value: &str, says: &[&str]| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value.into();
        write(&folder.join("run.json"), &bad);
        mistake(&resume, says);
        write(&folder.join("run.json"), &good);
    };
    with("/kernels/after/image_hash", "00", &["after kernel", "help: hotplug kernel build"]);
    with("/host/qemu", "9.9.9", &["QEMU 9.9.9", "help:"]);
    with("/initramfs_hash", "00", &["guest agent", "help:"]);
    with("/scenarios/0/hash", "00", &["scenario.toml", "help:"]);
    let lock = std::fs::File::open(&folder).unwrap();
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    mistake(&resume, &["in use by another", "help:"]);
    drop(lock);
    std::fs::remove_file(folder.join("run.json")).unwrap();
    mistake(&resume, &["run.json", "help:"]);
}

#[test]
fn a_recorded_trial_is_replayed_and_repeated_without_the_harness() {
    let Recorded { run, .. } = recorded::seed();
    let trial = run.folder().join("trials/after-000");
    // The recorded schedule is used, not the one that this version would draw from the seed.
    let mut record = read(&trial.join("trial.json"));
    record["schedule"]["lanes"][0]["batches"][0]["pause_us"] = 4711.into();
    write(&trial.join("trial.json"), &record);

    let results = run.results().with_file_name("replays");
    let replay = |recorded: &Path| {
        let mut command = hotplug(&["replay", "--times", "2"], recorded);
        command.arg("--results").arg(&results);
        command
    };
    let again = predicate::str::contains("came again in 2 of 2 (16 % to 100 %)");
    replay(&trial).assert().code(0).stdout(again.clone());
    let folder = std::fs::read_dir(&results).unwrap().next().unwrap().unwrap().path();
    let result = read(&folder.join("replay.json"));
    assert_eq!(result["findings"][0]["recorded"], true, "{result:#}");
    assert_eq!(result["findings"][0]["again"], json!({ "seen": 2, "trials": 2 }));
    let replayed = folder.join("trials/after-000-replay-001");
    assert_eq!(read(&replayed.join("schedule.json")), record["schedule"]);
    assert_eq!(read(&replayed.join("trial.json"))["seed"], record["seed"]);
    // A replay can be replayed, and so can a run, by the example trials of its findings.
    replay(&replayed).assert().code(0).stdout(again.clone());
    replay(&run.folder()).assert().code(0).stdout(again);
    let clean = replay(&run.folder().join("trials/before-000")).assert().code(2);
    clean.stderr(predicate::str::contains("nothing that could come again"));
    hotplug(&["compare", "--continue"], &folder).assert().code(2).stderr(predicate::str::contains("replays"));

    assert!(!run.folder().join("trials/before-000/repeat.sh").exists());
    let output = Command::new("sh").arg(trial.join("repeat.sh")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("repeat: done"), "{said}");
    let mut scan = assert_cmd::Command::cargo_bin("hotplug").unwrap();
    scan.args(["scan", "-"])
        .write_stdin(output.stdout)
        .assert()
        .code(1)
        .stdout(predicate::str::contains("WARNING: lockdep_assert_cpus_held in flush_all_cpus_locked"));
    // The script does not boot a file with another hash.
    let other = Command::new("sh").arg(trial.join("repeat.sh")).env("KERNEL", "/bin/sh").output().unwrap();
    assert_eq!(other.status.code(), Some(2));
}

#[test]
fn a_panic_is_repeated_with_its_last_words() {
    let run = Run::new();
    let scenario = run.scenario(|text| {
        let text = text.replace("slots = 8", "slots = 8\nkernel_args = \"rdinit=/nowhere\"");
        text.replace("[guest]", "[guest]\ntyping = \"1K\"")
    });
    run.compare().arg("--scenario").arg(scenario).args(["--same", "--trials", "1"]).assert().code(3);
    // The script ends although it types into the console.
    let script = run.folder().join("trials/before-000/repeat.sh");
    assert!(std::fs::read_to_string(&script).unwrap().contains("yes 'The harness types"));
    let output = Command::new("timeout").args(["300", "sh"]).arg(script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("QEMU has ended"), "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Kernel panic"), "{said}");
}

//! A recorded run: continued after a kill and with trials that were spoilt or cut off, and
//! replayed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use predicates::prelude::*;
use serde_json::{Value, json};

use crate::world::{Edit, Toy, WARNS};
use crate::{common, only, read};

/// The binary with one guest at a time.
fn again(toy: &Toy, arguments: &[&str], path: &Path) -> assert_cmd::Command {
    let mut command = toy.hotplug(arguments);
    command.arg(path).args(["--workers", "1"]);
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

fn write(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_killed_run_goes_on_and_no_trial_runs_twice() {
    let toy = Toy::new();
    let run = &toy.run;
    let patch = toy.patches("patch", &[("warn", WARNS)]);
    let mut child = toy.spawn(toy.compare(Some(&patch)).args(["--trials", "40"]));
    common::wait_until(Duration::from_secs(900), || {
        run.results().exists()
            && std::fs::read_dir(run.results()).unwrap().any(|entry| entry.unwrap().path().is_dir())
            && records(&run.folder()).len() >= 3
    });
    child.kill().unwrap();
    child.wait().unwrap();
    common::wait_until(Duration::from_secs(30), || run.qemus().is_empty());
    let before = records(&run.folder());
    assert!(before.len() < 80, "{before:?}");

    again(&toy, &["compare", "--continue"], &run.folder()).assert().code(1);
    let after = records(&run.folder());
    assert_eq!(after.len(), 80, "{after:?}");
    for (path, file) in &before {
        assert_eq!(after[path], *file, "{} was run again", path.display());
    }
    let result = run.result();
    assert_eq!(result["verdict"], "regressed", "{result:#}");
    for report in result["reports"].as_array().unwrap() {
        assert_eq!(
            (&report["before"]["trials"], &report["after"]["seen"]),
            (&json!(40), &json!(40)),
            "{report:#}"
        );
    }
    assert_eq!(result["run"]["continued"].as_array().unwrap().len(), 1);

    // Continued once more, the run has no trial left.
    again(&toy, &["compare", "--continue"], &run.folder())
        .assert()
        .code(1)
        .stderr(predicate::str::contains("judged again"))
        .stdout(predicate::str::contains("REGRESSED"));
    assert_eq!(records(&run.folder()), after);
}

#[test]
fn what_was_spoilt_or_cut_off_is_run_again_and_more_trials_can_be_asked_for() {
    let toy = Toy::new();
    let run = &toy.run;
    toy.compare(None).args(["--trials", "1"]).assert().code(0);
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

    again(&toy, &["compare", "--trials", "2", "--continue"], &folder).assert().code(0);
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
        let assert = again(&toy, arguments, &folder).assert().code(2);
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

/// Replays count how often the findings come again, of a trial, of a replay and of a run.
#[test]
fn a_recorded_trial_is_replayed_and_its_findings_are_counted() {
    let toy = Toy::new();
    let run = &toy.run;
    let patch = toy.patches("patch", &[("warn", WARNS)]);
    toy.compare(Some(&patch)).args(["--trials", "1"]).assert().code(3);
    let trial = run.folder().join("trials/after-000");
    // The recorded schedule is used, not the one that this version would draw from the seed.
    let mut record = read(&trial.join("trial.json"));
    record["schedule"]["lanes"][0]["batches"][0]["pause_us"] = 4711.into();
    write(&trial.join("trial.json"), &record);

    let results = toy.path("replays");
    let replay = |recorded: &Path| {
        let mut command = again(&toy, &["replay", "--times", "2"], recorded);
        command.arg("--results").arg(&results);
        command
    };
    let twice = predicate::str::contains("came again in 2 of 2 (16 % to 100 %)");
    replay(&trial).assert().code(0).stdout(twice.clone());
    let folder = only(&results);
    let result = read(&folder.join("replay.json"));
    assert_eq!(result["findings"][0]["recorded"], true, "{result:#}");
    assert_eq!(result["findings"][0]["again"], json!({ "seen": 2, "trials": 2 }));
    let replayed = folder.join("trials/after-000-replay-001");
    assert_eq!(read(&replayed.join("schedule.json")), record["schedule"]);
    assert_eq!(read(&replayed.join("trial.json"))["seed"], record["seed"]);
    // A replay can be replayed, and so can a run, by the example trials of its findings.
    replay(&replayed).assert().code(0).stdout(twice.clone());
    replay(&run.folder()).assert().code(0).stdout(twice);
    let clean = replay(&run.folder().join("trials/before-000")).assert().code(2);
    clean.stderr(predicate::str::contains("nothing that could come again"));
    again(&toy, &["compare", "--continue"], &folder)
        .assert()
        .code(2)
        .stderr(predicate::str::contains("replays"));
    assert!(!run.folder().join("trials/before-000/repeat.sh").exists());
    assert!(trial.join("repeat.sh").exists());
}

/// A random report of a kernel comes again in some of the replays.
#[test]
fn replays_count_what_comes_by_chance() {
    let toy = Toy::new();
    let half =
        Edit { new: "\tHAPPENS(\"plug dimm; 0.5; report warn-on\");\n\n\treturn pfn > nr_pages;\n", ..WARNS };
    let patch = toy.patches("patch", &[("warn in half of all trials", half)]);
    toy.compare(Some(&patch)).args(["--trials", "40", "--until-report"]).output().unwrap();
    let example = toy.run.result()["reports"][0]["example"].as_str().unwrap().to_owned();
    let trial = toy.run.folder().join(example);
    let results = toy.path("replays");
    let mut replay = again(&toy, &["replay", "--times", "20"], &trial);
    // Without numbered guests, all replays would draw from the seed of the recorded trial and be
    // alike.
    replay.env("HOTPLUG_FAKE_DRAWS", toy.count_guests()).arg("--results").arg(&results).assert().code(0);
    let seen = read(&only(&results).join("replay.json"))["findings"][0]["again"]["seen"].as_u64().unwrap();
    assert!((3..=17).contains(&seen), "{seen} of 20");
}

/// A panic and a hang have outcomes of their own, and a guest whose lockdep is off is not clean.
#[test]
fn every_way_to_end_has_its_outcome() {
    for (what, outcome) in [("panic", "panicked"), ("hang", "hung"), ("lockdep-off", "blind")] {
        let toy = Toy::new();
        let text = std::fs::read_to_string(toy.path("toy.toml")).unwrap();
        std::fs::write(toy.path("toy.toml"), text.replace("trials = 4", "trials = 1\ntime_limit_s = 1"))
            .unwrap();
        let file = toy.source().join(WARNS.file);
        let code = std::fs::read_to_string(&file).unwrap();
        let happens = format!("\tHAPPENS(\"plug dimm; 1; {what}\");\n");
        std::fs::write(&file, code.replacen(WARNS.old, &format!("{happens}{}", WARNS.old), 1)).unwrap();
        toy.compare(None).env("HOTPLUG_TIME_SCALE", "0.03").assert().code(3);
        for folder in ["before-000", "after-000"] {
            let trial = toy.run.trial(folder);
            assert_eq!(trial["outcome"], outcome, "{what}: {trial:#}");
        }
        toy.run.assert_nothing_left();
    }
}

/// An operation that never ended costs its whole time twice. That it gets less then is said.
#[test]
fn an_operation_that_never_ends_gets_less_time_and_every_output_says_so() {
    let toy = Toy::new();
    let text = std::fs::read_to_string(toy.path("toy.toml")).unwrap();
    std::fs::write(toy.path("toy.toml"), text.replace("trials = 4", "trials = 4\ntime_limit_s = 2")).unwrap();
    let happens = "\tHAPPENS(\"plug dimm; 1; hang\");\n\treturn pfn > nr_pages;\n";
    toy.commit("hang", Edit { new: happens, ..WARNS });
    let screen = toy.compare(None).env("HOTPLUG_TIME_SCALE", "0.1").assert().code(3);
    let screen = String::from_utf8_lossy(&screen.get_output().stdout).into_owned();
    let noted = |side: &str| {
        format!(
            "` got 0.2 s, not 2 s, in {side} trials of toy, because it had not ended in 2 of them (2 trials)"
        )
    };
    let forms = ["--mail", "--html"].map(|form| {
        let mut report = toy.hotplug(&["report", "last", form]);
        let shown = report.arg("--results").arg(toy.run.results()).assert().code(0);
        String::from_utf8_lossy(&shown.get_output().stdout).into_owned()
    });
    for text in [screen].into_iter().chain(forms) {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&noted("before")) && words.contains(&noted("after")), "{text}");
    }
    let limit = |folder: &str| toy.run.trial(folder)["operations"][0]["short_limit"].clone();
    assert_eq!(
        (limit("after-001"), limit("after-002")),
        (Value::Null, json!({ "ms": 200, "usual_ms": 2000 }))
    );
}

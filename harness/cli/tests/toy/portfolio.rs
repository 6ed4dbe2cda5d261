//! A comparison of several scenarios: its trials, its verdict and its files, continued and
//! replayed.

use predicates::prelude::*;
use serde_json::{Value, json};

use crate::world::{SCENARIO, Toy, WARNS};

/// Only CPUs come and go, so the toy's memory never warns.
pub(crate) fn cpus(toy: &Toy) -> std::path::PathBuf {
    let (head, _) = SCENARIO.split_once("[[lane]]").unwrap();
    let lane = "[[lane]]\nname = \"cpus\"\nsteps = [{ plug = \"cpu\" }, { unplug = \"cpu\" }]\n";
    let path = toy.path("cpus.toml");
    std::fs::write(&path, format!("{head}{lane}")).unwrap();
    path
}

#[test]
fn two_scenarios_have_one_verdict() {
    let toy = Toy::new();
    let run = &toy.run;
    let patch = toy.patches("patch", &[("warn", WARNS)]);
    let mut command = toy.compare(Some(&patch));
    command.arg("--scenario").arg(cpus(&toy)).args(["--trials", "5"]);
    let screen = command.assert().code(1).get_output().stdout.clone();
    let screen = String::from_utf8(screen).unwrap();
    assert!(screen.contains("trials    toy+cpus, 2 scenarios: 10 + 10 in"), "{screen}");
    assert!(screen.contains("before 0/5   after 5/5"), "{screen}");
    assert!(screen.contains("       in toy\n"), "{screen}");

    let result = run.result();
    assert_eq!(result["verdict"], "regressed", "{result:#}");
    let seen: &Value = &result["reports"][0]["scenarios"];
    assert_eq!(seen.as_array().unwrap().len(), 1, "{seen:#}");
    assert_eq!((&seen[0]["scenario"], &seen[0]["after"]["seen"]), (&json!("toy"), &json!(5)));
    for name in ["toy", "cpus"] {
        let note =
            result["scenarios"].as_array().unwrap().iter().find(|one| one["scenario"] == name).unwrap();
        assert_eq!(note["trials"]["after"]["trials"], 5, "{note:#}");
        assert_eq!(note["untested"], Value::Null, "{note:#}");
        assert_eq!(run.trial(&format!("{name}-after-004"))["scenario"], name);
        assert!(run.folder().join(format!("scenarios/{name}.toml")).is_file());
    }
    let junit = toy.hotplug(&["report", "--junit"]).arg(run.folder()).assert().code(0);
    let junit = String::from_utf8(junit.get_output().stdout.clone()).unwrap();
    assert!(junit.contains("scenario cpus"), "{junit}");
    // A suite for the comparison, and one for each scenario, with a link to a trial of it.
    let suites: Vec<&str> = junit.split("<testsuite ").skip(1).collect();
    let names = ["name=\"toy+cpus\"", "name=\"cpus\"", "name=\"toy\""];
    assert!(suites.len() == 3 && names.iter().zip(&suites).all(|(name, suite)| suite.starts_with(name)));
    let failed = |suite: &&&str| suite.contains("here before 0/5, after 5/5; in all before 0/5");
    assert_eq!(suites.iter().filter(failed).collect::<Vec<_>>(), [&suites[2]], "{junit}");
    let link = format!("[[ATTACHMENT|{}/trials/toy-after-000/kmsg.log]]", run.folder().display());
    assert!(suites[2].contains(&link), "{link}: {junit}");

    // Its trials are replayed in their own scenario, and it can be continued.
    toy.hotplug(&["replay", "--times", "2", "--workers", "1"])
        .arg(run.folder().join("trials/toy-after-000"))
        .arg("--results")
        .arg(toy.path("replays"))
        .assert()
        .code(0);
    std::fs::remove_file(run.folder().join("trials/cpus-before-002/trial.json")).unwrap();
    toy.hotplug(&["compare", "--workers", "1", "--trials", "6", "--continue"])
        .arg(run.folder())
        .assert()
        .code(1)
        .stdout(predicate::str::contains("after 6/6"));
    assert_eq!(run.trial("cpus-before-002")["outcome"], "clean");
    assert_eq!(run.json("run.json")["trials"], 12);
}

#[test]
fn a_scenario_is_named_once_and_by_a_file_or_a_known_name() {
    let toy = Toy::new();
    let mistake = |scenario: &str, says: &str| {
        let assert = toy.compare(None).args(["--scenario", scenario]).assert().code(2);
        let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(stderr.contains(says), "{scenario}: {stderr}");
        assert!(!toy.run.results().exists());
    };
    mistake("toy.toml", "two scenarios have the name toy");
    mistake("dimm-and-cpus", "dimm-and-cpu, failing-allocations");
}

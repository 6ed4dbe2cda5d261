//! Guests that take several trials: which trials they take, what ends them, and replays of trials
//! that need the ones before.

use std::collections::BTreeMap;

use predicates::prelude::*;
use serde_json::{Value, json};

use crate::world::{LEAKS, Toy, WARNS_LATER};

/// The trials of each guest of one side, in their order, by the folder of the guest's first one.
fn guests(toy: &Toy, side: &str, trials: u32) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for number in 0..trials {
        let folder = format!("{side}-{number:03}");
        let trial = toy.run.trial(&folder);
        let earlier: Vec<String> = serde_json::from_value(trial["earlier"].clone()).unwrap_or_default();
        assert_eq!(trial["round"], earlier.len() + 1, "{trial:#}");
        let first = earlier.first().unwrap_or(&folder).clone();
        let guest = all.entry(first).or_default();
        assert_eq!(*guest, earlier, "{folder}");
        guest.push(folder);
    }
    all
}

#[test]
fn a_guest_takes_several_trials_and_each_has_its_own_files() {
    let toy = Toy::new();
    let mut command = toy.compare(None);
    let screen = command.args(["--trials", "32"]).assert().code(0).get_output().stdout.clone();
    let screen = String::from_utf8(screen).unwrap();
    let result = toy.run.result();
    for side in ["before", "after"] {
        let guests = guests(&toy, side, 32);
        // Of 32 trials, four run in each guest, so that there are eight guests.
        assert!(guests.values().all(|trials| trials.len() <= 4), "{guests:?}");
        assert!((8..=10).contains(&guests.len()), "{guests:?}");
        assert_eq!(result["trials"][side]["guests"], guests.len(), "{result:#}");
    }
    assert!(screen.contains("guests) in"), "{screen}");
    assert!(screen.contains("guests a side: a report that depends on the guest"), "{screen}");
    // A trial's records are in its own folder, and the lock order in that of the guest's last.
    let last = guests(&toy, "before", 32).into_values().find(|trials| trials.len() == 4).unwrap();
    for (place, folder) in last.iter().enumerate() {
        let dir = toy.run.folder().join("trials").join(folder);
        let events = std::fs::read_to_string(dir.join("events.jsonl")).unwrap();
        let operations = toy.run.trial(folder)["operations"].as_array().unwrap().len();
        assert!(operations > 1, "{folder}");
        assert_eq!(events.matches("\"operation-ended\"").count(), operations, "{events}");
        assert_eq!(events.matches("\"ready\"").count(), 1, "{events}");
        for file in ["qmp.log", "agent.log", "serial.log", "kmsg.log", "qemu.cmd", "schedule.json"] {
            assert!(dir.join(file).exists(), "{folder}/{file}");
        }
        assert_eq!(dir.join("lock-order.json").exists(), place == 3, "{folder}");
    }
}

#[test]
fn one_trial_a_guest_if_wanted_or_if_there_are_few() {
    let toy = Toy::new();
    toy.compare(None).args(["--trials", "20", "--rounds", "1"]).assert().code(0);
    assert_eq!(toy.run.result()["trials"]["before"]["guests"], 20);
    let toy = Toy::new();
    toy.compare(None).args(["--trials", "8"]).assert().code(0);
    assert_eq!(toy.run.result()["trials"]["after"]["guests"], 8);
    let toy = Toy::new();
    toy.compare(None).args(["--trials", "2", "--rounds", "0"]).assert().code(2);
}

#[test]
fn what_only_a_later_trial_shows_is_found_and_replayed_with_the_earlier_ones() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("warn", WARNS_LATER)]);
    toy.compare(Some(&patch)).args(["--trials", "24", "--rounds", "4"]).assert().code(1);
    let result = toy.run.result();
    assert_eq!(result["verdict"], "regressed", "{result:#}");
    let finding = &result["reports"][0];
    let rounds: Vec<(Value, Value)> = finding["scenarios"][0]["rounds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|round| (round["before"]["seen"].clone(), round["after"]["seen"].clone()))
        .collect();
    assert_eq!(rounds[..2], [(json!(0), json!(0)), (json!(0), json!(0))], "{finding:#}");
    assert!(rounds[2].1.as_u64().unwrap() >= 6, "{finding:#}");
    let example = toy.run.folder().join(finding["example"].as_str().unwrap());
    let trial: Value = crate::read(&example.join("trial.json"));
    assert_eq!(trial["round"], 3, "{trial:#}");

    let replays = toy.path("replays");
    toy.hotplug(&["replay", "--times", "2", "--workers", "1", "--results"])
        .args([&replays, &example])
        .assert()
        .code(0)
        .stdout(predicate::str::contains(
            "came again in 2 of 2, not alone but after the 2 earlier trials of its guest",
        ));
    let replay = crate::read(&crate::only(&replays).join("replay.json"));
    assert_eq!(replay["findings"][0]["earlier"], 2, "{replay:#}");

    // Guests that take one trial show nothing.
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("warn", WARNS_LATER)]);
    toy.compare(Some(&patch)).args(["--trials", "24", "--rounds", "1"]).assert().code(0);
}

#[test]
fn a_guest_that_degrades_is_ended_and_told() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("leak", LEAKS)]);
    let screen = toy.compare(Some(&patch)).args(["--trials", "16", "--rounds", "8"]).assert();
    let screen = String::from_utf8(screen.code(0).get_output().stdout.clone()).unwrap();
    assert!(screen.contains("guests took no further trial: something was left of a clean one"), "{screen}");
    let guests = guests(&toy, "after", 16);
    assert!(guests.values().all(|trials| trials.len() <= 2), "{guests:?}");
    let second = toy.run.trial(&guests.values().find(|trials| trials.len() == 2).unwrap()[1]);
    assert!(second["left_over"].as_str().unwrap().contains("KiB are available"), "{second:#}");
    assert_eq!(second["outcome"], "clean");
}

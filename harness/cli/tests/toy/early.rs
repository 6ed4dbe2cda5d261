//! A comparison that ends once a regression is decided.

use serde_json::{Value, json};

use crate::portfolio::cpus;
use crate::world::{Toy, WARNS};

/// The finding of a run that has one.
fn finding(result: &Value) -> &Value {
    let reports = result["reports"].as_array().unwrap();
    assert_eq!(reports.len(), 1, "{result:#}");
    &reports[0]
}

#[test]
fn trials_end_once_a_regression_is_decided() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("warn", WARNS)]);
    let mut command = toy.compare(Some(&patch));
    command.arg("--scenario").arg(cpus(&toy)).args(["--trials", "20", "--until-decided", "--rounds", "1"]);
    let screen = String::from_utf8(command.assert().code(1).get_output().stdout.clone()).unwrap();
    assert!(screen.contains("before 0/5   after 5/5   p = 0.0079, e = 135 (decided at 100)"), "{screen}");
    let result = toy.run.result();
    let told = finding(&result);
    assert!(told["bet"]["e_value"].as_f64().unwrap() > 100.0, "{told:#}");
    assert_eq!((&told["decided"], &told["bet"]["needed"]), (&json!(true), &json!(100.0)));
    // The scenario that showed it had its trials first.
    let of = |name: &str| {
        let all = result["scenarios"].as_array().unwrap();
        all.iter().find(|one| one["scenario"] == name).unwrap()["trials"]["after"]["trials"].as_u64().unwrap()
    };
    assert!(of("toy") <= 6 && of("cpus") <= 2, "{} and {}", of("toy"), of("cpus"));

    // Judged again, from the records of its trials, it is the same.
    let folder = toy.run.folder();
    toy.hotplug(&["compare", "--workers", "1", "--continue"]).arg(&folder).assert().code(1);
    assert_eq!(finding(&toy.run.result())["bet"], told["bet"]);
}

#[test]
fn trials_without_an_end_end_with_a_decision_too() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("warn", WARNS)]);
    let mut command = toy.compare(Some(&patch));
    command.args(["--for", "10m", "--until-decided", "--rounds", "1"]);
    command.assert().code(1);
    let result = toy.run.result();
    assert!(finding(&result)["after"]["seen"].as_u64().unwrap() <= 6, "{result:#}");
}

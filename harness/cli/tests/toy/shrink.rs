//! A recorded trial is shrunk, and the resulting scenario runs like any other.

use predicates::prelude::*;

use crate::world::{Toy, WARNS};
use crate::{only, read};

/// A report at the plug of a DIMM needs one DIMM, no CPU and one operation.
#[test]
fn what_one_dimm_brings_needs_one_dimm() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("warn", WARNS)]);
    toy.compare(Some(&patch)).args(["--trials", "1"]).assert().code(3);
    let trials = toy.run.folder().join("trials");
    let shrink = |trial: &str, words: &[&str]| {
        let mut command = toy.hotplug(&["shrink", "--times", "4", "--workers", "1", "--results", "shrunk"]);
        command.args(words).arg(trials.join(trial));
        command
    };
    let clean = shrink("before-000", &[]).assert().code(2);
    clean.stderr(predicate::str::contains("nothing that could be shrunk"));
    let unknown = shrink("after-000", &["--signature", "nosuch"]).assert().code(2);
    unknown.stderr(predicate::str::contains("lockdep_assert_cpus_held"));

    let out = toy.path("shrunk.toml");
    let assert = shrink("after-000", &["--out", "shrunk.toml"])
        .assert()
        .code(0)
        .stderr(predicate::str::contains("the report of the recorded trial came again in "));
    let screen = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    assert!(screen.contains("comes again in "), "{screen}");
    let result = read(&only(&toy.path("shrunk")).join("shrink.json"));
    assert!(result["shrunk"]["seen"].as_u64().unwrap() > 0, "{result:#}");
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text.contains(result["signature"].as_str().unwrap()), "{text}");
    let size = |at: usize| result["sizes"][at].as_str().unwrap().to_owned();
    assert!(size(0).starts_with("lanes 2, loads 0, operations 6,"), "{result:#}");
    assert!(size(1).starts_with("lanes 1, loads 0, operations 1,"), "{text}");

    // The resulting scenario gives the same report when it runs like any other.
    std::fs::copy(&out, toy.path("toy.toml")).unwrap();
    std::fs::remove_dir_all(toy.run.results()).unwrap();
    toy.compare(Some(&patch)).args(["--trials", "8", "--until-report"]).output().unwrap();
    let found = toy.run.result();
    assert_eq!(found["reports"][0]["signature"], result["signature"], "{found:#}");
}

//! The search for a culprit, in a series and in a history, on kernels that are built one on the
//! other.

use predicates::prelude::*;
use serde_json::{Value, json};

use crate::world::{BREAKS, MENDS, SAYS, SAYS_MORE, Toy, WARNS, WARNS_SOMETIMES};
use crate::{only, read};

/// A command that looks for a culprit among the toy's kernels.
fn search(toy: &Toy, words: &[&str]) -> assert_cmd::Command {
    let mut command = toy.hotplug(words);
    command.args(["--workers", "1", "--accel", "tcg", "--scenario", "toy.toml"]);
    command
}

/// A commit that breaks the build is avoided, and `bisect` and `bisect --step` give the same
/// answer.
#[test]
fn the_commit_that_brought_a_report_is_found_and_a_good_end_that_has_it_is_told() {
    let toy = Toy::new();
    let mut names = vec![toy.git(&["rev-parse", "HEAD"])];
    for (subject, edit) in [
        ("say what it is", SAYS),
        ("break it", BREAKS),
        ("mend it", MENDS),
        ("warn", WARNS),
        ("say more", SAYS_MORE),
    ] {
        names.push(toy.commit(subject, edit));
    }
    let bisect = |words: &[&str]| {
        let mut command = search(&toy, &["bisect", "--source", "linux", "--signature", "cpus_held"]);
        command.args(words);
        command
    };
    bisect(&["--results", "found", "--good", &names[0], "--bad", &names[5]])
        .assert()
        .code(0)
        .stdout(predicate::str::contains(format!("found     {} warn", &names[4][..12])));
    let told = read(&only(&toy.path("found")).join("bisect.json"));
    assert_eq!(told["suspected"]["revisions"], json!([4]), "{told:#}");
    assert!(told["suspected"]["probability"].as_f64().unwrap() >= 0.95, "{told:#}");
    let title = told["suspected"]["title"].as_str().unwrap();
    assert!(title.contains("lockdep_assert_cpus_held"), "{title}");

    // The good end is bad, which its first test shows.
    bisect(&["--results", "bad", "--good", &names[4], "--bad", &names[5]])
        .assert()
        .code(1)
        .stdout(predicate::str::contains("the good end has it itself"));

    // One revision, as `git bisect run` tries it.
    for (revision, status, said) in [(0, 0, "good: none of"), (2, 125, "cannot be tried"), (4, 1, "bad: ")] {
        toy.git(&["checkout", "--quiet", &names[revision]]);
        bisect(&["--results", &format!("step-{revision}"), "--step"])
            .assert()
            .code(status)
            .stdout(predicate::str::contains(said));
    }

    // A source that is not there is named.
    search(&toy, &["bisect", "--source", "no/linux", "--signature", "x", "--good", "a", "--bad", "b"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("there is no folder no/linux"));

    // An unknown revision, or two ends in the wrong order, is an error before anything is built.
    for (good, bad, said) in
        [("v0", &*names[5], "has no revision v0"), (&names[5], &names[0], "there is no revision")]
    {
        bisect(&["--results", "none", "--good", good, "--bad", bad])
            .assert()
            .code(2)
            .stderr(predicate::str::contains(said));
        assert!(!toy.path("none").exists());
    }
}

/// A report in only a fifth of all trials is traced to its commit.
#[test]
fn a_report_that_comes_in_a_fifth_of_all_trials_is_found() {
    let toy = Toy::new();
    let mut names = vec![toy.git(&["rev-parse", "HEAD"])];
    for (subject, edit) in
        [("say what it is", SAYS), ("warn sometimes", WARNS_SOMETIMES), ("say more", SAYS_MORE)]
    {
        names.push(toy.commit(subject, edit));
    }
    let words = ["bisect", "--source", "linux", "--signature", "cpus_held", "--results", "found"];
    search(&toy, &words)
        .env("HOTPLUG_FAKE_DRAWS", toy.count_guests())
        .args(["--good", &names[0], "--bad", &names[3]])
        .assert()
        .code(0)
        .stdout(predicate::str::contains("warn sometimes"));
    let told = read(&only(&toy.path("found")).join("bisect.json"));
    assert_eq!(told["suspected"]["revisions"], json!([2]), "{told:#}");
    assert!(told["suspected"]["probability"].as_f64().unwrap() >= 0.95, "{told:#}");
}

/// Three patches: one that changes nothing, one that warns, one that does not compile.
#[test]
fn the_patch_of_a_series_that_brings_a_report_is_named_both_ways() {
    let toy = Toy::new();
    let patches = toy.patches("series", &[("say", SAYS), ("warn", WARNS), ("break it", BREAKS)]);
    let series = |results: &str, words: &[&str]| {
        let mut command = search(&toy, &["series", "--source", "linux", "--results", results]);
        command.args(words).arg(&patches);
        command
    };
    series("each", &["--trials", "6"])
        .assert()
        .code(1)
        .stdout(predicate::str::contains("brought   by patch 2: WARNING: lockdep_assert_cpus_held"))
        .stdout(predicate::str::contains("does not compile: mm/memory_hotplug.c:"));
    let told = read(&only(&toy.path("each")).join("series.json"));
    let of = |key: &str| {
        told["patches"].as_array().unwrap().iter().map(|one| one[key].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("verdict"), [json!("unchanged"), json!("regressed"), Value::Null], "{told:#}");
    assert_eq!(of("state"), ["judged", "judged", "no-kernel"], "{told:#}");
    assert_eq!(of("against"), [0, 1, 2], "{told:#}");

    std::fs::remove_file(patches.join("0003-break-it.patch")).unwrap();
    series("halves", &["--trials", "6", "--bisect"])
        .assert()
        .code(1)
        .stdout(predicate::str::contains("found     patch 2: warn"));
}

//! The lock order of real kernels: what a patch changes in it, and a deadlock that two trials
//! together forecast.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::Path;

use predicates::prelude::*;
use serde_json::Value;

use crate::common::{Run, patch};
use crate::recorded;

fn edges(list: &Value) -> Vec<(String, String)> {
    let end = |edge: &Value, name: &str| edge[name].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(|edge| (end(edge, "from"), end(edge, "to"))).collect()
}

/// The kernel confirms the description of the seed patch: `mem_hotplug_lock` is no longer taken
/// under `cpu_hotplug_lock`, so ACPI's workers take it directly.
pub(crate) fn the_seed_patch_moves_the_lock(result: &Value, release: &str, screen: &str) {
    let order = &result["lock_order"];
    let (gone, new) = (edges(&order["gone"]), edges(&order["new"]));
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert!(gone.contains(&edge("acpi_scan_lock", "cpu_hotplug_lock")), "{release}: {gone:?}");
    assert!(new.contains(&edge("acpi_scan_lock", "mem_hotplug_lock")), "{release}: {new:?}");
    if release.starts_with("6.1.") {
        // This dependency is recorded at boot.
        let at_boot =
            order["gone"].as_array().unwrap().iter().find(|e| e["from"] == "cpu_hotplug_lock").unwrap();
        assert_eq!(at_boot["example"], "checkpoints/before");
        assert_eq!(at_boot["to"], "mem_hotplug_lock");
        // There is no noise: each dependency has one of the two locks, or a lock of the console
        // that the warning is printed to.
        let named = ["cpu_hotplug_lock", "mem_hotplug_lock", "console"];
        let odd: Vec<_> = gone
            .iter()
            .chain(&new)
            .filter(|(from, to)| !named.iter().any(|name| from.contains(name) || to.contains(name)))
            .collect();
        assert_eq!(odd, Vec::<&(String, String)>::new());
    }
    for (list, has_it) in [("gone", "before"), ("new", "after")] {
        for edge in order[list].as_array().unwrap() {
            let boots = &edge["boots"];
            let count =
                |side: &str| (boots[side]["seen"].as_u64().unwrap(), boots[side]["trials"].as_u64().unwrap());
            let (own, other) = if has_it == "before" {
                (count("before"), count("after"))
            } else {
                (count("after"), count("before"))
            };
            assert!(own.0 == own.1 && own.0 >= 5 && other.0 == 0 && other.1 >= 5, "{edge:#}");
        }
    }
    let path = order["new"][0]["path"].as_array().unwrap();
    assert!(!path.is_empty(), "{order:#}");
    assert!(screen.contains("locks     gone  "), "{screen}");
}

pub(crate) fn nothing_differs(result: &Value) {
    let order = &result["lock_order"];
    assert_eq!(order["none"], Value::Null, "{order:#}");
    assert_eq!((edges(&order["gone"]), edges(&order["new"])), (vec![], vec![]));
    for side in ["before", "after"] {
        assert_eq!(order["extent"][side]["trials"], recorded::TRIALS, "{order:#}");
        assert!(order["extent"][side]["edges"].as_u64().unwrap() > 1000, "{order:#}");
    }
}

/// The patch takes two locks in the other order. No path of this kernel closes the cycle.
#[test]
fn nightly_two_locks_in_the_other_order_are_not_unchanged() {
    let run = Run::new();
    let screen = run
        .compare()
        .arg(patch("forecast/reversed-locks.patch"))
        .args(["--scenario", "block-against-cpu", "--trials", "8"])
        .assert()
        .code(3)
        .get_output()
        .stdout
        .clone();
    let screen = String::from_utf8(screen).unwrap();
    let result = run.result();
    assert_eq!(result["reports"], serde_json::json!([]));
    let words = "mem_hotplug_lock -> cpu_hotplug_lock, the other way round before";
    assert_eq!(result["reason"], format!("lock order reversed: {words}"), "{screen}");
    assert!(screen.contains(&format!("locks     reversed  {words}")), "{screen}");
    let reversed = &result["lock_order"]["reversed"][0];
    for path in ["path_before", "path_after"] {
        let frames = reversed[path].to_string();
        // mem_hotplug_begin() is a part of its callers.
        assert!(frames.contains("try_online_node"), "{reversed:#}");
    }
}

/// The same patch in the same scenario, after a comparison of the unpatched kernel in which another path
/// takes the two locks.
#[test]
fn nightly_what_an_earlier_run_showed_makes_a_forecast_of_the_patch() {
    let (earlier, run) = (Run::new(), Run::new());
    let compare = |run: &Run, args: &[&str]| {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_hotplug"));
        command.arg("compare").args(args).arg("--results").arg(run.results()).env("TMPDIR", run.tmp());
        command.args([
            "--narrow",
            "--workers",
            "1",
            "--no-control",
            "--no-coverage",
            "--no-reach",
            "--no-latency",
        ]);
        command.arg("--seed").arg("1").assert()
    };
    compare(&earlier, &["--same", "--scenario", "random-soup", "--trials", "4"]);
    let patch = patch("forecast/reversed-locks.patch");
    let again = ["--scenario", "block-against-cpu", "--trials", "8", patch.to_str().unwrap()];
    compare(&run, &again).code(1).stdout(predicate::str::contains(
        "forecast  came true: circular: cpu_hotplug_lock -> mem_hotplug_lock",
    ));
    let result = run.result();
    assert_eq!(result["reports"], serde_json::json!([]));
    assert!(result["lock_order"]["elsewhere"]["guests"]["before"].as_u64().unwrap() > 0, "{result:#}");
    let one = &result["lock_order"]["forecast"][0];
    assert_eq!(
        (&one["new"], &one["locks"]),
        (&true.into(), &serde_json::json!(["cpu_hotplug_lock", "mem_hotplug_lock"]))
    );
    // Lockdep knows one path for each dependency, and the patch changes that. The other path is a
    // conjecture that the trials confirm.
    assert_eq!(one["steps"][0]["conjectured"], "store_enabled", "{one:#}");
    let guest = one["steps"][0]["example"].as_str().unwrap();
    assert!(guest.starts_with("atlas/"), "{one:#}");
    let tried = &result["forecasts"]["forecasts"][0];
    assert_eq!(tried["trials"][0], guest, "{tried:#}");
    let outcome = &tried["outcome"]["tried"]["new"][0];
    assert_eq!((&outcome["before"]["seen"], &outcome["after"]["seen"]), (&0.into(), &8.into()), "{tried:#}");
    run.assert_nothing_left();
}

/// The two halves of an inversion run in different trials, which do not report it. The forecast names
/// it, and guests that do both halves report it.
#[test]
fn an_inversion_whose_halves_never_meet_is_foreseen_and_comes_true() {
    let run = Run::new();
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/one-half.toml");
    let seed = ["--seed", "1", "--trials", "8"];
    run.compare()
        .arg(patch("forecast/split-inversion.patch"))
        .arg("--scenario")
        .arg(scenario)
        .args(seed)
        .assert()
        .code(1)
        .stdout(predicate::str::contains("forecast  came true: circular: planted_first -> planted_second"));
    let result = run.result();
    assert_eq!(result["reports"], serde_json::json!([]));
    let forecast = result["lock_order"]["forecast"].as_array().unwrap();
    let locks: Vec<&Value> = forecast.iter().map(|one| &one["locks"]).collect();
    let planted = serde_json::json!(["planted_first", "planted_second"]);
    assert_eq!(locks, [&planted], "{forecast:#?}");
    let one = &forecast[0];
    assert_eq!((&one["side"], &one["danger"]), (&"after".into(), &"cycle".into()));
    let steps = one["steps"].as_array().unwrap();
    let path = |step: usize| steps[step]["path"].to_string();
    assert!(path(0).contains("planted_online") && path(1).contains("vmstat_cpu_dead"), "{one:#}");
    assert_ne!(steps[0]["example"], steps[1]["example"], "{one:#}");
    assert_eq!(one["parts"].as_array().unwrap().len(), 2, "{one:#}");
    let tried = &result["forecasts"]["forecasts"][0];
    assert_eq!(tried["trials"], serde_json::json!([one["parts"][0][0], one["parts"][1][0]]), "{tried:#}");
    let outcome = &tried["outcome"]["tried"];
    let new = &outcome["new"][0];
    assert_eq!(new["kind"], "lockdep-circular", "{tried:#}");
    assert_eq!((&new["before"]["seen"], &new["after"]["seen"]), (&0.into(), &8.into()), "{tried:#}");
    let file = run.folder().join(outcome["scenario"].as_str().unwrap());
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("plug = ") && text.contains("offline = \"cpu:1\""), "{text}");
    assert!(run.folder().join(outcome["run"].as_str().unwrap()).join("result.json").is_file());
    let locks = |more: &[&str]| {
        let mut locks =
            assert_cmd::Command::from_std(std::process::Command::new(env!("CARGO_BIN_EXE_hotplug")));
        let output = locks.arg("locks").args(more).arg(run.folder()).assert().code(0).get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = locks(&[]);
    assert!(text.contains("after kernel: circular: planted_first -> planted_second"), "{text}");
    let drawn = locks(&["--as", "svg"]);
    assert_eq!(drawn.matches("<g class=\"arrow foreseen\">").count(), 2, "{drawn}");
    let graph = locks(&["--as", "dot", "--around", "planted_first"]);
    assert!(graph.contains("[label=\"planted_second\"];"), "{graph}");
    run.assert_nothing_left();
}

/// Without masks, lockdep goes off in nearly every trial.
#[test]
fn nightly_masks_keep_lockdep_on_behind_a_known_report() {
    let run = Run::new();
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-images/patches/masks/known.toml");
    run.compare()
        .args(["--same", "--scenario", "attributes-of-cpus", "--trials", "8", "--known"])
        .arg(known)
        .assert()
        .code(0)
        .stdout(predicate::str::contains("masked: "));
    let result = run.result();
    for side in ["before", "after"] {
        assert_eq!(result["trials"][side]["armed"], 8, "{:#}", result["trials"]);
    }
    // The record names the masks, and its copy of the known issues has none.
    let notes = result["run"]["notes"].to_string();
    assert!(notes.contains("cpu-online-attribute.patch"), "{notes}");
    let kept = std::fs::read_to_string(run.folder().join("known.toml")).unwrap();
    assert!(kept.contains("[[known]]") && !kept.contains("mask"), "{kept}");
    run.assert_nothing_left();
}

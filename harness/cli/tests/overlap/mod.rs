//! Overlap of critical sections, on real kernels with a tracer.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use predicates::prelude::*;
use serde_json::Value;

use crate::common::{Run, patch};

/// The shipped scenario of suspend against pmem, with these pairs in `race`.
fn racing(run: &Run, race: &str) -> PathBuf {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/suspend-against-pmem.toml");
    let text = std::fs::read_to_string(shipped).unwrap();
    let path = run.results().with_file_name("racing.toml");
    std::fs::write(&path, format!("{text}\n[overlap]\nrace = [{race}]\ntrials = 2\n")).unwrap();
    path
}

fn compare(run: &Run, race: &str) -> assert_cmd::assert::Assert {
    let mut command = run.compare_with_control();
    command.args([
        "--no-control",
        "--no-coverage",
        "--no-reach",
        "--no-latency",
        "--trials",
        "2",
        "--scenario",
    ]);
    command.arg(racing(run, race)).arg(patch("clean/comment-only.patch")).assert()
}

/// The thread of a CPU that comes online sets the thresholds of the zone statistics (mm/vmstat.c,
/// `vmstat_cpu_online()`) while `_cpu_up()` waits for it. Each of two suspends brings up three
/// CPUs.
#[test]
fn nightly_what_raced_is_told_with_its_times() {
    let run = Run::new();
    compare(&run, "[\"_cpu_up\", \"refresh_zone_stat_thresholds\"], [\"_cpu_up\", \"no_such_function\"]")
        .code(3)
        .stdout(predicate::str::contains("INCONCLUSIVE   never overlapped: _cpu_up and no_such_function\n"));
    let overlap = &run.result()["overlap"];
    assert_eq!(overlap["trials"], serde_json::json!({ "before": 2, "after": 2 }), "{overlap:#}");
    let pairs = overlap["pairs"].as_array().unwrap();
    let met = pairs.iter().find(|pair| pair["second"] == "refresh_zone_stat_thresholds").unwrap();
    assert_eq!((&met["is_wanted"], &met["trials"]), (&true.into(), &overlap["trials"]), "{met:#}");
    for side in ["before", "after"] {
        let longest = met["longest"][side].as_f64().unwrap();
        assert!(longest > 0.0 && longest < 1e9, "{met:#}");
        let example = run.folder().join(met["example"][side].as_str().unwrap());
        assert!(example.join("trace.txt").is_file() && example.join("latency.json").is_file());
    }
    let entered = |what: &str| {
        let traced = overlap["traced"].as_array().unwrap();
        traced.iter().find(|one| one["what"] == what).unwrap()["entered"]["before"].clone()
    };
    // There are two trials with two suspends each, and three CPUs come online each time.
    assert_eq!((entered("_cpu_up"), entered("no_such_function")), (12.into(), Value::Null));
    let output =
        Command::new(env!("CARGO_BIN_EXE_hotplug")).arg("overlap").arg(run.folder()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("_cpu_up and refresh_zone_stat_thresholds") && text.contains("no such"), "{text}");
}

/// Suspend freezes the writers before it takes a CPU down, so the two operations that the scenario
/// is named for never overlap.
#[test]
fn nightly_silence_about_what_never_raced_is_not_unchanged() {
    let run = Run::new();
    let wanted = "never overlapped: mem_hotplug_begin..mem_hotplug_done and takedown_cpu";
    compare(&run, "[\"mem_hotplug_begin..mem_hotplug_done\", \"takedown_cpu\"]")
        .code(3)
        .stdout(predicate::str::contains(wanted));
    let result = run.result();
    assert_eq!((&result["reports"], &result["reason"]), (&serde_json::json!([]), &wanted.into()));
    let entered: Vec<&Value> = result["overlap"]["traced"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["what"] == "takedown_cpu" || one["what"] == "mem_hotplug_begin..mem_hotplug_done")
        .map(|one| &one["entered"]["after"])
        .collect();
    assert_eq!(entered, [12, 12]);
}

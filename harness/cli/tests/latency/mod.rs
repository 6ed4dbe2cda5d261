//! Latency, on real kernels that are built to be timed.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::process::Command;

use predicates::prelude::*;
use serde_json::Value;

use crate::common::{Run, patch};

/// The shipped scenario, timed by the exact clock, without any other analysis.
fn exact(run: &Run, name: &str) -> assert_cmd::Command {
    let mut command = timed(run);
    command.args(["--exact", "--trials", "1", "--scenario"]).arg(shipped());
    command.arg(patch(name));
    command
}

fn timed(run: &Run) -> assert_cmd::Command {
    let mut command = run.compare_with_control();
    command.args(["--no-control", "--no-coverage", "--no-reach"]);
    command
}

fn shipped() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/latency.toml")
}

fn metric<'a>(result: &'a Value, name: &str) -> &'a Value {
    let metrics = result["latency"]["metrics"].as_array().unwrap();
    metrics.iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("{metrics:#?}"))
}

/// With five boots a side, one per cent more in `offline_pages()` is found, and nothing else.
#[test]
fn nightly_one_per_cent_is_seen_by_the_exact_clock() {
    let run = Run::new();
    exact(&run, "known-bugs/planted-slow-offline.patch")
        .assert()
        .code(1)
        .stdout(predicate::str::contains("REGRESSED   slower: offline_pages +"))
        .stdout(predicate::str::contains("latency   exact clock, 5 + 5 boots"));
    let result = run.result();
    assert_eq!(result["reports"].as_array().unwrap().len(), 0, "{result:#}");
    let offline = metric(&result, "offline_pages");
    assert_eq!(offline["told"], "slower", "{offline:#}");
    let (low, high) = (offline["interval"][0].as_f64().unwrap(), offline["interval"][1].as_f64().unwrap());
    assert!(low < 1.013 && 1.007 < high, "{offline:#}");
    // No function without a planted change is judged to differ. "no change" is only expected of a
    // function without randomness: CPUs wait for grace periods, and arch_add_memory() has been seen
    // to take 2 % more from one boot to another.
    let no_change = metric(&result, "online_pages");
    assert_eq!(no_change["told"], "no-change", "{no_change:#}");
    for other in ["online_pages", "arch_add_memory", "arch_remove_memory"] {
        let other = metric(&result, other);
        assert!(!["slower", "faster"].contains(&other["told"].as_str().unwrap()), "{other:#}");
        assert!(other["samples"]["before"].as_u64().unwrap() >= 10, "{other:#}");
    }
    let printed =
        Command::new(env!("CARGO_BIN_EXE_hotplug")).arg("latency").arg(run.folder()).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("over 5 boots") && printed.contains("SLOWER, p = "), "{printed}");
    // There are only marks of the guest's clock: the host's time has no meaning here.
    assert!(printed.contains("\nplug dimm: driver..registered"), "{printed}");
    assert!(
        printed.contains("unplug dimm: offline-done..removed") && !printed.contains("asked"),
        "{printed}"
    );
}

/// Stalls of forks, page faults and the like, and hold times of locks, of one kernel against
/// itself.
#[test]
fn nightly_others_are_timed_and_so_are_locks() {
    let run = Run::new();
    let stalls = shipped().with_file_name("stalls.toml");
    let text = std::fs::read_to_string(stalls).unwrap();
    let path = run.results().with_file_name("stalls-and-locks.toml");
    std::fs::write(&path, format!("{text}locks = [\"mem_hotplug_lock\", \"cpu_hotplug_lock-R\"]\n")).unwrap();
    timed(&run)
        .args(["--exact", "--boots", "2", "--trials", "1", "--same", "--scenario"])
        .arg(path)
        .assert()
        .stdout(predicate::str::contains("latency   exact clock, 2 + 2 boots"));
    let latency = &run.result()["latency"];
    let victims = latency["victims"].as_array().unwrap();
    let names: Vec<&str> = victims.iter().map(|victim| victim["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["page fault", "fork", "mmap", "slab cache", "static key"]);
    for victim in victims {
        for side in ["before", "after"] {
            let spread = &victim["spread"][side];
            assert!(spread["count"].as_u64().unwrap() >= 20, "{victim:#}");
            let worst = victim["worst"][side]["nanoseconds"].as_u64().unwrap();
            assert_eq!(spread["max"].as_u64(), Some(worst), "{victim:#}");
        }
    }
    // The CPU lane takes the lock for writing, and the flip of a static key takes it as well.
    let meanwhile = victims.iter().filter(|victim| !victim["worst"]["before"]["meanwhile"].is_null());
    assert!(meanwhile.count() > 0, "{victims:#?}");
    for lock in ["mem_hotplug_lock: held", "cpu_hotplug_lock-R: held"] {
        let result = run.result();
        let held = metric(&result, lock);
        assert!(held["none"].is_null() && held["typical"]["after"].as_f64().unwrap() > 100.0, "{held:#}");
        assert_eq!(held["boots"]["before"].as_array().map(Vec::len), Some(2), "{held:#}");
    }
}

/// A kernel with reports is not timed, and the reason is printed.
#[test]
fn a_kernel_that_reports_has_no_latency() {
    let run = Run::new();
    // One trial a side does not decide about the report.
    exact(&run, "seed").assert().code(3).stdout(predicate::str::contains(
        "latency   not judged: 1 of 1 after trials were not clean (--latency-despite-reports)",
    ));
    assert!(!run.folder().join("latency").exists());
}

#[test]
fn what_the_exact_clock_cannot_do_is_said_before_anything_is_built() {
    let run = Run::new();
    timed(&run)
        .args(["--exact"])
        .arg(patch("seed"))
        .assert()
        .code(2)
        .stderr(predicate::str::contains("scenario dimm-and-cpu does not define what to time"));
    let with_cpus = run.scenario(|text| format!("{text}\n[latency]\nfunctions = [\"offline_pages\"]\n"));
    timed(&run).args(["--exact", "--scenario"]).arg(with_cpus).arg(patch("seed")).assert().code(2).stderr(
        predicate::str::contains("unplugs CPUs, and QEMU aborts on that when it counts instructions"),
    );
    assert!(!run.results().exists());
}

//! `hotplug compare` on real kernels under real QEMU: its verdicts are right, and it distinguishes
//! every way in which a run can fail. No test is skipped: on a machine that lacks something the
//! tests fail, and the message names what is missing.

mod common;
mod coverage;
mod culprits;
mod fleet;
mod latency;
mod locks;
mod overlap;
mod packages;
mod power;
mod programs;
mod prove;
mod race;
#[path = "common/recorded.rs"]
mod recorded;
mod replay;

use std::path::Path;
use std::time::Duration;

use common::{Run, SCENARIO};
use nix::sys::signal::{Signal, kill};
use predicates::prelude::*;
use recorded::{Recorded, TRIALS};
use serde_json::{Value, json};

#[test]
fn the_seed_patch_regresses_by_one_report_in_every_trial() {
    let Recorded { run, screen } = recorded::seed();
    let result = run.result();
    assert_eq!(result["schema"], 2);
    assert_eq!(result["verdict"], "regressed");
    // The kernel has bugs of its own that show once in hundreds of trials (docs/findings/). They
    // have no influence on the verdict.
    let all = result["reports"].as_array().unwrap();
    let (reports, chance): (Vec<&Value>, Vec<&Value>) =
        all.iter().partition(|report| report["decided"] == true);
    let release = result["run"]["kernels"]["after"]["release"].as_str().unwrap();
    // On 6.12 a second callback relies on the lock that the patch removes: cpuset_handle_hotplug().
    let expected = if release.starts_with("6.1.") { 1 } else { 2 };
    assert_eq!(reports.len(), expected, "{release}: {reports:#?}");
    // A trial that shows such a bug may have hung, and then does not count as armed to the end.
    let armed = TRIALS - u32::from(!chance.is_empty());
    for report in &reports {
        assert_eq!(report["class"], "new");
        assert_eq!(report["kind"], "warning");
        assert!(report["title"].as_str().unwrap().contains("lockdep_assert_cpus_held"), "{report:#}");
        assert_eq!((&report["before"]["seen"], &report["after"]["seen"]), (&json!(0), &json!(TRIALS)));
        assert!((armed..=TRIALS).any(|trials| report["before"]["trials"] == trials), "{report:#}");
    }
    let report = reports
        .iter()
        .find(|report| report["title"].as_str().unwrap().ends_with("in flush_all_cpus_locked"))
        .unwrap();
    let frames: Vec<&str> = report["frames"].as_array().unwrap().iter().filter_map(|f| f.as_str()).collect();
    let place =
        |name| frames.iter().position(|f| *f == name).unwrap_or_else(|| panic!("no {name} in {frames:?}"));
    assert!(place("flush_all_cpus_locked") < place("slab_memory_callback"));
    assert!(place("slab_memory_callback") < place("offline_pages"));
    // The report is printed once for each slab cache and block, and listed once.
    assert!(report["times"].as_u64().unwrap() > 100, "{report:#}");
    for side in ["before", "after"] {
        let has: u32 = result["trials"][side]["armed"].as_u64().unwrap().try_into().unwrap();
        assert!((armed..=TRIALS).contains(&has), "{result:#}");
        assert_eq!(result["trials"][side]["operations_refused"], 0, "{result:#}");
    }
    // Each report takes six lines.
    assert!(screen.lines().count() <= 21 + 6 * expected, "{screen}");
    let class = |name| all.iter().filter(|report| report["class"] == name).count();
    let counts = format!("{} new, {} fixed, {} common", class("new"), class("fixed"), class("common"));
    assert!(screen.contains(&format!("REGRESSED   {counts}")), "{screen}");
    locks::the_seed_patch_moves_the_lock(&result, release, &screen);
    for file in [
        "run.json",
        "scenario.toml",
        "trials/after-000/trial.json",
        "trials/after-000/kmsg.log",
        "trials/after-000/serial.log",
        "trials/after-000/qmp.log",
        "trials/after-000/qemu.stderr",
        "trials/after-000/qemu.cmd",
        "trials/after-000/events.jsonl",
        "trials/after-000/schedule.json",
        "trials/after-000/lock-order.json",
        "checkpoints/after/lock-order.json",
        "boots/2/checkpoints/before/lock-order.json",
        "boots/2/checkpoints/before/kmsg.log",
        "boots/2/trials/before-000/lock-order.json",
    ] {
        assert!(run.folder().join(file).exists(), "{file}");
    }
}

/// The library without the command line (`harness/examples/judge.rs`).
#[test]
fn the_library_judges_the_seed_patch() {
    let run = Run::new();
    let tests = std::env::current_exe().unwrap();
    let judge = tests.parent().and_then(Path::parent).unwrap().join("examples/judge");
    let folder = run.results().with_file_name("judged");
    std::fs::create_dir(&folder).unwrap();
    let mut command = assert_cmd::Command::new(judge);
    let patch = std::fs::canonicalize(common::patch("seed")).unwrap();
    let output = command.arg(patch).current_dir(&folder).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(text.starts_with("Some(Regressed): "), "{text}");
    assert!(text.contains("after 5/5: WARNING: lockdep_assert_cpus_held in flush_all_cpus_locked"), "{text}");
}

#[test]
fn a_comment_only_patch_changes_nothing() {
    let Recorded { run, .. } = recorded::comment_only();
    let result = run.result();
    assert_eq!(result["verdict"], "unchanged");
    assert_eq!(result["reports"], serde_json::json!([]));
    locks::nothing_differs(&result);
}

#[test]
fn the_same_kernel_on_both_sides_is_unchanged() {
    let run = Run::new();
    run.compare_default()
        .args(["--same", "--trials", "2"])
        .assert()
        .code(0)
        .stdout(predicate::str::contains("UNCHANGED"));
    let result = run.result();
    assert_eq!(result["verdict"], "unchanged");
    assert_eq!(result["run"]["kernels"]["before"]["id"], result["run"]["kernels"]["after"]["id"]);
    assert!(result["trials"]["before"]["operations_done"].as_u64().unwrap() > 0);
}

#[test]
fn a_panic_at_boot_is_called_one() {
    let run = Run::new();
    let scenario =
        run.scenario(|text| text.replace("slots = 8", "slots = 8\nkernel_args = \"rdinit=/nowhere\""));
    run.compare().arg("--scenario").arg(scenario).args(["--same", "--trials", "1"]).assert().code(3);
    let trial = run.trial("before-000");
    assert_eq!(trial["outcome"], "panicked", "{trial:#}");
    assert_eq!(trial["reports"][0]["first"]["kind"], "panic", "{trial:#}");
    assert_eq!(run.result()["reports"][0]["class"], "common");
    run.assert_nothing_left();
}

#[test]
fn a_guest_that_hangs_before_the_agent_answers_is_called_hung() {
    let run = Run::new();
    // Without virtio the agent finds no channel, and the kernel prints nothing more.
    let hang = "slots = 8\nkernel_args = \"initcall_blacklist=virtio_pci_driver_init\"";
    let scenario = run.scenario(|text| text.replace("slots = 8", hang));
    let mut command = run.compare();
    // Each boot is given up once the console has been silent for the limit. This kernel is silent
    // after a few seconds.
    command
        .env("HOTPLUG_TIME_SCALE", "0.2")
        .arg("--scenario")
        .arg(scenario)
        .args(["--same", "--trials", "1"]);
    command.assert().code(3);
    let trial = run.trial("after-000");
    assert_eq!(trial["outcome"], "hung", "{trial:#}");
    assert!(trial["why"].as_str().unwrap().contains("at boot"), "{trial:#}");
    let state = std::fs::read_to_string(run.folder().join("trials/after-000/qemu-state.log")).unwrap();
    // The registers of two CPUs, read twice.
    assert_eq!(state.matches("\nRIP=").count(), 4, "{state}");
    assert!(state.contains("== info hotpluggable-cpus"), "{state}");
    run.assert_nothing_left();
}

#[test]
fn nightly_a_guest_that_never_leaves_its_firmware_says_nothing_about_the_kernel() {
    let run = Run::new();
    // SeaBIOS waits a minute for a key that chooses what to boot. Nothing hangs by itself at will:
    // the wait for a CPU that was plugged at the wrong moment is one of a hundred boots.
    let menu = "exec qemu-system-x86_64 \"$@\" -boot menu=on,splash-time=65000";
    let qemu = run.qemu_but("*-kernel*", menu);
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/boot.toml");
    let mut command = run.compare();
    command
        .env("HOTPLUG_QEMU", qemu)
        .env("HOTPLUG_TIME_SCALE", "0.1")
        .arg("--scenario")
        .arg(scenario)
        .args(["--accel", "tcg", "--same", "--trials", "1"]);
    command.assert().code(4);
    let trial = run.trial("after-000");
    assert_eq!(trial["outcome"], "infrastructure", "{trial:#}");
    let why = trial["why"].as_str().unwrap();
    assert!(why.contains("the firmware, at 0x") && why.ends_with("did not start the kernel"), "{why}");
    let state = std::fs::read_to_string(run.folder().join("trials/after-000/qemu-state.log")).unwrap();
    assert!(state.contains("== info registers -a"), "{state}");
    run.assert_nothing_left();
}

#[test]
fn a_killed_qemu_is_infrastructure_and_its_trial_is_tried_again() {
    let run = Run::new();
    let mut child = run.spawn(run.compare_default().args(["--same", "--trials", "1"]));
    let qemu = run.wait_for_qemu();
    kill(qemu, Signal::SIGKILL).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let spoilt = run.trial("before-000");
    assert_eq!(spoilt["outcome"], "infrastructure", "{spoilt:#}");
    assert!(spoilt["why"].as_str().unwrap().contains("SIGKILL"), "{spoilt:#}");
    assert_eq!(run.trial("before-000-again1")["outcome"], "clean");
    assert_eq!(run.result()["trials"]["before"]["infrastructure"], 0);
}

#[test]
fn ctrl_c_leaves_nothing_running_and_readable_results() {
    let run = Run::new();
    let mut child = run.spawn(run.compare_default().args(["--same", "--trials", "3"]));
    run.wait_for_qemu();
    kill(common::pid(&child), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    run.assert_nothing_left();
    let result = run.result();
    assert_eq!(result["verdict"], "inconclusive");
    assert!(result["reason"].as_str().unwrap().starts_with("interrupted after"), "{result:#}");
}

#[test]
fn a_full_disk_ends_the_run_and_is_told_once() {
    let run = Run::new();
    let output = run.on_small_disk(run.compare_default().args(["--same", "--trials", "2"]), "200k");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    let told = stderr.matches("No space left on device").count();
    assert!(told == 1 && stderr.contains("help: free some space"), "{stderr}");
    run.assert_nothing_left();
}

#[test]
fn sigkill_of_the_harness_takes_qemu_along() {
    let run = Run::new();
    let mut child = run.spawn(run.compare_default().args(["--same", "--trials", "3"]));
    run.wait_for_qemu();
    child.kill().unwrap();
    child.wait().unwrap();
    common::wait_until(Duration::from_secs(30), || run.qemus().is_empty());
    // Evidence first: the plan of the killed run is on disk.
    assert_eq!(run.json("run.json")["trials"], 3);
}

#[test]
fn mistakes_are_told_before_anything_is_built_or_written() {
    let no_results = |run: &Run| assert!(!run.results().exists());
    let bad = |args: &[&str], says: &[&str]| {
        let run = Run::new();
        let assert = run.compare_default().args(args).assert().code(2);
        let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        for text in says {
            assert!(stderr.contains(text), "{args:?} should say {text:?}:\n{stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
        no_results(&run);
    };
    bad(&["no-such.patch"], &["no-such.patch"]);
    bad(&["--same", "--scenario", "no-such.toml"], &["no-such.toml", "help:"]);
    bad(&["--before-image", "Cargo.toml", "--after-image", "Cargo.toml"], &["Cargo.toml", "kernel"]);
    bad(&[], &["there is nothing to compare", "--same"]);
    bad(&["--trials", "0"], &["--trials"]);
    bad(&["--accel", "none"], &["--accel"]);

    let run = Run::new();
    let scenario = run.scenario(|text| text.replace("in_flight", "inflight"));
    let unknown = run.compare().arg("--same").arg("--scenario").arg(&scenario).assert().code(2);
    unknown.stderr(
        predicate::str::contains("unknown field `inflight`").and(predicate::str::contains("^^^^^^^^")),
    );
    let scenario = run.scenario(|text| text.replace("name = \"cpus\"", "name = \"cpus\"\nrepeat = 2"));
    let threads = run.compare().arg("--same").arg("--scenario").arg(&scenario).assert().code(2);
    threads.stderr(predicate::str::contains("max_cpus = 10"));
    let none = run.compare_default().arg("--same").env("HOTPLUG_QEMU", "/nowhere/qemu").assert().code(2);
    none.stderr(predicate::str::contains("/nowhere/qemu"));
    let old = run.old_qemu();
    let old = run
        .compare_default()
        .arg("--same")
        .env("HOTPLUG_QEMU", old)
        .args(["--accel", "tcg"])
        .assert()
        .code(2);
    old.stderr(
        predicate::str::contains("QEMU 7.2.0 cannot remove CPUs").and(predicate::str::contains("help:")),
    );
    no_results(&run);
    assert!(SCENARIO.contains("in_flight"));
}

//! Races made on purpose, on real kernels.

use std::path::{Path, PathBuf};
use std::process::Command;

use predicates::prelude::*;
use serde_json::{Value, json};

use crate::common::{Run, patch};

fn hotplug(run: &Run, words: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = assert_cmd::Command::from_std(Command::new(env!("CARGO_BIN_EXE_hotplug")));
    command.args(words).args(["--workers", "1", "--results"]).arg(run.results());
    command.arg(patch("clean/comment-only.patch")).assert()
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios").join(name)
}

/// The sum of a count over all pairs and both sides.
fn trials(cells: &[Value], of: impl Fn(&Value) -> u64) -> u64 {
    cells.iter().flat_map(|cell| ["before", "after"].map(|side| of(&cell["count"][side]))).sum()
}

/// The control: a task that writes to a memory block's `state` or a CPU's `online` holds
/// `device_hotplug_lock`.
#[test]
fn nightly_what_a_lock_keeps_apart_is_told_with_the_lock() {
    let run = Run::new();
    hotplug(&run, &["race", "--functions", "offline_pages", "--against", "_cpu_up"])
        .code(0)
        .stdout(predicate::str::contains("kept apart by device_hotplug_lock"));
    let result = run.result();
    let cells = result["race"]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 2, "{cells:#?}");
    let number = |count: &Value, name: &str| count[name].as_u64().unwrap();
    assert_eq!(trials(cells, |count| number(count, "trials")), 8);
    assert_eq!(trials(cells, |count| number(count, "met")), 0, "{cells:#?}");
    let locks: Vec<&String> = cells
        .iter()
        .flat_map(|cell| ["before", "after"].map(|side| &cell["count"][side]))
        .flat_map(|count| [&count["excluded"], &count["both_hold"]].map(|locks| locks.as_object().unwrap()))
        .flat_map(|locks| locks.keys())
        .collect();
    // In some trials no task may come to the second place, by chance, but not in all.
    assert!(!locks.is_empty() && locks.iter().all(|lock| *lock == "device_hotplug_lock"), "{cells:#?}");
    let printed =
        Command::new(env!("CARGO_BIN_EXE_hotplug")).arg("overlap").arg(run.folder()).output().unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(text.contains("_cpu_up held until offline_pages"), "{text}");
}

/// Neither the bind of pmem nor the code before `_cpu_up()` takes a lock that the other one takes.
#[test]
fn what_can_meet_meets_and_meets_again() {
    let run = Run::new();
    let scenario = shipped("pmem-against-cpu.toml");
    let words = [
        "race",
        "--functions",
        "memremap_pages",
        "--against",
        "cpu_device_up",
        "--scenario",
        scenario.to_str().unwrap(),
    ];
    hotplug(&run, &words).code(0).stdout(predicate::str::contains("met"));
    let result = run.result();
    let cells = result["race"]["cells"].as_array().unwrap();
    let met = trials(cells, |count| count["met"].as_u64().unwrap());
    assert!(cells.len() == 2 && met >= 4, "{cells:#?}");
    let example = cells[0]["count"]["before"]["example"].as_str().unwrap().trim_start_matches("trials/");
    let trial = run.trial(example);
    let last = trial["holds"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["hold"], &last["until"]), (&json!("memremap_pages"), &json!("cpu_device_up")));
    assert!(last["task"]["pid"] != last["partner"]["pid"], "{last:#}");
    // The schedule records the hold, so that a replay repeats it.
    assert_eq!(trial["schedule"]["holding"]["rendezvous"][0]["hold"], "memremap_pages");
    let scenario = std::fs::read_to_string(run.folder().join("scenario.toml")).unwrap();
    assert!(scenario.contains("[sweep]"), "{scenario}");
}

/// A panic while a task is held counts as a panic, and leaves no process behind.
#[test]
fn a_guest_that_dies_while_one_is_held_is_told_as_dead() {
    let run = Run::new();
    let scenario = run.scenario(|text| {
        let crash = "[[lane]]\nname = \"crash\"\nsteps = [\n    { write = \"/proc/sysrq-trigger\", data = \"c\", \
                     after = { step = \"unplug dimm\", phase = \"notified\", offset_us = 600000 } },\n]\n\n";
        let held = "[[rendezvous]]\nhold = \"offline_pages\"\nuntil = \"kernel_halt\"\nlimit_ms = 9000\n";
        format!("{text}\n{crash}{held}")
    });
    let mut command = run.compare();
    command.args(["--trials", "1", "--scenario"]).arg(scenario).arg(patch("clean/comment-only.patch"));
    command.assert().code(3);
    let trial = run.trial("before-000");
    assert_eq!(trial["outcome"], "panicked", "{trial:#}");
    assert_eq!(trial["holds"][0]["outcome"], "cut-off", "{trial:#}");
    run.assert_nothing_left();
}

#[test]
fn what_no_kernel_has_is_told_before_anything_boots() {
    let run = Run::new();
    let said = |functions: &str, words: [&'static str; 2]| {
        let told = predicate::str::contains(words[0]).and(predicate::str::contains(words[1]));
        hotplug(&run, &["race", "--functions", functions]).code(2).stderr(told);
    };
    said(
        "offline_pagse",
        [
            "cannot set a breakpoint at offline_pagse: the before kernel has no function",
            "similar names: offline_pages",
        ],
    );
    said("offline_pagse?", ["neither kernel has this place", "similar names: offline_pages"]);
    said(
        "pfn_to_online_page,cpus_write_lock,arch_local_irq_save",
        ["inlined into its callers", "name a caller"],
    );
    said("start_kernel", ["runs start_kernel during boot only", "after the boot"]);
    said(
        "mm/memory_hotplug.c:1",
        ["has no code at this line; the nearest is mm/memory_hotplug.c:", "name a line that has code"],
    );
    said("offline_pages()", ["`offline_pages()` is not a place to hold at", "offline_pages:return"]);
    assert!(!run.results().exists());
}

/// Each delay is as long as specified, and only the specified visits are delayed.
#[test]
fn delays_are_as_many_as_were_asked_for() {
    let run = Run::new();
    let scenario = run.scenario(|text| {
        format!(
            "{text}\n[[delay]]\nat = \"try_remove_memory\"\nus = 20000\nvisit = 2\n\n\
             [[delay]]\nat = \"online_pages:return\"\nus = 5000\nvisit = 1\n"
        )
    });
    let mut command = run.compare();
    command.args(["--trials", "1", "--scenario"]).arg(scenario).arg(patch("clean/comment-only.patch"));
    command.assert().code(0);
    for side in ["before-000", "after-000"] {
        let trial = run.trial(side);
        let mut holds: Vec<(&str, u64)> = trial["holds"]
            .as_array()
            .unwrap()
            .iter()
            .inspect(|hold| assert_eq!(hold["outcome"], "delayed", "{hold:#}"))
            .map(|hold| (hold["hold"].as_str().unwrap(), hold["held_us"].as_u64().unwrap()))
            .collect();
        holds.sort_unstable();
        assert_eq!(holds, [("online_pages:return", 5000), ("try_remove_memory", 20000)], "{trial:#}");
    }
}

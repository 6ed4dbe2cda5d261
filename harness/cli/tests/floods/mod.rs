//! QEMUs and guests that print without end, and what reading their output costs.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::process::Child;
use std::time::Duration;

use crate::Faulty;
use crate::common::wait_until;

/// The size of a file of the first trial.
fn size(faulty: &Faulty, file: &str) -> u64 {
    std::fs::metadata(faulty.0.folder().join("trials/before-000").join(file)).unwrap().len()
}

#[test]
fn nightly_a_qemu_that_floods_fills_no_disk() {
    Faulty::spoils("flood-of-monitor@accepted", &["more than 16 MiB of events"]);
    let faulty = Faulty::comes_to("flood-of-stderr@accepted", "clean", 0);
    let size = size(&faulty, "qemu.stderr");
    assert!(((64 << 20)..(65 << 20)).contains(&size), "qemu.stderr has {size} bytes");
}

#[test]
fn an_agent_that_floods_fills_no_disk() {
    Faulty::spoils("flood-of-agent@accepted", &["more than 16 MiB of events"]);
}

#[test]
fn a_kernel_that_floods_fills_no_disk_and_is_not_called_clean() {
    let faulty = Faulty::comes_to("flood-of-kernel@accepted", "blind", 3);
    for file in ["kmsg.log", "serial.log"] {
        let size = size(&faulty, file);
        assert!(((64 << 20)..(65 << 20)).contains(&size), "{file} has {size} bytes");
    }
    let trial = faulty.0.trial("before-000");
    assert!(trial["lost_records"].as_u64().unwrap() > 1000, "{trial:#}");
}

#[test]
fn floods_take_no_memory_to_speak_of() {
    for (fault, limit) in [("flood-of-agent@accepted", 128), ("flood-of-kernel@accepted", 512)] {
        let faulty = Faulty::new();
        let mut child = faulty.spawn(fault, &[]);
        let mut peak = 0;
        wait_until(Duration::from_secs(300), || {
            peak = peak.max(memory(&child, "VmHWM").unwrap_or(0));
            child.try_wait().unwrap().is_some()
        });
        assert!((1..limit).contains(&(peak >> 10)), "{fault}: {peak} KiB");
        faulty.0.assert_nothing_left();
    }
}

/// A figure of `/proc/pid/status`, KiB.
fn memory(child: &Child, figure: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Peak memory of the harness after `early` and after 95 % of `late` trials a side, KiB.
fn growth(early: u32, late: u32) -> (u64, u64) {
    let faulty = Faulty::new();
    let mut child = faulty.spawn("", &["--trials", &late.to_string()]);
    let ended = |number: u32| {
        let mut runs = std::fs::read_dir(faulty.0.results()).into_iter().flatten().flatten();
        runs.any(|run| run.path().join(format!("trials/after-{number:03}/trial.json")).exists())
    };
    let mut figures = Vec::new();
    for number in [early, late - late / 20] {
        wait_until(Duration::from_secs(1800), || {
            assert!(child.try_wait().unwrap().is_none(), "it ended before trial {number} was seen");
            ended(number)
        });
        figures.push(memory(&child, "VmHWM").unwrap());
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(faulty.0.result()["trials"]["after"]["trials"], late);
    faulty.0.assert_nothing_left();
    (figures[0], figures[1])
}

#[test]
fn memory_does_not_grow_with_the_number_of_trials() {
    let (early, late) = growth(100, 1000);
    assert!(late < early + 2048, "{early} KiB became {late} KiB");
}

/// Takes minutes and a gigabyte of disk.
#[test]
fn nightly_memory_does_not_grow_with_ten_thousand_trials() {
    let (early, late) = growth(100, 5000);
    eprintln!("{early} KiB after 200 trials, {late} KiB after 9500");
    assert!(late < early + 4096, "{early} KiB became {late} KiB");
}

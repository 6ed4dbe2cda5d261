//! Runs that are ended at every stage: no process is left, and every file can be read.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::Faulty;
use crate::common::{pid, wait_until};

/// The progress of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Started,
    Folder,
    Written,
    Boots,
    FirstTrial,
    SomeTrials,
}

const STAGES: [Stage; 6] =
    [Stage::Started, Stage::Folder, Stage::Written, Stage::Boots, Stage::FirstTrial, Stage::SomeTrials];

impl Stage {
    fn is_reached(self, faulty: &Faulty) -> bool {
        let mut runs = std::fs::read_dir(faulty.0.results()).into_iter().flatten().flatten();
        let mut has = |path: &str| runs.any(|run| run.path().join(path).exists());
        match self {
            Self::Started => true,
            Self::Folder => has(""),
            Self::Written => has("run.json"),
            Self::Boots => has("checkpoints"),
            Self::FirstTrial => has("trials/before-000"),
            Self::SomeTrials => has("trials/after-002/trial.json"),
        }
    }
}

/// Checks that every file can be read.
fn assert_readable(faulty: &Faulty) {
    for entry in walkdir::WalkDir::new(faulty.0.results()).into_iter().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read(entry.path()).unwrap();
            let parsed: Result<Value, _> = serde_json::from_slice(&text);
            assert!(parsed.is_ok(), "{}: {}", entry.path().display(), parsed.unwrap_err());
        }
    }
    let begun = std::fs::read_dir(faulty.0.results()).into_iter().flatten().flatten();
    for run in begun.filter(|run| run.path().join("trials/before-000").exists()) {
        assert!(run.path().join("run.json").exists(), "{}", run.path().display());
    }
}

/// Ends a run by these signals once `begin` has returned, and checks what is left. A signal that
/// comes `early`, before the handlers are installed, may kill the process.
fn ends(signals: &[Signal], status: Option<i32>, early: bool, begin: impl FnOnce(&Faulty)) {
    let faulty = Faulty::new();
    let mut child = faulty.spawn("", &["--trials", "100000"]);
    begin(&faulty);
    for signal in signals {
        kill(pid(&child), *signal).unwrap();
    }
    let ended = child.wait().unwrap();
    assert!(ended.code() == status || early && ended.code().is_none(), "{ended}");
    wait_until(Duration::from_secs(30), || faulty.0.qemus().is_empty());
    faulty.0.assert_nothing_left();
    assert_readable(&faulty);
}

/// Ends a run at every stage.
fn interrupted(signals: &[Signal], status: Option<i32>) {
    for stage in STAGES {
        ends(signals, status, stage == Stage::Started, |faulty| {
            wait_until(Duration::from_secs(60), || stage.is_reached(faulty));
        });
    }
}

#[test]
fn ctrl_c_at_every_stage_leaves_nothing() {
    interrupted(&[Signal::SIGINT], Some(130));
}

#[test]
fn a_closed_terminal_at_every_stage_leaves_nothing() {
    interrupted(&[Signal::SIGHUP], Some(130));
}

#[test]
fn ctrl_c_twice_at_every_stage_leaves_nothing() {
    interrupted(&[Signal::SIGINT, Signal::SIGINT], Some(130));
}

#[test]
fn sigkill_at_every_stage_leaves_nothing() {
    interrupted(&[Signal::SIGKILL], None);
}

/// Ends a run at one of many moments that no event marks. They are spread over the start, which
/// takes a second at most, and the first trials.
fn at_moment(number: u64, signals: &[Signal], status: Option<i32>) {
    let moment = Duration::from_millis(number * 617 % 1700);
    // The moment is the parameter of the test, so this sleep replaces no wait for an event.
    ends(signals, status, moment < Duration::from_millis(100), |_| std::thread::sleep(moment));
}

/// Defines a test for each moment and signal.
macro_rules! at_all_moments {
    ($($number:literal => $name:ident,)*) => {
        mod nightly_ctrl_c {
            $(#[test] fn $name() { super::at_moment($number, &[super::Signal::SIGINT], Some(130)); })*
        }
        mod nightly_ctrl_c_twice {
            $(#[test] fn $name() { super::at_moment($number, &[super::Signal::SIGINT; 2], Some(130)); })*
        }
        mod nightly_sigkill {
            $(#[test] fn $name() { super::at_moment($number, &[super::Signal::SIGKILL], None); })*
        }
    };
}

at_all_moments! {
    0 => moment_00, 1 => moment_01, 2 => moment_02, 3 => moment_03, 4 => moment_04, 5 => moment_05,
    6 => moment_06, 7 => moment_07, 8 => moment_08, 9 => moment_09, 10 => moment_10, 11 => moment_11,
    12 => moment_12, 13 => moment_13, 14 => moment_14, 15 => moment_15, 16 => moment_16, 17 => moment_17,
    18 => moment_18, 19 => moment_19, 20 => moment_20, 21 => moment_21, 22 => moment_22, 23 => moment_23,
    24 => moment_24, 25 => moment_25, 26 => moment_26, 27 => moment_27, 28 => moment_28, 29 => moment_29,
    30 => moment_30, 31 => moment_31, 32 => moment_32, 33 => moment_33,
}

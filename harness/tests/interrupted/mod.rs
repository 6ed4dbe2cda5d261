//! Runs that are ended at all moments: nothing is left running, and what was written can be read.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::Faulty;
use crate::common::{pid, wait_until};

/// Moments at which a run is interrupted.
fn moments() -> impl Iterator<Item = Duration> {
    // Spread over a start, which takes a second at most, and some trials.
    (0..34_u64).map(|n| Duration::from_millis(n * 617 % 1700))
}

/// Whatever was written can be read.
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

/// Ends runs at all moments by these signals, and has a look at what is left.
fn interrupted(signals: &[Signal], status: Option<i32>) {
    for moment in moments() {
        let faulty = Faulty::new();
        let mut child = faulty.spawn("", &["--trials", "100000"]);
        // The moment is what is tried here, not something that is waited for.
        std::thread::sleep(moment);
        for signal in signals {
            kill(pid(&child), *signal).unwrap();
        }
        let ended = child.wait().unwrap();
        // A signal that comes before anybody listens ends it as it ends any process.
        let early = moment < Duration::from_millis(100) && ended.code().is_none();
        assert!(ended.code() == status || early, "{moment:?}: {ended}");
        wait_until(Duration::from_secs(30), || faulty.0.qemus().is_empty());
        faulty.0.assert_nothing_left();
        assert_readable(&faulty);
    }
}

#[test]
fn ctrl_c_at_any_moment_leaves_nothing() {
    interrupted(&[Signal::SIGINT], Some(130));
}

#[test]
fn ctrl_c_twice_at_any_moment_leaves_nothing() {
    interrupted(&[Signal::SIGINT, Signal::SIGINT], Some(130));
}

#[test]
fn sigkill_at_any_moment_leaves_nothing() {
    interrupted(&[Signal::SIGKILL], None);
}

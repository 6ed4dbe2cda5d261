//! Runs that several tests read or continue. Each is made once for all processes of a test run, and
//! copied by each test.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::common::{DEFAULT, Run, SCENARIO, patch};

/// Age after which runs of an earlier test run are removed.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// Trials a side. Fewer would decide about a report that is in every trial of one side, but not
/// about one of the hundreds of dependencies of the lock order.
pub(crate) const TRIALS: u32 = 10;

/// A run, in a folder of the test's own, and its output.
pub(crate) struct Recorded {
    pub(crate) run: Run,
    pub(crate) screen: String,
}

/// The seed patch, with its coverage.
pub(crate) fn seed() -> Recorded {
    recorded("seed", "seed", &["--no-control", "--no-latency"], 1)
}

/// A patch that changes nothing, with its control and its coverage.
pub(crate) fn comment_only() -> Recorded {
    recorded("comment-only", "clean/comment-only.patch", &[], 0)
}

fn recorded(name: &str, which: &str, arguments: &[&str], status: i32) -> Recorded {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recorded");
    std::fs::create_dir_all(&all).unwrap();
    let place = all.join(format!("{name}-{}", this_test_run()));
    let lock = File::create(place.with_extension("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    if !place.join("screen").exists() {
        let _ = std::fs::remove_dir_all(&place);
        forget_old(&all);
        let run = Run::new();
        let mut command = run.compare_with_control();
        let output = command
            .arg(patch(which))
            .args(DEFAULT)
            .args(["--trials", &TRIALS.to_string()])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        run.assert_nothing_left();
        std::fs::create_dir(&place).unwrap();
        copy(&run.results(), &place.join("results"));
        // Written last and atomically: if this file exists, the run is complete.
        std::fs::write(place.join("screen.new"), output.stdout).unwrap();
        std::fs::rename(place.join("screen.new"), place.join("screen")).unwrap();
    }
    let run = Run::new();
    copy(&place.join("results"), &run.results());
    Recorded { run, screen: std::fs::read_to_string(place.join("screen")).unwrap() }
}

/// A name for this run of tests, from the binary and the scenario, so that no result of an earlier
/// test run is taken for one of this run.
fn this_test_run() -> String {
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string());
    let binary = std::fs::read(env!("CARGO_BIN_EXE_hotplug")).unwrap();
    let mut hash = blake3::Hasher::new();
    hash.update(run.as_bytes()).update(&binary).update(SCENARIO.as_bytes());
    hash.finalize().to_hex()[..16].to_owned()
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").args(["--archive", "--reflink=auto"]).arg(from).arg(to).status().unwrap();
    assert!(done.success(), "{} cannot be copied", from.display());
}

fn forget_old(all: &Path) {
    for entry in std::fs::read_dir(all).unwrap().flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        if modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > OLD)) {
            let _ = std::fs::remove_dir_all(entry.path()).or_else(|_| std::fs::remove_file(entry.path()));
        }
    }
}

//! The limits of every wait for a guest, for QEMU, or for one of QEMU's connections.
//!
//! The environment variable [`SCALE`] multiplies all of them. It is meant for tests: a test of a
//! monitor that never answers can then wait one second instead of a minute. The scale does not
//! apply to the limits that a scenario sets (`time_limit_s`, `limit_ms`), because these are the
//! user's.

use std::sync::LazyLock;
use std::time::Duration;

use crate::{Error, Result};

/// The environment variable that holds the scale, a number above 0.
pub const SCALE: &str = "HOTPLUG_TIME_SCALE";

/// The largest scale. With it, the longest limit is 21 days.
const MOST: f64 = 10_000.0;

/// The longest duration of each wait, in time of the host's clock unless the field's documentation
/// gives another clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The time for QEMU to start and to answer on its monitor. It takes 40 ms.
    pub start: Duration,
    /// The time for QEMU to save or load a checkpoint. It takes 5 ms.
    pub migration: Duration,
    /// A booting guest that prints nothing for this long counts as hung. The longest pause seen is
    /// 4 s, under TCG with both cores busy.
    pub silence: Duration,
    /// A guest that is not ready after this long counts as hung, even if it prints: a stalled
    /// kernel prints a message every 26 s.
    pub boot: Duration,
    /// The time for a panicking kernel to print its messages and reboot.
    pub last_words: Duration,
    /// The time for QEMU to exit after one of its connections has closed. It takes 20 ms, or longer
    /// if a core file is written first.
    pub parting: Duration,
    /// The time for QEMU's monitor to answer a command. It takes 1 ms, or 50 ms if the guest keeps
    /// all processors busy.
    pub monitor: Duration,
    /// The time for QEMU's gdbstub to answer. It takes 0.1 ms.
    pub gdbstub: Duration,
    /// The time for the guest to answer the queries around its boot and at the end of its trial. A
    /// guest that still flushes thousands of records needs some time.
    pub questions: Duration,
    /// A booted guest counts as settled after it has printed nothing for this long.
    pub settled: Duration,
    /// The kernel log must be quiet for this long before a query that would disturb the printing of
    /// a lock cycle (see `Agent::lockdep_stats`). The longest pause seen within such a report is
    /// 20 ms, under TCG with both cores busy.
    pub calm: Duration,
    /// The longest wait for a quiet log (`calm`), for a guest that prints warnings without end.
    pub calm_at_most: Duration,
    /// The time for QEMU or the guest to answer one query about a guest that hangs.
    pub diagnosis: Duration,
    /// The backtraces on the console of a hung guest count as complete after it is silent for this
    /// long.
    pub backtraces: Duration,
    /// The time for QEMU to return the memory that holds the lock order. It takes 10 ms.
    pub memory: Duration,
    /// The time for QEMU to dump the memory of a guest. It takes 0.7 s for 512 MiB.
    pub dump: Duration,
    /// The time by which the guest's memory may lag behind a virtio-mem device. The device reports
    /// its new size before the guest has added the memory or removed its blocks, and no event
    /// reports the removal (`virtio_mem_run_wq()` in the guest's driver).
    pub guest_follows: Duration,
    /// The time for a released task to run on a CPU again, in guest time. The task is always
    /// runnable.
    pub letting_go: Duration,
    /// The time for a child to end on a termination signal before it is killed.
    pub grace: Duration,
    /// The time for QEMU to answer `--version`, or to start without a machine and quit. It takes
    /// 0.05 s, and longer on a busy machine with a cold disk.
    pub program: Duration,
    /// The time for the first guest of the accelerator probe to answer. Its actual time scales the
    /// limits of the other guests. A machine that needs longer is not usable.
    pub first_guest: Duration,
    /// The smallest limit for the other guests of the accelerator probe, however fast the first one
    /// was.
    pub least_guest: Duration,
}

impl Limits {
    /// The limits without a scale.
    const PLAIN: Self = Self {
        start: Duration::from_secs(60),
        migration: Duration::from_secs(60),
        silence: Duration::from_secs(45),
        boot: Duration::from_secs(180),
        last_words: Duration::from_secs(20),
        parting: Duration::from_secs(2),
        monitor: Duration::from_secs(60),
        gdbstub: Duration::from_secs(20),
        questions: Duration::from_secs(60),
        settled: Duration::from_secs(1),
        calm: Duration::from_millis(100),
        calm_at_most: Duration::from_secs(2),
        diagnosis: Duration::from_secs(10),
        backtraces: Duration::from_secs(1),
        memory: Duration::from_secs(20),
        dump: Duration::from_secs(300),
        guest_follows: Duration::from_secs(10),
        letting_go: Duration::from_secs(10),
        grace: Duration::from_secs(5),
        program: Duration::from_secs(30),
        first_guest: Duration::from_secs(60),
        least_guest: Duration::from_secs(5),
    };

    fn scaled(scale: f64) -> Self {
        let Self {
            start,
            migration,
            silence,
            boot,
            last_words,
            parting,
            monitor,
            gdbstub,
            questions,
            settled,
            calm,
            calm_at_most,
            diagnosis,
            backtraces,
            memory,
            dump,
            guest_follows,
            letting_go,
            grace,
            program,
            first_guest,
            least_guest,
        } = Self::PLAIN;
        let by = |limit: Duration| limit.mul_f64(scale);
        Self {
            start: by(start),
            migration: by(migration),
            silence: by(silence),
            boot: by(boot),
            last_words: by(last_words),
            parting: by(parting),
            monitor: by(monitor),
            gdbstub: by(gdbstub),
            questions: by(questions),
            settled: by(settled),
            calm: by(calm),
            calm_at_most: by(calm_at_most),
            diagnosis: by(diagnosis),
            backtraces: by(backtraces),
            memory: by(memory),
            dump: by(dump),
            guest_follows: by(guest_follows),
            letting_go: by(letting_go),
            grace: by(grace),
            program: by(program),
            first_guest: by(first_guest),
            least_guest: by(least_guest),
        }
    }
}

/// The limits according to the environment, which is read once.
static IN_FORCE: LazyLock<Result<Limits, String>> = LazyLock::new(|| {
    let value = std::env::var_os(SCALE).filter(|value| !value.is_empty());
    match value {
        Some(value) => parse(&value.to_string_lossy()).map(Limits::scaled),
        None => Ok(Limits::PLAIN),
    }
});

/// The limits in force. If the scale is invalid, they are the limits without a scale, and [`check`]
/// returns the error.
pub(crate) fn limits() -> &'static Limits {
    IN_FORCE.as_ref().unwrap_or(&Limits::PLAIN)
}

/// Checks the value of [`SCALE`]. Fails with a user error if it is not a valid scale.
pub fn check() -> Result<()> {
    IN_FORCE.as_ref().map(drop).map_err(|why| Error::user(why).help(format!("unset {SCALE}")))
}

fn parse(text: &str) -> Result<f64, String> {
    let scale = text.parse().ok().filter(|scale| *scale > 0.0 && *scale <= MOST);
    scale.ok_or_else(|| format!("{SCALE}={text} is not a number above 0 and up to {MOST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_a_number_above_zero() {
        assert_eq!(parse("0.02"), Ok(0.02));
        assert_eq!(parse("3"), Ok(3.0));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "a tenth", " 1"] {
            let why = parse(wrong).unwrap_err();
            assert!(why.contains(wrong) && why.contains("number above 0"), "{why}");
        }
    }

    #[test]
    fn every_limit_scales_and_none_becomes_zero() {
        let limits = Limits::scaled(0.02);
        assert_eq!(limits.monitor, Duration::from_millis(1200));
        assert_eq!(limits.monitor.as_secs_f64().to_string(), "1.2");
        assert_eq!(limits.calm, Duration::from_millis(2));
        assert_eq!(Limits::scaled(1.0), Limits::PLAIN);
        assert_eq!(Limits::PLAIN.monitor.as_secs_f64().to_string(), "60");
    }
}

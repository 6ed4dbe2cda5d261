//! The limits of every wait for a guest, for QEMU, or for one of QEMU's connections.
//!
//! The environment variable [`SCALE`] multiplies all of them. It is meant for tests: a test of a monitor that never
//! answers waits one second then, and not a minute. The limits that a scenario sets itself (`time_limit_s`,
//! `limit_ms`) are the user's, and no scale touches them.

use std::sync::LazyLock;
use std::time::Duration;

use crate::{Error, Result};

/// The environment variable that holds the scale, a number above 0.
pub const SCALE: &str = "HOTPLUG_TIME_SCALE";

/// The largest scale: with it, the longest limit is 21 days.
const MOST: f64 = 10_000.0;

/// How long each wait may take at most. All are durations of the host's clock, unless the field says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// QEMU starts and answers its monitor. It takes 40 ms.
    pub start: Duration,
    /// QEMU saves or loads a checkpoint. It takes 5 ms.
    pub migration: Duration,
    /// A guest that prints nothing for this long while it boots hangs. Under TCG with both cores busy the longest pause
    /// seen is 4 s.
    pub silence: Duration,
    /// A guest that is not ready after this long hangs too, whatever it prints: a stalled kernel says so every 26 s.
    pub boot: Duration,
    /// A panicking kernel prints and reboots.
    pub last_words: Duration,
    /// QEMU ends after one of its connections has. It takes 20 ms; a core is written before.
    pub parting: Duration,
    /// QEMU's monitor answers a command. It takes 1 ms, and 50 ms where its guest keeps all processors busy.
    pub monitor: Duration,
    /// QEMU's gdbstub answers. It takes 0.1 ms.
    pub gdbstub: Duration,
    /// The guest answers the questions around its boot and at the end of its trial; a guest that still flushes
    /// thousands of records needs some time.
    pub questions: Duration,
    /// A guest that has printed nothing for this long after its boot has settled.
    pub settled: Duration,
    /// A lock cycle that is being printed is not disturbed (see `Agent::lockdep_stats`): the log is quiet for so long
    /// first. The longest pause seen in the middle of one is 20 ms, under TCG with both cores busy.
    pub calm: Duration,
    /// The same, for a guest that never stops to warn.
    pub calm_at_most: Duration,
    /// QEMU or the guest answers one question about a guest that hangs.
    pub diagnosis: Duration,
    /// The console of such a guest is taken to have ended its backtraces once it is silent for so long.
    pub backtraces: Duration,
    /// QEMU hands out the memory that holds the lock order. It takes 10 ms.
    pub memory: Duration,
    /// A virtio-mem device has its size before the guest has added the memory, or removed its blocks, and no event tells
    /// of the latter (`virtio_mem_run_wq()` in the guest's driver): the guest's memory may be behind for so long.
    pub guest_follows: Duration,
    /// A task that is let go has a CPU again, guest time. It wants one all the time.
    pub letting_go: Duration,
    /// A child obeys a termination signal before it is killed.
    pub grace: Duration,
    /// QEMU answers `--version`, or starts without a machine and quits. It takes 0.05 s; a machine that is busy and
    /// whose disk is cold needs some patience.
    pub program: Duration,
    /// The first guest of the accelerator probe answers; its time scales the others' limits. A machine that needs
    /// longer is of no use.
    pub first_guest: Duration,
    /// No other guest of the accelerator probe gets less, however quick the first one was.
    pub least_guest: Duration,
}

impl Limits {
    /// As they are without a scale.
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
            guest_follows: by(guest_follows),
            letting_go: by(letting_go),
            grace: by(grace),
            program: by(program),
            first_guest: by(first_guest),
            least_guest: by(least_guest),
        }
    }
}

/// What the environment asks for, read once.
static IN_FORCE: LazyLock<Result<Limits, String>> = LazyLock::new(|| {
    let value = std::env::var_os(SCALE).filter(|value| !value.is_empty());
    match value {
        Some(value) => parse(&value.to_string_lossy()).map(Limits::scaled),
        None => Ok(Limits::PLAIN),
    }
});

/// The limits in force. Where the scale is no number, which [`check`] tells the user, they are those without one.
pub(crate) fn limits() -> &'static Limits {
    IN_FORCE.as_ref().unwrap_or(&Limits::PLAIN)
}

/// The user's error: [`SCALE`] is set to something that is no scale.
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

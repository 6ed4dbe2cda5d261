//! Runs a number of loops a second, by deadlines on the clock. Pauses of a fixed length would
//! result in fewer loops.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Loops that were missed by more than this are not made up for: after a hang or a suspend they
/// would all come at once.
const LONGEST_BACKLOG: Duration = Duration::from_secs(1);

/// The times at which loops may begin.
#[derive(Debug)]
pub(crate) struct Pace(Option<Beat>);

#[derive(Debug)]
struct Beat {
    period: Duration,
    next: Duration,
    longest_backlog: Duration,
}

impl Pace {
    /// `rate` loops a second from now on. Without a rate, and with a rate of 0, there is no limit.
    pub(crate) fn new(rate: Option<u32>) -> Self {
        let period = rate.and_then(|rate| Duration::from_secs(1).checked_div(rate));
        Self(period.map(|period| Beat { period, next: now(), longest_backlog: LONGEST_BACKLOG }))
    }

    /// The same, without making up for loops that were missed.
    pub(crate) fn without_backlog(rate: Option<u32>) -> Self {
        Self(Self::new(rate).0.map(|beat| Beat { longest_backlog: Duration::ZERO, ..beat }))
    }

    /// Sleeps until the next loop is due.
    pub(crate) fn wait(&mut self) {
        let Some(beat) = &mut self.0 else {
            return;
        };
        let due = beat.due(now());
        let flags = ClockNanosleepFlags::TIMER_ABSTIME;
        // A signal that does not kill does no harm: at most one loop begins early.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &TimeSpec::from_duration(due));
    }
}

/// Sleeps until the clock is 1 ms past a tenth of a second, and for at least 20 ms. All CPUs are
/// then idle, and the time to the next tick (every 1, 3 1/3, 4 or 10 ms, `CONFIG_HZ`) is the same
/// each time.
pub(crate) fn wait_for_beat() {
    let flags = ClockNanosleepFlags::TIMER_ABSTIME;
    let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &TimeSpec::from_duration(beat_after(now())));
}

fn beat_after(now: Duration) -> Duration {
    let tenths = (now + Duration::from_millis(20)).as_millis() / 100 + 1;
    let whole = Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX));
    whole + Duration::from_millis(1)
}

impl Beat {
    /// The time at which the next loop may begin, which may be in the past. Advances to the loop
    /// after it.
    fn due(&mut self, now: Duration) -> Duration {
        if now.saturating_sub(self.next) > self.longest_backlog {
            self.next = now;
        }
        let due = self.next;
        self.next += self.period;
        due
    }
}

pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_beat_is_at_the_same_place_and_not_too_soon() {
        for (now, beat) in [(0, 101), (79, 101), (80, 201), (100, 201), (12_345, 12_401)] {
            assert_eq!(beat_after(MS(now)), MS(beat), "{now}");
        }
    }

    fn beat() -> Beat {
        Beat { period: MS(100), next: MS(5000), longest_backlog: LONGEST_BACKLOG }
    }

    #[test]
    fn lateness_does_not_add_up() {
        let mut beat = beat();
        let due = [5000, 5103, 5250, 5301].map(|now| beat.due(MS(now)));
        assert_eq!(due, [5000, 5100, 5200, 5300].map(MS));
    }

    #[test]
    fn a_short_stall_is_made_up_for_and_a_long_one_is_not() {
        let mut short = beat();
        assert_eq!([short.due(MS(5900)), short.due(MS(5900))], [MS(5000), MS(5100)]);
        let mut long = beat();
        assert_eq!([long.due(MS(9000)), long.due(MS(9000))], [MS(9000), MS(9100)]);
    }

    #[test]
    fn without_a_backlog_nothing_is_made_up_for() {
        let mut beat = Beat { longest_backlog: Duration::ZERO, ..beat() };
        assert_eq!([5000, 5350, 5360].map(|now| beat.due(MS(now))), [5000, 5350, 5450].map(MS));
    }

    #[test]
    fn without_a_rate_there_is_no_wait() {
        for rate in [None, Some(0)] {
            assert!(Pace::new(rate).0.is_none());
        }
        assert_eq!(Pace::new(Some(4)).0.unwrap().period, MS(250));
    }
}

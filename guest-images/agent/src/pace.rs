//! So many loops a second, by deadlines on the clock: pauses of a length would add up to less.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Loops missed by more than this are not made up for: after a hang or a suspend they would all come at once.
const LONGEST_BACKLOG: Duration = Duration::from_secs(1);

/// When the next loop may begin.
#[derive(Debug)]
pub(crate) struct Pace(Option<Beat>);

#[derive(Debug)]
struct Beat {
    period: Duration,
    next: Duration,
}

impl Pace {
    /// `rate` loops a second from now on; without one, and with a rate of 0, as many as there can be.
    pub(crate) fn new(rate: Option<u32>) -> Self {
        let period = rate.and_then(|rate| Duration::from_secs(1).checked_div(rate));
        Self(period.map(|period| Beat { period, next: now() }))
    }

    /// Sleeps until the next loop is due.
    pub(crate) fn wait(&mut self) {
        let Some(beat) = &mut self.0 else {
            return;
        };
        let due = beat.due(now());
        let flags = ClockNanosleepFlags::TIMER_ABSTIME;
        // A signal that does not kill is nothing to a worker: at most one loop comes early.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &TimeSpec::from_duration(due));
    }
}

impl Beat {
    /// When the loop that is next may begin, which may be past; moves on to the one after.
    fn due(&mut self, now: Duration) -> Duration {
        if now.saturating_sub(self.next) > LONGEST_BACKLOG {
            self.next = now;
        }
        let due = self.next;
        self.next += self.period;
        due
    }
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn beat() -> Beat {
        Beat { period: MS(100), next: MS(5000) }
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
    fn without_a_rate_there_is_no_wait() {
        for rate in [None, Some(0)] {
            assert!(Pace::new(rate).0.is_none());
        }
        assert_eq!(Pace::new(Some(4)).0.unwrap().period, MS(250));
    }
}

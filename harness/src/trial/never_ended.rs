//! Operations that did not end within their limit, over the trials of a run. Such an operation costs a
//! trial its whole limit. If it came twice, later trials wait a tenth of that.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hotplug_side::Side;
use serde::{Deserialize, Serialize};

use crate::scenario::Operation;

/// How often an operation takes its whole limit on one side.
const WHOLE: u32 = 2;

/// The limit of an operation that had never ended before, and so got less time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShortLimit {
    /// The limit in milliseconds.
    pub ms: u32,
    /// The limit that other operations have, in milliseconds.
    pub usual_ms: u32,
}

impl ShortLimit {
    /// Why `operation` had it, in words.
    pub fn words(self, side: Side, scenario: &str, operation: &Operation) -> String {
        let [short, usual] = [self.ms, self.usual_ms].map(|ms| f64::from(ms) / 1000.0);
        format!(
            "`{operation}` got {short} s, not {usual} s, in {side} trials of {scenario}, because it had not ended in {WHOLE} of them"
        )
    }
}

/// The operations, by the side, the name of the scenario, and their words.
#[derive(Debug, Default)]
pub struct NeverEnded(Mutex<BTreeMap<(Side, String, String), u32>>);

impl NeverEnded {
    /// The limit of an operation, of which `whole` is the usual one.
    pub(super) fn limit(&self, of: (Side, &str), operation: &Operation, whole: Duration) -> Duration {
        if self.times(of, operation) < WHOLE { whole } else { whole / 10 }
    }

    /// An operation did not end within `limit`. Returns this in words.
    pub(super) fn timed_out(&self, of: (Side, &str), operation: &Operation, limit: Duration) -> String {
        let before = self.times(of, operation);
        *self.lock().entry(key(of, operation)).or_default() += 1;
        let earlier = match before {
            0 | 1 => String::new(),
            n => format!(", having never ended in {n} trials before"),
        };
        format!("{operation} timed out after {:.0} s{earlier}", limit.as_secs_f64())
    }

    /// An operation ended, so it takes its whole limit again.
    pub(super) fn ended(&self, of: (Side, &str), operation: &Operation) {
        self.lock().remove(&key(of, operation));
    }

    fn times(&self, of: (Side, &str), operation: &Operation) -> u32 {
        self.lock().get(&key(of, operation)).copied().unwrap_or(0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Side, String, String), u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key((side, scenario): (Side, &str), operation: &Operation) -> (Side, String, String) {
    (side, scenario.to_owned(), operation.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceId;

    #[test]
    fn what_never_ended_twice_is_waited_for_a_tenth_as_long() {
        let known = NeverEnded::default();
        let whole = Duration::from_secs(75);
        let of = (Side::After, "dimm-and-cpu");
        let stuck = Operation::Plug(DeviceId("cpu1".into()));
        let other = Operation::Plug(DeviceId("cpu2".into()));
        assert_eq!(known.limit(of, &stuck, whole), whole);
        assert_eq!(known.timed_out(of, &stuck, whole), "plug cpu1 timed out after 75 s");
        assert_eq!(known.limit(of, &stuck, whole), whole);
        known.timed_out(of, &stuck, whole);
        assert_eq!(known.limit(of, &stuck, whole), whole / 10);
        let third = known.timed_out(of, &stuck, Duration::from_secs(8));
        assert_eq!(third, "plug cpu1 timed out after 8 s, having never ended in 2 trials before");
        // Neither the other kernel, nor another scenario or operation, has shown it.
        for (of, operation) in
            [((Side::Before, "dimm-and-cpu"), &stuck), ((Side::After, "race"), &stuck), (of, &other)]
        {
            assert_eq!(known.limit(of, operation, whole), whole);
        }
        let short = ShortLimit { ms: 7500, usual_ms: 75_000 };
        assert_eq!(
            short.words(Side::After, "race", &stuck),
            "`plug cpu1` got 7.5 s, not 75 s, in after trials of race, because it had not ended in 2 of them"
        );
        known.ended(of, &stuck);
        assert_eq!(known.limit(of, &stuck, whole), whole);
    }
}

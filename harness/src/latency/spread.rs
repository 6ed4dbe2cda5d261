//! Percentiles for the reader. They do not affect any verdict.

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The distribution of times, in nanoseconds. The maximum is exact; the percentiles have three
/// significant digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// The number of times.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The maximum.
    pub max: u64,
}

/// A collection of times.
#[derive(Debug, Clone)]
pub struct Times {
    histogram: Histogram<u64>,
    /// The exact maximum.
    longest: u64,
}

impl Default for Times {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "three digits are always possible")]
        let histogram = Histogram::new(3).expect("three digits");
        Self { histogram, longest: 0 }
    }
}

impl Times {
    /// Adds one time, in nanoseconds.
    pub fn add(&mut self, nanoseconds: f64) {
        // The histogram resizes itself up to 2^63, and `whole` returns far less.
        let _ = self.histogram.record(whole(nanoseconds));
        self.longest = self.longest.max(whole(nanoseconds));
    }

    /// Adds one time of work that is due every `interval` nanoseconds. If it takes longer than
    /// that, the loops that it delayed are never started. They are added here, because otherwise a
    /// stall of a second would count as one slow loop in a thousand (Gil Tene's "coordinated
    /// omission"; `record_correct` of the HDR histogram).
    pub fn add_due(&mut self, nanoseconds: f64, interval: f64) {
        let _ = self.histogram.record_correct(whole(nanoseconds), whole(interval));
        self.longest = self.longest.max(whole(nanoseconds));
    }

    /// The distribution; `None` if it is empty.
    pub fn spread(&self) -> Option<Spread> {
        let at = |percent: f64| self.histogram.value_at_percentile(percent).min(self.longest);
        (!self.histogram.is_empty()).then(|| Spread {
            count: self.histogram.len(),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            max: self.longest,
        })
    }
}

fn whole(nanoseconds: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded; a cast saturates")]
    let whole = nanoseconds.round().clamp(0.0, 1e18) as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_samples() {
        let mut times = Times::default();
        assert_eq!(times.spread(), None);
        for sample in 1..=1000 {
            times.add(f64::from(sample) * 1e3);
        }
        let spread = times.spread().unwrap();
        let near = |is: u64, should: f64| {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let share = is as f64 / should;
            assert!((share - 1.0).abs() < 2e-3, "{is} {should}");
        };
        assert_eq!(spread.count, 1000);
        near(spread.p50, 5e5);
        near(spread.p90, 9e5);
        near(spread.p99, 9.9e5);
        assert_eq!(spread.max, 1_000_000);
    }

    #[test]
    fn a_stall_counts_for_all_that_it_kept_waiting() {
        let (mut plain, mut due) = (Times::default(), Times::default());
        for sample in std::iter::repeat_n(1e5, 99).chain([1e9]) {
            plain.add(sample);
            due.add_due(sample, 1e7);
        }
        // A hundred loops, one every 10 ms, of which the last stalls for a second.
        assert!(plain.spread().unwrap().p90 < 200_000);
        let spread = due.spread().unwrap();
        assert_eq!(spread.count, 199);
        assert!(spread.p90 > 700_000_000 && spread.max == 1_000_000_000, "{spread:?}");
    }
}

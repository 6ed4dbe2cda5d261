//! Percentiles for people. No verdict is made of them.

use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How times are spread, nanoseconds: the longest as it was, the others to three digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// Half of them take no longer.
    pub p50: u64,
    /// Nine of ten.
    pub p90: u64,
    /// 99 of 100.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// Times, as they come.
#[derive(Debug, Clone)]
pub struct Times {
    histogram: Histogram<u64>,
    /// To the last digit.
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
    /// One more, nanoseconds.
    pub fn add(&mut self, nanoseconds: f64) {
        // It grows as it must, up to 2^63, where `whole` ends long before.
        let _ = self.histogram.record(whole(nanoseconds));
        self.longest = self.longest.max(whole(nanoseconds));
    }

    /// One more of something that was to be done every `interval` nanoseconds. While it takes longer others are not begun
    /// that would have had to wait: they are made up for, or a stall of a second would count as one slow loop of a thousand
    /// (Gil Tene's "coordinated omission"; `record_correct` of the HDR histogram).
    pub fn add_due(&mut self, nanoseconds: f64, interval: f64) {
        let _ = self.histogram.record_correct(whole(nanoseconds), whole(interval));
        self.longest = self.longest.max(whole(nanoseconds));
    }

    /// How they are spread; none where there are none.
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
        // A hundred every 10 ms, the last of which stalls for a second.
        assert!(plain.spread().unwrap().p90 < 200_000);
        let spread = due.spread().unwrap();
        assert_eq!(spread.count, 199);
        assert!(spread.p90 > 700_000_000 && spread.max == 1_000_000_000, "{spread:?}");
    }
}

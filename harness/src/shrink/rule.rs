//! When a candidate is taken and when it is given up: a report that comes by chance is judged by repetition.

use hotplug_statistics::probability_of_at_most;

use crate::compare::Count;

/// Reports that a candidate must show. One may be luck: a candidate that shows it in one trial of twenty shows it in one
/// of the five trials before it is given up with 23 %, and twice with 2 %.
const WANTED: u32 = 2;

/// What is said of a candidate after some of its trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It shows the report often enough.
    Taken,
    /// It does not.
    GivenUp,
    /// Another trial is needed.
    Open,
}

/// A candidate is taken at its second report, and given up once so few have a probability below `doubt` at half the
/// original's rate, or after `most` trials.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    rate: f64,
    doubt: f64,
    most: u32,
}

impl Rule {
    /// For a report that the recorded trial's replays showed so often.
    pub fn new(original: Count, doubt: f64, most: u32) -> Self {
        Self { rate: original.rate() / 2.0, doubt, most }
    }

    /// The least rate that is wanted.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Trials of a candidate at most.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// After these trials.
    pub fn word(&self, seen: Count) -> Word {
        if seen.seen >= WANTED.min(self.most) {
            Word::Taken
        } else if seen.trials >= self.most || self.is_implausible(seen) {
            Word::GivenUp
        } else {
            Word::Open
        }
    }

    /// So few reports in so many trials do not come of the wanted rate.
    pub fn is_implausible(&self, seen: Count) -> bool {
        probability_of_at_most(seen.seen, seen.trials, self.rate) <= self.doubt
    }

    /// The probability that a candidate which shows the report at `rate` is taken: all ways through its trials.
    pub fn taken_at(&self, rate: f64) -> f64 {
        // Of those undecided after so many trials, the probability of each number of reports.
        let mut open = vec![1.0];
        let mut taken = 0.0;
        for trials in 1..=self.most {
            let mut next = vec![0.0; open.len() + 1];
            for (seen, probability) in (0..).zip(open) {
                for (more, chance) in [(0, 1.0 - rate), (1, rate)] {
                    match self.word(Count { seen: seen + more, trials }) {
                        Word::Taken => taken += probability * chance,
                        Word::GivenUp => {}
                        Word::Open => next[(seen + more) as usize] += probability * chance,
                    }
                }
            }
            open = next;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arithmetic_of_the_documentation() {
        let always = Rule::new(Count { seen: 10, trials: 10 }, 0.1, 10);
        let word = |seen, trials| always.word(Count { seen, trials });
        assert_eq!((word(0, 3), word(0, 4)), (Word::Open, Word::GivenUp));
        assert_eq!((word(1, 6), word(1, 7)), (Word::Open, Word::GivenUp));
        assert_eq!((word(1, 1), word(2, 7)), (Word::Open, Word::Taken));
        let percent = |rule: &Rule, rate| format!("{:.1}", rule.taken_at(rate) * 100.0);
        let table: Vec<String> = [1.0, 0.9, 0.5, 0.25, 0.1, 0.05].map(|rate| percent(&always, rate)).to_vec();
        assert_eq!(table, ["100.0", "100.0", "90.6", "50.6", "13.1", "3.8"]);
        // A rarer report wants more trials: ten take a candidate of its own rate in six of seven cases.
        let rare = |most| Rule::new(Count { seen: 3, trials: 10 }, 0.1, most);
        assert_eq!((percent(&rare(10), 0.3), percent(&rare(30), 0.3)), ("85.1".into(), "99.4".into()));
    }
}

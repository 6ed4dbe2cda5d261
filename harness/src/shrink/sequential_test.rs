//! Decides when a candidate is taken and when it is given up. A report that appears by chance is
//! judged by repetition.

use hotplug_statistics::probability_of_at_most;

use crate::compare::Count;

/// The number of reports that a candidate must show. One may be luck: a candidate that shows the
/// report in one trial of twenty shows it in one of the five trials before it is given up with a
/// probability of 23 %, and twice with 2 %.
const WANTED: u32 = 2;

/// The decision about a candidate after some of its trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The candidate shows the report often enough.
    Taken,
    /// The candidate does not.
    GivenUp,
    /// Another trial is needed.
    Open,
}

/// The rule of the decision. A candidate is taken at its second report. It is given up after `most`
/// trials, or once the probability of so few reports at half the original's rate is at most
/// `doubt`.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    rate: f64,
    doubt: f64,
    most: u32,
}

impl Rule {
    /// The rule for a report that the replays of the recorded trial showed this often.
    pub fn new(original: Count, doubt: f64, most: u32) -> Self {
        Self { rate: original.rate() / 2.0, doubt, most }
    }

    /// The rate that is wanted of a candidate.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The most trials of a candidate.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// The decision after these trials.
    pub fn word(&self, seen: Count) -> Word {
        if seen.seen >= WANTED.min(self.most) {
            Word::Taken
        } else if seen.trials >= self.most || self.is_implausible(seen) {
            Word::GivenUp
        } else {
            Word::Open
        }
    }

    /// Whether so few reports in so many trials are implausible at the wanted rate.
    pub fn is_implausible(&self, seen: Count) -> bool {
        probability_of_at_most(seen.seen, seen.trials, self.rate) <= self.doubt
    }

    /// The probability that a candidate which shows the report at `rate` is taken, over all
    /// sequences of its trials.
    pub fn taken_at(&self, rate: f64) -> f64 {
        // The probability of each number of reports, of the sequences that are undecided so far.
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
        // A rarer report needs more trials: with ten, a candidate of the same rate is taken in six
        // of seven cases.
        let rare = |most| Rule::new(Count { seen: 3, trials: 10 }, 0.1, most);
        assert_eq!((percent(&rare(10), 0.3), percent(&rare(30), 0.3)), ("85.1".into(), "99.4".into()));
    }
}

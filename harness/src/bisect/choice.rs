//! The choice of the next test.

use std::collections::HashMap;

use super::posterior::{Bisection, MOST, silence};

/// The cost of a test, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// The build of a kernel that was not built before.
    pub build: f64,
    /// The part of a test that does not depend on its number of trials.
    pub start: f64,
    /// One trial.
    pub trial: f64,
}

/// The next step of a bisection.
#[derive(Debug, Clone, PartialEq)]
pub enum NextStep {
    /// Try this revision until it has shown the bug, but at most `trials` times.
    Test {
        /// The revision.
        revision: usize,
        /// The most trials.
        trials: u32,
    },
    /// This revision introduced the bug.
    Found {
        /// The revision.
        revision: usize,
        /// The probability of that.
        probability: f64,
    },
    /// The good end has the bug itself.
    GoodIsBad {
        /// The probability of that.
        probability: f64,
    },
    /// One of these revisions introduced the bug, and no trial of a revision that can be tried
    /// distinguishes them.
    OneOf(Vec<usize>),
    /// No revision is consistent with the trials.
    Contradiction,
}

/// A test with a lower expected gain, in bits, gives no information.
const NOTHING: f64 = 1e-9;

impl Bisection {
    /// The test with the most expected information for its cost, or the end of the bisection.
    pub fn next(&self, price: Price) -> NextStep {
        let weights = self.posterior();
        let Some((likeliest, most)) = weights.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
        else {
            return NextStep::Contradiction;
        };
        if most <= 0.0 {
            return NextStep::Contradiction;
        }
        let (mass, alike) = self.alike(&weights);
        if mass >= self.confidence && alike.len() > 1 {
            return NextStep::OneOf(alike);
        }
        if most >= self.confidence {
            return match likeliest {
                0 => NextStep::GoodIsBad { probability: most },
                revision => NextStep::Found { revision, probability: most },
            };
        }
        let rates: Vec<(f64, f64)> = (0..weights.len()).map(|culprit| self.rate_if(culprit)).collect();
        let enough = self.clean_trials();
        let counts = || {
            std::iter::successors(Some(1), |n| Some(n * 2)).take_while(move |n| *n < enough).chain([enough])
        };
        let mut best: Option<(f64, usize, u32)> = None;
        for trials in counts() {
            let quiet: Vec<f64> = rates.iter().map(|(a, b)| silence(*a, *b, trials)).collect();
            for (revision, tested) in self.tested.iter().enumerate() {
                // Another hit of a revision that has shown the bug gives no information.
                if tested.cannot.is_some() || tested.hits > 0 {
                    continue;
                }
                let gain = self.gain(&weights, &quiet, revision);
                let built = tested.clean > 0;
                let cost =
                    price.start + f64::from(trials) * price.trial + if built { 0.0 } else { price.build };
                let worth = gain / cost.max(f64::MIN_POSITIVE);
                if gain > NOTHING && best.is_none_or(|(most, ..)| worth > most) {
                    best = Some((worth, revision, trials));
                }
            }
        }
        match best {
            Some((_, revision, trials)) => NextStep::Test { revision, trials: trials.min(MOST) },
            None => NextStep::OneOf(self.likely()),
        }
    }

    /// The group of indistinguishable revisions that is the most probable, and its probability.
    /// Revisions are indistinguishable if each revision that can be tried contains all of them or
    /// none of them.
    fn alike(&self, weights: &[f64]) -> (f64, Vec<usize>) {
        let can: Vec<usize> = (0..weights.len()).filter(|at| self.tested[*at].cannot.is_none()).collect();
        if can.len() == weights.len() {
            // A trial of each revision distinguishes it from all others.
            return (0.0, Vec::new());
        }
        let mut groups: HashMap<Vec<bool>, (f64, Vec<usize>)> = HashMap::new();
        for (culprit, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            let who = can.iter().map(|revision| self.history.contains(*revision, culprit)).collect();
            let group = groups.entry(who).or_default();
            group.0 += weight;
            group.1.push(culprit);
        }
        groups.into_values().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
    }

    /// The fewest revisions that together reach the required probability, the most probable first.
    pub fn likely(&self) -> Vec<usize> {
        let weights = self.posterior();
        let mut order: Vec<usize> = (0..weights.len()).filter(|at| weights[*at] > 0.0).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        let mut sum = 0.0;
        order
            .into_iter()
            .take_while(|at| {
                let more = sum < self.confidence;
                sum += weights[*at];
                more
            })
            .collect()
    }

    /// The information, in bits, that trials of `revision` are expected to give about which
    /// revision introduced the bug. `quiet` has for each revision the probability that all these
    /// trials are clean if that revision introduced the bug and `revision` contains it.
    fn gain(&self, weights: &[f64], quiet: &[f64], revision: usize) -> f64 {
        // S is the sum of w, and T that of w log w, over what remains after silence and after a
        // hit. The entropy is log S - T/S.
        let (mut silent, mut hit, mut now) = (Sum::default(), Sum::default(), Sum::default());
        for (culprit, (weight, quiet)) in weights.iter().zip(quiet).enumerate() {
            now.add(*weight);
            if self.history.contains(revision, culprit) {
                silent.add(weight * quiet);
                hit.add(weight * (1.0 - quiet));
            } else {
                silent.add(*weight);
            }
        }
        now.entropy() - silent.all * silent.entropy() - hit.all * hit.entropy()
    }
}

/// The sums over the parts of a whole.
#[derive(Debug, Default)]
struct Sum {
    all: f64,
    logs: f64,
}

impl Sum {
    fn add(&mut self, part: f64) {
        if part > 0.0 {
            self.all += part;
            self.logs += part * part.log2();
        }
    }

    fn entropy(&self) -> f64 {
        if self.all > 0.0 { self.all.log2() - self.logs / self.all } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bisect::RevisionGraph;

    const PRICE: Price = Price { build: 60.0, start: 8.0, trial: 1.0 };

    #[test]
    fn a_sure_bug_is_found_by_halves() {
        let mut all = Bisection::new(RevisionGraph::line(16), 0.95);
        all.add(16, 5, 0);
        all.add(0, 0, 5);
        let mut tests = 0;
        let found = loop {
            match all.next(PRICE) {
                NextStep::Test { revision, .. } => {
                    tests += 1;
                    if revision >= 11 { all.add(revision, 1, 0) } else { all.add(revision, 0, 3) }
                }
                step => break step,
            }
        };
        assert!(matches!(found, NextStep::Found { revision: 11, .. }), "{found:?}");
        assert!(tests <= 6, "{tests} tests");
    }

    #[test]
    fn what_cannot_be_tried_is_gone_round_and_named() {
        let mut all = Bisection::new(RevisionGraph::line(4), 0.95);
        all.add(4, 5, 0);
        all.add(0, 0, 5);
        all.add(3, 1, 0);
        all.add(1, 0, 60);
        all.give_up(2, "mm/slub.c does not compile");
        assert_eq!(all.next(PRICE), NextStep::OneOf(vec![2, 3]));
    }

    #[test]
    fn one_that_was_silent_is_tried_again_where_that_pays() {
        let mut all = Bisection::new(RevisionGraph::line(2), 0.99);
        all.add(2, 10, 40);
        all.add(0, 0, 60);
        all.add(1, 0, 5);
        // A fifth of the trials show the bug, so five clean ones leave a probability of a third.
        assert!(
            matches!(all.next(PRICE), NextStep::Test { revision: 1, trials: 5.. }),
            "{:?}",
            all.next(PRICE)
        );
    }
}

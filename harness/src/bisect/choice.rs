//! What is tried next.

use std::collections::HashMap;

use super::posterior::{Bisection, MOST, silence};

/// What a test costs, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// A kernel that was not built before, with its first boot.
    pub build: f64,
    /// A test, however many trials it has.
    pub start: f64,
    /// A trial.
    pub trial: f64,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Try this revision, so often, and no more once it has shown the bug.
    Test {
        /// Which.
        revision: usize,
        /// At most.
        trials: u32,
    },
    /// This one brought it.
    Found {
        /// Which.
        revision: usize,
        /// How probable that is.
        probability: f64,
    },
    /// The good end has the bug itself.
    GoodIsBad {
        /// How probable that is.
        probability: f64,
    },
    /// No trial of what can be tried tells these apart any more, of which one brought it.
    OneOf(Vec<usize>),
    /// Nothing fits what was seen.
    Contradiction,
}

/// Below this many bits a test tells nothing.
const NOTHING: f64 = 1e-9;

impl Bisection {
    /// What tells most for its price.
    pub fn next(&self, price: Price) -> Step {
        let weights = self.posterior();
        let Some((likeliest, most)) = weights.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
        else {
            return Step::Contradiction;
        };
        if most <= 0.0 {
            return Step::Contradiction;
        }
        let (mass, alike) = self.alike(&weights);
        if mass >= self.confidence && alike.len() > 1 {
            return Step::OneOf(alike);
        }
        if most >= self.confidence {
            return match likeliest {
                0 => Step::GoodIsBad { probability: most },
                revision => Step::Found { revision, probability: most },
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
                // A hit of one that has shown it tells nothing new.
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
            Some((_, revision, trials)) => Step::Test { revision, trials: trials.min(MOST) },
            None => Step::OneOf(self.likely()),
        }
    }

    /// Of revisions that no trial can tell apart, as whatever can be tried contains all of them or none, those that together are
    /// the likeliest; and how likely.
    fn alike(&self, weights: &[f64]) -> (f64, Vec<usize>) {
        let can: Vec<usize> = (0..weights.len()).filter(|at| self.tested[*at].cannot.is_none()).collect();
        if can.len() == weights.len() {
            // Each can be told from all others by a trial of itself.
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

    /// The fewest revisions that together are as probable as is wanted, the likeliest first.
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

    /// The bits that trials of a revision are expected to tell of who brought the bug, which are `quiet` so probably if that
    /// one did.
    fn gain(&self, weights: &[f64], quiet: &[f64], revision: usize) -> f64 {
        // Sums of w and of w log w, of all that remains after silence and after a hit: entropy is log S - T/S.
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

/// Of parts of a whole.
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
    use crate::bisect::History;

    const PRICE: Price = Price { build: 60.0, start: 8.0, trial: 1.0 };

    #[test]
    fn a_sure_bug_is_found_by_halves() {
        let mut all = Bisection::new(History::line(16), 0.95);
        all.add(16, 5, 0);
        all.add(0, 0, 5);
        let mut tests = 0;
        let found = loop {
            match all.next(PRICE) {
                Step::Test { revision, .. } => {
                    tests += 1;
                    if revision >= 11 { all.add(revision, 1, 0) } else { all.add(revision, 0, 3) }
                }
                step => break step,
            }
        };
        assert!(matches!(found, Step::Found { revision: 11, .. }), "{found:?}");
        assert!(tests <= 6, "{tests} tests");
    }

    #[test]
    fn what_cannot_be_tried_is_gone_round_and_named() {
        let mut all = Bisection::new(History::line(4), 0.95);
        all.add(4, 5, 0);
        all.add(0, 0, 5);
        all.add(3, 1, 0);
        all.add(1, 0, 60);
        all.give_up(2, "mm/slub.c does not compile");
        assert_eq!(all.next(PRICE), Step::OneOf(vec![2, 3]));
    }

    #[test]
    fn one_that_was_silent_is_tried_again_where_that_pays() {
        let mut all = Bisection::new(History::line(2), 0.99);
        all.add(2, 10, 40);
        all.add(0, 0, 60);
        all.add(1, 0, 5);
        // A fifth of the trials show it: five clean ones leave a third.
        assert!(matches!(all.next(PRICE), Step::Test { revision: 1, trials: 5.. }), "{:?}", all.next(PRICE));
    }
}

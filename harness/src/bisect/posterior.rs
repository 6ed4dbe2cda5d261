//! The posterior distribution over all revisions.

use serde::{Deserialize, Serialize};
use statrs::function::beta::ln_beta;

use super::history::RevisionGraph;

/// The least probability, before the first trial, that the good revision has the bug. It is never
/// lower than that of any other revision. A revision can be called good by mistake if its bug
/// appears only in some trials.
const GOOD_IS_BAD: f64 = 0.05;

/// Before the first trial all rates are equally probable: Beta(1, 1).
const FLAT: f64 = 1.0;

/// The trials of one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// Trials that showed the bug.
    pub hits: u32,
    /// Trials that could have shown the bug and did not.
    pub clean: u32,
    /// Why the revision cannot be tried: it does not build, or does not boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot: Option<String>,
}

/// A bisection: the trials so far, and the conclusions from them.
#[derive(Debug, Clone)]
pub struct Bisection {
    pub(super) history: RevisionGraph,
    pub(super) tested: Vec<Tested>,
    pub(super) confidence: f64,
}

impl Bisection {
    /// A bisection before its first trial. `confidence` is the probability that the answer must
    /// have, from 0.5 to below 1.
    pub fn new(history: RevisionGraph, confidence: f64) -> Self {
        let tested = vec![Tested::default(); history.revisions()];
        Self { history, tested, confidence }
    }

    /// Adds trials of a revision.
    pub fn add(&mut self, revision: usize, hits: u32, clean: u32) {
        self.tested[revision].hits += hits;
        self.tested[revision].clean += clean;
    }

    /// Records that a revision cannot be tried.
    pub fn give_up(&mut self, revision: usize, why: &str) {
        self.tested[revision].cannot = Some(why.to_owned());
    }

    /// The probability that the answer must have.
    pub fn confidence(&self) -> f64 {
        self.confidence
    }

    /// The trials of each revision.
    pub fn tested(&self) -> &[Tested] {
        &self.tested
    }

    /// For each revision, the probability that it introduced the bug. For number 0, it is the
    /// probability that the good revision has the bug already. All are 0 if no revision is
    /// consistent with the trials: the bug comes and goes.
    pub fn posterior(&self) -> Vec<f64> {
        let logs: Vec<f64> = (0..self.history.revisions()).map(|culprit| self.log_weight(culprit)).collect();
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if most == f64::NEG_INFINITY {
            return vec![0.0; logs.len()];
        }
        let weights: Vec<f64> = logs.iter().map(|log| (log - most).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    /// The hits and the clean trials of all revisions that have the bug if `culprit` introduced it.
    pub(super) fn evidence(&self, culprit: usize) -> (f64, f64) {
        let with =
            self.tested.iter().enumerate().filter(|(revision, _)| self.history.contains(*revision, culprit));
        with.fold((0.0, 0.0), |(hits, clean), (_, tested)| {
            (hits + f64::from(tested.hits), clean + f64::from(tested.clean))
        })
    }

    /// The distribution of the rate if `culprit` introduced the bug: the two parameters of Beta.
    pub(super) fn rate_if(&self, culprit: usize) -> (f64, f64) {
        let (hits, clean) = self.evidence(culprit);
        (FLAT + hits, FLAT + clean)
    }

    /// The logarithm of prior times likelihood, with the rate integrated out.
    fn log_weight(&self, culprit: usize) -> f64 {
        let without = |revision: usize| !self.history.contains(revision, culprit);
        if self.tested.iter().enumerate().any(|(revision, tested)| tested.hits > 0 && without(revision)) {
            return f64::NEG_INFINITY;
        }
        #[expect(clippy::cast_precision_loss, reason = "revisions are not that many")]
        let others = (self.history.revisions() - 1).max(1) as f64;
        let good_is_bad = GOOD_IS_BAD.max(1.0 / (others + 1.0));
        let prior = if culprit == 0 { good_is_bad } else { (1.0 - good_is_bad) / others };
        let (a, b) = self.rate_if(culprit);
        prior.ln() + ln_beta(a, b) - ln_beta(FLAT, FLAT)
    }

    /// The rate at which revisions with the bug show it: its mean over the posterior.
    pub fn rate(&self) -> f64 {
        let mean = |culprit: usize| {
            let (a, b) = self.rate_if(culprit);
            a / (a + b)
        };
        self.posterior().iter().enumerate().map(|(culprit, weight)| weight * mean(culprit)).sum()
    }

    /// The number of clean trials in a row that make a revision good at the required confidence: of
    /// a revision with the bug, that many trials would show it at least once.
    pub fn clean_trials(&self) -> u32 {
        let weights = self.posterior();
        let likeliest = weights.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(at, _)| at);
        let (a, b) = self.rate_if(likeliest);
        let enough = |trials: &u32| silence(a, b, *trials) <= 1.0 - self.confidence;
        (1..MOST).find(enough).unwrap_or(MOST)
    }
}

/// The most trials of one test.
pub(super) const MOST: u32 = 1000;

/// The probability that this many trials in a row are clean, for a revision with the bug whose rate
/// is distributed as Beta(a, b).
pub(super) fn silence(a: f64, b: f64, trials: u32) -> f64 {
    (ln_beta(a, b + f64::from(trials)) - ln_beta(a, b)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn one_hit_is_proof_and_silence_is_not() {
        let mut all = Bisection::new(RevisionGraph::line(4), 0.95);
        all.add(4, 3, 12);
        let before = all.posterior();
        assert!(close(before.iter().sum(), 1.0) && close(before[1], before[4]) && close(before[0], 0.2));
        all.add(2, 1, 0);
        let hit = all.posterior();
        assert!(close(hit[3], 0.0) && close(hit[4], 0.0) && hit[1] > 0.3);
        all.add(1, 0, 1);
        let silent = all.posterior();
        // One clean trial is weak evidence about a bug that one trial in five shows.
        assert!(silent[2] > silent[1] && silent[1] > 0.25, "{silent:?}");
    }

    #[test]
    fn silence_is_weighed_by_the_rate_that_was_seen() {
        let mut often = Bisection::new(RevisionGraph::line(2), 0.95);
        often.add(2, 20, 0);
        let mut seldom = often.clone();
        seldom.add(2, 0, 180);
        for all in [&mut often, &mut seldom] {
            all.add(1, 0, 3);
        }
        assert!(often.posterior()[2] > 0.99 && seldom.posterior()[2] < 0.65);
        // The rates are (1 + 20) / (2 + 20), and the mean of Beta for 20 in 200, which is a little
        // higher because revision 1 may be clean.
        assert!(often.rate() > 0.9 && (0.09..0.11).contains(&seldom.rate()), "{}", seldom.rate());
        assert!(
            often.clean_trials() <= 2 && (25..40).contains(&seldom.clean_trials()),
            "{}",
            seldom.clean_trials()
        );
    }

    #[test]
    fn a_bug_of_the_good_end_is_told() {
        let mut all = Bisection::new(RevisionGraph::line(5), 0.95);
        all.add(5, 4, 0);
        all.add(0, 1, 7);
        assert!(close(all.posterior()[0], 1.0));
    }

    #[test]
    fn what_comes_and_goes_fits_nothing() {
        // Both branches show the bug, and they have only the good end in common.
        let mut all = Bisection::new(RevisionGraph::of([vec![0], vec![0]]), 0.95);
        all.add(1, 1, 0);
        all.add(2, 1, 0);
        assert!(close(all.posterior()[0], 1.0));
    }
}

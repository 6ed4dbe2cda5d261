//! A test of two rates that may end after any trial.

use std::collections::VecDeque;

use hotplug_side::{Side, Sides};

/// The parameter of the beta distribution from which the rates are learned, the same for both of its
/// parameters. Turner, Ly and Grünwald (see [`AnyTimeTest`]) find 0.18 to lose least in the worst
/// case.
const PRIOR: f64 = 0.18;

/// Tests whether both sides show something at the same rate, and may be asked after each trial.
///
/// It bets against equal rates. For each pair of one before and one after trial, both rates are
/// estimated from the earlier trials; the stake is multiplied by the ratio of the probability of the
/// pair under these two rates to that under their mean. If the true rates are equal, whatever they
/// are, the stake is not expected to grow. So the probability that it *ever* reaches `1 / alpha` is
/// at most `alpha` (Ville's inequality), however often it is looked at and for whatever reason the
/// trials end (Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that
/// allow for optional stopping", *Journal of Statistical Planning and Inference* 230, 2024).
#[derive(Debug, Clone, Default)]
pub struct AnyTimeTest {
    learned: Sides<Learned>,
    /// Trials of the side that is ahead, in their order.
    ahead: Option<(Side, VecDeque<bool>)>,
    ln_stake: f64,
}

/// The trials of one side that the estimates stand on.
#[derive(Debug, Clone, Copy, Default)]
struct Learned {
    seen: u32,
    trials: u32,
}

impl Learned {
    fn add(&mut self, seen: bool) {
        self.seen += u32::from(seen);
        self.trials += 1;
    }

    fn rate(self) -> f64 {
        (f64::from(self.seen) + PRIOR) / (f64::from(self.trials) + 2.0 * PRIOR)
    }
}

impl AnyTimeTest {
    /// Starts after these numbers of trials that showed nothing. They are learned from, without a
    /// bet.
    pub fn after_clean(trials: Sides<u32>) -> Self {
        let learned = |trials| Learned { seen: 0, trials };
        let learned = Sides { before: learned(trials.before), after: learned(trials.after) };
        Self { learned, ..Self::default() }
    }

    /// Learns from a trial without a bet, for example from the one that led to this test.
    pub fn learn(&mut self, side: Side, seen: bool) {
        self.learned.of_mut(side).add(seen);
    }

    /// Adds the next trial of a side. It is bet on together with the next one of the other side.
    pub fn add(&mut self, side: Side, seen: bool) {
        match &mut self.ahead {
            Some((other, waiting)) if *other != side => {
                if let Some(partner) = waiting.pop_front() {
                    self.bet(match side {
                        Side::Before => Sides { before: seen, after: partner },
                        Side::After => Sides { before: partner, after: seen },
                    });
                    return;
                }
                self.ahead = Some((side, VecDeque::from([seen])));
            }
            Some((_, waiting)) => waiting.push_back(seen),
            None => self.ahead = Some((side, VecDeque::from([seen]))),
        }
    }

    fn bet(&mut self, pair: Sides<bool>) {
        let Sides { before, after } = self.learned;
        let (before, after) = (before.rate(), after.rate());
        let both = f64::midpoint(before, after);
        let of = |rate: f64, seen: bool| if seen { rate } else { 1.0 - rate };
        let stake = of(before, pair.before) * of(after, pair.after);
        self.ln_stake += (stake / (of(both, pair.before) * of(both, pair.after))).ln();
        self.learn(Side::Before, pair.before);
        self.learn(Side::After, pair.after);
    }

    /// The logarithm of the stake, which began with 1: the e-value. The product of the e-values of
    /// independent conditions is an e-value, too.
    pub fn ln_e_value(&self) -> f64 {
        self.ln_stake
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The e-value after these trials of both sides, which take turns.
    fn e_value(before: &[bool], after: &[bool]) -> f64 {
        let mut test = AnyTimeTest::default();
        for (before, after) in before.iter().zip(after) {
            test.add(Side::Before, *before);
            test.add(Side::After, *after);
        }
        test.ln_e_value().exp()
    }

    #[test]
    fn never_before_and_always_after_grows_to_four_a_pair() {
        // By hand: the first pair is learned from. Then the rates are 1.18/1.36 and 0.18/1.36, whose
        // mean is a half.
        let pairs = |n: usize| e_value(&vec![false; n], &vec![true; n]);
        assert!((pairs(1) - 1.0).abs() < 1e-12);
        assert!((pairs(2) - 4.0 * (1.18_f64 / 1.36).powi(2)).abs() < 1e-12);
        assert!((pairs(3) - pairs(2) * 4.0 * (2.18_f64 / 2.36).powi(2)).abs() < 1e-12);
        assert!(pairs(5) > 100.0 && pairs(5) < 200.0, "{}", pairs(5));
        assert!(pairs(101) / pairs(100) > 3.98);
        // It makes no difference which side comes first.
        assert!((e_value(&[true; 4], &[false; 4]) - pairs(4)).abs() < 1e-9);
    }

    #[test]
    fn equal_rates_are_not_expected_to_let_the_stake_grow() {
        // All sequences of four pairs, with their exact probabilities: for every rate the expected
        // stake is at most 1, after each pair.
        for rate in [0.01, 0.1, 0.3, 0.5, 0.8, 0.99_f64] {
            for pairs in 1..=4_u32 {
                let expected: f64 = (0..1_u32 << (2 * pairs))
                    .map(|bits| {
                        let seen: Vec<bool> = (0..2 * pairs).map(|at| bits >> at & 1 == 1).collect();
                        let (before, after) = seen.split_at(pairs as usize);
                        let of = |seen: &bool| if *seen { rate } else { 1.0 - rate };
                        seen.iter().map(of).product::<f64>() * e_value(before, after)
                    })
                    .sum();
                assert!(expected <= 1.0 + 1e-9, "{expected} at {rate} after {pairs} pairs");
            }
        }
    }

    #[test]
    fn a_look_after_every_pair_raises_no_further_false_alarm() {
        const RUNS: u32 = 2000;
        const ALPHA: f64 = 0.05;
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for rate in [0.1, 0.5, 0.9] {
            let mut alarms = 0;
            for _ in 0..RUNS {
                let mut test = AnyTimeTest::default();
                let alarm = (0..100).any(|_| {
                    for side in Side::BOTH {
                        test.add(side, random.random_bool(rate));
                    }
                    test.ln_e_value() >= -ALPHA.ln()
                });
                alarms += u32::from(alarm);
            }
            assert!(f64::from(alarms) <= ALPHA * f64::from(RUNS), "{alarms} of {RUNS} at {rate}");
        }
    }

    #[test]
    fn a_side_that_is_ahead_waits_for_the_other() {
        let mut test = AnyTimeTest::default();
        for _ in 0..5 {
            test.add(Side::After, true);
        }
        assert!(test.ln_e_value().abs() < 1e-12);
        for _ in 0..5 {
            test.add(Side::Before, false);
        }
        assert!((test.ln_e_value().exp() - e_value(&[false; 5], &[true; 5])).abs() < 1e-9);
        // Clean trials before the first finding are learned from: the sides start from other rates.
        let after_twenty = AnyTimeTest::after_clean(Sides { before: 20, after: 20 });
        assert!(after_twenty.learned.after.rate() < 0.01 && after_twenty.ln_e_value() < 1e-12);
    }
}

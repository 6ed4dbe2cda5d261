//! Compares two groups of boots. It works on the logarithms of the measured values, so every result
//! is a ratio.
//!
//! The unit is the boot. All trials of one boot share random properties, such as the placement of
//! their memory and the fill level of the slabs. If the unit were the trial, these would be taken
//! for an effect of the patch, with more certainty the more trials there are.
//!
//! Only the number of boots that would decide assumes a distribution: it is an estimate of the
//! future anyway.

use hotplug_side::Sides;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use super::exact::always_against_never;

/// Up to this number of ways to assign ("deal") the boots to the two sides, all are evaluated. If
/// there are more, this number of random deals is evaluated.
const DEALS: u64 = 100_000;

/// The number of resampled pairs of groups for an interval.
const RESAMPLES: usize = 10_000;

/// The power: the probability of finding a difference that exists.
const POWER: f64 = 0.9;

/// The logarithms of the values of both sides, one value for each boot.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups(Sides<Vec<f64>>);

impl Groups {
    /// `None` unless both sides have two boots or more and all values are finite and above zero.
    pub fn new(values: &Sides<Vec<f64>>) -> Option<Self> {
        let logs = |values: &Vec<f64>| -> Option<Vec<f64>> {
            let all = values.iter().map(|value| (*value > 0.0 && value.is_finite()).then(|| value.ln()));
            all.collect::<Option<Vec<f64>>>().filter(|logs| logs.len() > 1)
        };
        Some(Self(Sides { before: logs(&values.before)?, after: logs(&values.after)? }))
    }

    /// The ratio of the geometric means, after by before, as a logarithm.
    pub fn difference(&self) -> f64 {
        mean(&self.0.after) - mean(&self.0.before)
    }

    /// The geometric mean of the boots of each side.
    pub fn typical(&self) -> Sides<f64> {
        Sides { before: mean(&self.0.before).exp(), after: mean(&self.0.after).exp() }
    }

    /// The p-value of the difference, two-sided: the probability of a difference that is at least
    /// as large if the patch has no effect and each boot could as well be of the other kernel (a
    /// permutation test; Good, Permutation, Parametric, and Bootstrap Tests of Hypotheses, 3rd ed.,
    /// chapter 3).
    pub fn p_different(&self, seed: u64) -> f64 {
        let observed = self.difference().abs();
        self.share_of_deals(0.0, seed, |difference| difference.abs() >= observed)
    }

    /// The larger of the two probabilities of means that are this close, if the true ratio is
    /// `margin` up or down, as a logarithm. These are two one-sided permutation tests, each of the
    /// boots without that ratio (Schuirmann 1987 has the two tests).
    pub fn p_apart(&self, margin: f64, seed: u64) -> f64 {
        let observed = self.difference();
        let slower = self.share_of_deals(margin, seed, |difference| difference <= observed - margin);
        let faster = self.share_of_deals(-margin, seed, |difference| difference >= observed + margin);
        slower.max(faster)
    }

    /// The share of all deals whose difference is `extreme`. The values of the after side are first
    /// reduced by `shift`.
    fn share_of_deals(&self, shift: f64, seed: u64, extreme: impl Fn(f64) -> bool) -> f64 {
        let Sides { before, after } = &self.0;
        let set_back = after.iter().map(|value| value - shift);
        let mut all: Vec<f64> = before.iter().copied().chain(set_back).collect();
        let size = before.len();
        let whole: f64 = all.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "boots are few")]
        let (first, second) = (size as f64, after.len() as f64);
        // Sums in another order differ by rounding, and the observed deal must count as extreme.
        let slack = 1e-9 * (1.0 + all.iter().fold(0.0, |most: f64, value| most.max(value.abs())));
        let difference = |sum: f64| (whole - sum) / second - sum / first;
        let is_extreme = |sum: f64| extreme(difference(sum) - slack) || extreme(difference(sum) + slack);
        if deals(all.len(), size).is_some_and(|deals| deals <= DEALS) {
            let (mut hits, mut count) = (0_u64, 0_u64);
            each_choice(all.len(), size, &mut |chosen| {
                count += 1;
                hits += u64::from(is_extreme(chosen.iter().map(|at| all[*at]).sum()));
            });
            return share(hits, count);
        }
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let hits = (0..DEALS).filter(|_| {
            let (dealt, _) = all.partial_shuffle(&mut random, size);
            is_extreme(dealt.iter().sum())
        });
        // The observed deal counts as one of them; otherwise p could be 0 (Phipson and Smyth 2010).
        share(hits.count() as u64 + 1, DEALS + 1)
    }

    /// The confidence interval of the ratio, by resampling the boots of each side. `confidence` is
    /// 0.95, for example.
    ///
    /// The percentiles of few resampled boots are too close together. So they are moved outwards,
    /// as Student's t is wider than the normal distribution (Hesterberg 2015, What Teachers Should
    /// Know About the Bootstrap, 5.1, the expanded interval).
    pub fn interval(&self, confidence: f64, seed: u64) -> (f64, f64) {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let mut drawn: Vec<f64> = (0..RESAMPLES)
            .map(|_| resampled_mean(&self.0.after, &mut random) - resampled_mean(&self.0.before, &mut random))
            .collect();
        drawn.sort_by(f64::total_cmp);
        let fewest = self.0.before.len().min(self.0.after.len());
        let tail = expanded_tail((1.0 - confidence) / 2.0, fewest);
        (quantile(&drawn, tail).exp(), quantile(&drawn, 1.0 - tail).exp())
    }

    /// The number of boots a side that would probably decide, with the scatter of these boots:
    /// whether the difference is real, at `alpha`, if it is at least `margin`; otherwise whether it
    /// is below `margin`. `None` if the number is too large.
    pub fn boots_to_tell(&self, margin: f64, alpha: f64) -> Option<u32> {
        /// No user waits for more boots than this.
        const MOST: f64 = 100_000.0;
        let normal = Normal::standard();
        let difference = self.difference().abs();
        let (level, effect) = if difference >= margin {
            (1.0 - alpha / 2.0, difference)
        } else {
            (1.0 - ALPHA, margin - difference)
        };
        let z = normal.inverse_cdf(level) + normal.inverse_cdf(POWER);
        let boots = (2.0 * self.variance() * (z / effect).powi(2)).ceil().max(2.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in these bounds")]
        (boots <= MOST).then_some(boots as u32).map(|boots| boots.max(fewest_boots(alpha)))
    }

    /// The pooled variance of both sides.
    fn variance(&self) -> f64 {
        let squares = |values: &[f64]| {
            let middle = mean(values);
            values.iter().map(|value| (value - middle).powi(2)).sum::<f64>()
        };
        let Sides { before, after } = &self.0;
        #[expect(clippy::cast_precision_loss, reason = "boots are few")]
        let freedom = (before.len() + after.len() - 2) as f64;
        (squares(before) + squares(after)) / freedom
    }
}

/// The significance level of a verdict over all metrics of a comparison.
pub const ALPHA: f64 = 0.05;

/// The smallest number of boots a side with which a permutation test can fall below `alpha` at all.
pub fn fewest_boots(alpha: f64) -> u32 {
    // The two deals that are the furthest apart.
    let can = |boots: &u32| 2.0 * always_against_never(*boots, *boots) < alpha;
    // 2^-30 is below any level in use.
    (2..32).find(can).unwrap_or(32)
}

/// The p-values, adjusted so that the probability of any false positive stays below the level (Holm
/// 1979).
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut least: f64 = 0.0;
    for (rank, at) in order.into_iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "metrics are few")]
        let left = (p.len() - rank) as f64;
        least = least.max((p[at] * left).min(1.0));
        adjusted[at] = least;
    }
    adjusted
}

/// The median; `None` if there are no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| quantile(&sorted, 0.5))
}

/// The standard deviation of a sample divided by its mean; `None` if that is not defined.
pub fn coefficient_of_variation(values: &[f64]) -> Option<f64> {
    let middle = mean(values);
    #[expect(clippy::cast_precision_loss, reason = "samples are few")]
    let freedom = values.len().checked_sub(1).filter(|n| *n > 0)? as f64;
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (middle > 0.0).then(|| (squares / freedom).sqrt() / middle)
}

/// The quantile of `sorted` at this share, interpolated between neighbours (Hyndman and Fan 1996,
/// type 7).
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    #[expect(clippy::cast_precision_loss, reason = "samples are few")]
    let place = share.clamp(0.0, 1.0) * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the slice")]
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

/// The arithmetic mean.
pub fn mean(values: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "samples are few")]
    let count = values.len() as f64;
    values.iter().sum::<f64>() / count
}

fn resampled_mean(values: &[f64], random: &mut ChaCha12Rng) -> f64 {
    let drawn: f64 = values.iter().map(|_| values[random.random_range(0..values.len())]).sum();
    #[expect(clippy::cast_precision_loss, reason = "boots are few")]
    let count = values.len() as f64;
    drawn / count
}

/// The percentile further out that replaces `tail` if the smaller group has `size` boots.
fn expanded_tail(tail: f64, size: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "boots are few")]
    let size = size as f64;
    let Ok(student) = StudentsT::new(0.0, 1.0, size - 1.0) else { return tail };
    Normal::standard().cdf((size / (size - 1.0)).sqrt() * student.inverse_cdf(tail))
}

#[expect(clippy::cast_precision_loss, reason = "counts of deals are far below 2^52")]
fn share(of: u64, all: u64) -> f64 {
    of as f64 / all as f64
}

/// The number of ways to choose `size` of `all`; `None` if it exceeds 64 bits.
fn deals(all: usize, size: usize) -> Option<u64> {
    (0..size.min(all - size) as u64).try_fold(1_u64, |ways, at| {
        // The division is exact: its result is the number of ways to choose at + 1.
        Some(ways.checked_mul(all as u64 - at)? / (at + 1))
    })
}

/// Calls `with` for each choice of `size` of `0..all`, in order.
fn each_choice(all: usize, size: usize, with: &mut impl FnMut(&[usize])) {
    let mut chosen: Vec<usize> = (0..size).collect();
    loop {
        with(&chosen);
        // The last index that can still rise does, and the ones after it follow directly.
        let Some(at) = (0..size).rev().find(|at| chosen[*at] < all - size + at) else { return };
        chosen[at] += 1;
        for next in at + 1..size {
            chosen[next] = chosen[next - 1] + 1;
        }
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;

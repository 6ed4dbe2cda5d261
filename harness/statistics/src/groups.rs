//! Two groups of boots, and whether they differ: on the logarithms of what each boot took, so that everything said is a
//! ratio.
//!
//! The unit is the boot. What all trials of one boot share by chance (where its memory lies, how full its slabs are) would
//! otherwise be taken for an effect of the patch, and the more surely the more trials there are.
//!
//! Nothing assumes a distribution but the number of boots that would tell, which is a guess about the future anyway.

use hotplug_side::Sides;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use super::exact::always_against_never;

/// Up to so many ways to deal the boots to the two sides, each is looked at; of more, so many drawn ones.
const DEALS: u64 = 100_000;

/// Drawn pairs of groups behind an interval.
const RESAMPLES: usize = 10_000;

/// How sure one wants to be to find what is there.
const POWER: f64 = 0.9;

/// Logarithms of what the boots of both sides took, one a boot.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups(Sides<Vec<f64>>);

impl Groups {
    /// None unless both sides have two boots and all values are above zero.
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

    /// The geometric mean of one side's boots.
    pub fn typical(&self) -> Sides<f64> {
        Sides { before: mean(&self.0.before).exp(), after: mean(&self.0.after).exp() }
    }

    /// How likely a difference so large is, to either side, where the patch does nothing and each boot could as well have
    /// been dealt to the other kernel (a permutation test; Good, Permutation, Parametric, and Bootstrap Tests of Hypotheses,
    /// 3rd ed., chapter 3).
    pub fn p_different(&self, seed: u64) -> f64 {
        let observed = self.difference().abs();
        self.share_of_deals(0.0, seed, |difference| difference.abs() >= observed)
    }

    /// The larger of the two chances to see means so close where the true ratio is `margin` up or down, a logarithm: two
    /// one-sided permutation tests, each of the boots with that ratio taken out (Schuirmann 1987 has the two tests).
    pub fn p_apart(&self, margin: f64, seed: u64) -> f64 {
        let observed = self.difference();
        let slower = self.share_of_deals(margin, seed, |difference| difference <= observed - margin);
        let faster = self.share_of_deals(-margin, seed, |difference| difference >= observed + margin);
        slower.max(faster)
    }

    /// The share of deals of all boots, of which those after are first set back by `shift`, whose difference is `extreme`.
    fn share_of_deals(&self, shift: f64, seed: u64, extreme: impl Fn(f64) -> bool) -> f64 {
        let Sides { before, after } = &self.0;
        let set_back = after.iter().map(|value| value - shift);
        let mut all: Vec<f64> = before.iter().copied().chain(set_back).collect();
        let size = before.len();
        let whole: f64 = all.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "boots are few")]
        let (first, second) = (size as f64, after.len() as f64);
        // Sums in another order differ by rounding, and the deal that was seen has to be one of those as extreme.
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
        // The deal that was seen is one of them: else p could be 0 (Phipson and Smyth 2010).
        share(hits.count() as u64 + 1, DEALS + 1)
    }

    /// The ratio's interval of this confidence, such as 0.95, by resampling the boots of each side.
    ///
    /// Percentiles of few resampled boots are too close together, so they are taken further out, as Student's t is wider than
    /// the normal distribution (Hesterberg 2015, What Teachers Should Know About the Bootstrap, 5.1, the expanded interval).
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

    /// Boots a side that would probably tell, with the scatter seen here: that a difference like this is real, at `alpha`,
    /// where it is at least `margin`; else that there is none of `margin`. None where there cannot be so many.
    pub fn boots_to_tell(&self, margin: f64, alpha: f64) -> Option<u32> {
        /// More boots than anybody will wait for.
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

    /// Of both sides, pooled.
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

/// The level of a verdict over all metrics of a comparison.
pub const ALPHA: f64 = 0.05;

/// The fewest boots a side with which a permutation test can come below `alpha` at all.
pub fn fewest_boots(alpha: f64) -> u32 {
    // The two deals that are as far apart as can be.
    let can = |boots: &u32| 2.0 * always_against_never(*boots, *boots) < alpha;
    // 2^-30 is below any level that somebody asks for.
    (2..32).find(can).unwrap_or(32)
}

/// Each p times what keeps the chance of any false alarm below the level (Holm 1979).
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

/// A value with half of `values` at or below it; none of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| quantile(&sorted, 0.5))
}

/// Standard deviation by mean, of a sample; none where that is not defined.
pub fn coefficient_of_variation(values: &[f64]) -> Option<f64> {
    let middle = mean(values);
    #[expect(clippy::cast_precision_loss, reason = "samples are few")]
    let freedom = values.len().checked_sub(1).filter(|n| *n > 0)? as f64;
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (middle > 0.0).then(|| (squares / freedom).sqrt() / middle)
}

/// The value at this share of `sorted`, between its neighbours where it falls between them (Hyndman and Fan 1996, type 7).
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

/// How far out the percentile is that stands for `tail` where the smaller group has `size` boots.
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

/// How many ways there are to choose `size` of `all`; none beyond 64 bits.
fn deals(all: usize, size: usize) -> Option<u64> {
    (0..size.min(all - size) as u64).try_fold(1_u64, |ways, at| {
        // Always a whole number: it is the count of choosing at + 1.
        Some(ways.checked_mul(all as u64 - at)? / (at + 1))
    })
}

/// Calls `with` for each choice of `size` of `0..all`, in order.
fn each_choice(all: usize, size: usize, with: &mut impl FnMut(&[usize])) {
    let mut chosen: Vec<usize> = (0..size).collect();
    loop {
        with(&chosen);
        // The last that can still go up does, and those behind it follow closely.
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

//! Finds where a series of times changed, by circular binary segmentation (Olshen, Venkatraman,
//! Lucy and Wigler 2004). It looks for the stretch that differs most from the rest, so it also
//! finds a level that came and went. A permutation test of that largest difference decides whether
//! the stretch differs. The test accounts for the choice among all places, because each permutation
//! makes the same choice.

use hotplug_statistics::mean;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

/// The least number of runs of a stretch. Two runs decide nothing.
const LEAST: usize = 4;

/// The level of the test: below it a stretch differs.
const ALPHA: f64 = 0.01;

/// The number of shuffled series for a probability.
const SHUFFLES: u32 = 999;

/// The number of last runs that are examined. The work grows with its square.
const MOST: usize = 300;

/// The seed of the shuffles. It is fixed, so that the same series gives the same changes.
const SEED: u64 = 7;

/// A change of level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelChange {
    /// The place of the first value of the new level.
    pub at: usize,
    /// The new level divided by the old one.
    pub ratio: f64,
    /// The probability of so large a difference by chance.
    pub p: f64,
}

/// The changes of a series, in its order. A series with a value that has no logarithm has none.
pub fn changes(values: &[f64]) -> Vec<LevelChange> {
    let skipped = values.len().saturating_sub(MOST);
    let logs: Vec<f64> = values[skipped..].iter().map(|value| value.ln()).collect();
    if logs.iter().any(|log| !log.is_finite()) {
        return Vec::new();
    }
    let mut found = Vec::new();
    split(&logs, 0, &mut found);
    found.sort_by_key(|(at, _)| *at);
    let ends: Vec<usize> =
        std::iter::once(0).chain(found.iter().map(|(at, _)| *at)).chain([logs.len()]).collect();
    let level = |stretch: usize| mean(&logs[ends[stretch]..ends[stretch + 1]]);
    let change = |(place, (at, p)): (usize, &(usize, f64))| LevelChange {
        at: at + skipped,
        ratio: (level(place + 1) - level(place)).exp(),
        p: *p,
    };
    found.iter().enumerate().map(change).collect()
}

/// Finds the ends of stretches, with their probability, and then searches within each stretch.
fn split(values: &[f64], offset: usize, found: &mut Vec<(usize, f64)>) {
    let Some((from, to, most)) = farthest(values) else { return };
    let mut random = ChaCha12Rng::seed_from_u64(SEED);
    let mut shuffled = values.to_vec();
    let mut hits = 0_u32;
    for _ in 0..SHUFFLES {
        shuffled.shuffle(&mut random);
        // The factor allows for the order of summation, which changes equal sums slightly.
        hits += u32::from(farthest(&shuffled).is_some_and(|(.., other)| other >= most * (1.0 - 1e-9)));
        // The probability can only grow from here.
        if probability(hits) >= ALPHA {
            return;
        }
    }
    let p = probability(hits);
    let ends = [from, to].into_iter().filter(|end| (1..values.len()).contains(end));
    found.extend(ends.map(|end| (offset + end, p)));
    for (from, to) in [(0, from), (from, to), (to, values.len())] {
        split(&values[from..to], offset + from, found);
    }
}

/// The probability, if this many of [`SHUFFLES`] differ at least as much.
fn probability(hits: u32) -> f64 {
    f64::from(hits + 1) / f64::from(SHUFFLES + 1)
}

/// The stretch that differs most from the rest, and its weighted difference.
fn farthest(values: &[f64]) -> Option<(usize, usize, f64)> {
    let count = values.len();
    let mut sums = vec![0.0];
    sums.extend(values.iter().scan(0.0, |sum, value| {
        *sum += value;
        Some(*sum)
    }));
    let long_enough = |length: usize| length == 0 || length >= LEAST;
    let mut most: Option<(usize, usize, f64)> = None;
    for from in (0..count).filter(|from| long_enough(*from)) {
        for to in (from + LEAST..=count).filter(|to| long_enough(count - to)) {
            let (inside, outside) = (to - from, count - (to - from));
            if outside < LEAST {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "at most 300 runs")]
            let (inside, outside) = (inside as f64, outside as f64);
            let sum = sums[to] - sums[from];
            let apart = (sum / inside - (sums[count] - sum) / outside).abs();
            let weight = apart * (inside * outside / (inside + outside)).sqrt();
            if most.is_none_or(|(.., most)| weight > most) {
                most = Some((from, to, weight));
            }
        }
    }
    // A series without scatter has no such stretch.
    most.filter(|(.., weight)| *weight > 1e-12)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(of: f64, runs: u32) -> impl Iterator<Item = f64> {
        // Neighbouring values differ, and have no order.
        (0..runs).map(move |run| of * (1.0 + f64::from(run * 7 % 5) * 1e-3))
    }

    #[test]
    fn a_level_that_comes_and_goes_is_two_changes() {
        let values: Vec<f64> = level(100.0, 12).chain(level(110.0, 12)).chain(level(100.0, 12)).collect();
        let found = changes(&values);
        assert_eq!(found.iter().map(|change| change.at).collect::<Vec<_>>(), [12, 24], "{found:?}");
        assert!(
            (found[0].ratio - 1.1).abs() < 0.005 && (found[1].ratio - 1.0 / 1.1).abs() < 0.005,
            "{found:?}"
        );
        assert!(found.iter().all(|change| change.p < ALPHA));
    }

    #[test]
    fn a_level_that_stays_is_one_change() {
        let values: Vec<f64> = level(100.0, 9).chain(level(95.0, 7)).collect();
        let found = changes(&values);
        assert_eq!(found.iter().map(|change| change.at).collect::<Vec<_>>(), [9], "{found:?}");
    }

    #[test]
    fn noise_and_few_runs_are_no_change() {
        assert_eq!(changes(&level(100.0, 40).collect::<Vec<_>>()), []);
        assert_eq!(changes(&[1.0, 1.0, 2.0, 2.0]), []);
        assert_eq!(changes(&[5.0; 40]), []);
        assert_eq!(changes(&[0.0; 40]), []);
        assert_eq!(changes(&[]), []);
    }

    #[test]
    fn chance_alone_is_seldom_called_a_change() {
        use rand::RngExt;
        let mut random = ChaCha12Rng::seed_from_u64(5);
        let mut called = 0;
        for _ in 0..200 {
            let values: Vec<f64> = (0..16).map(|_| 100.0 + random.random_range(0.0..10.0)).collect();
            called += u32::from(!changes(&values).is_empty());
        }
        // At this level one series in a hundred is called a change. Of 200 these are two, and seven
        // or more have a probability below 0.5 %.
        assert!(called < 8, "{called} of 200");
    }
}

//! The exact tests behind a verdict, without approximation.

use std::sync::LazyLock;

use statrs::function::beta::{beta_reg, inv_beta_reg};

/// Fisher's exact test, two-sided, for `a` of `n` against `b` of `m`.
///
/// The sum of the probabilities of all tables with these margins that are at most as likely as the
/// observed one. 1 if one side has no trials.
pub fn fisher_two_sided(a: u32, n: u32, b: u32, m: u32) -> f64 {
    let (a, n, b, m) = (u64::from(a), u64::from(n), u64::from(b), u64::from(m));
    let (seen, all) = (a + b, n + m);
    // ln P(x of the seen are on the first side): the hypergeometric distribution.
    let ln_p = |x: u64| ln_choose(n, x) + ln_choose(m, seen - x) - ln_choose(all, seen);
    let observed = ln_p(a);
    let lowest = seen.saturating_sub(m);
    let sum: f64 = (lowest..=seen.min(n))
        .map(ln_p)
        // Equal probabilities differ by rounding: with a million trials, in the ninth place.
        .filter(|p| *p <= observed + 1e-7)
        .map(f64::exp)
        .sum();
    sum.min(1.0)
}

/// Counts of two sides under one condition: `a` of `n` against `b` of `m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Trials of the first side that showed it.
    pub a: u32,
    /// All trials of the first side.
    pub n: u32,
    /// Trials of the second side that showed it.
    pub b: u32,
    /// All trials of the second side.
    pub m: u32,
}

/// Probabilities below this one are left out of the sums of [`stratified_two_sided`]. A smaller
/// result is 0.
const NEGLIGIBLE: f64 = 1e-100;

/// The exact test for several conditions at once, two-sided: whether the sides differ, given the
/// rate of each condition. For one table it is Fisher's exact test.
///
/// The margins of each table are fixed, so the counts of the first side are independent and
/// hypergeometric. Their sum is compared with the observed sum, as in Fisher's test (the exact form
/// of the test of Cochran, Mantel and Haenszel). A table in which no trial or every trial showed it
/// has no effect. So trials that could not show the difference do not dilute it.
pub fn stratified_two_sided(tables: &[Table]) -> f64 {
    if let [Table { a, n, b, m }] = *tables {
        return fisher_two_sided(a, n, b, m);
    }
    let mut observed = 0;
    // The probability of each sum, from the lowest possible one.
    let mut sums = vec![1.0];
    for &Table { a, n, b, m } in tables {
        let (seen, all) = (a + b, n + m);
        let lowest = seen.saturating_sub(m);
        observed += (a - lowest) as usize;
        let choose = |n: u32, k: u32| ln_choose(u64::from(n), u64::from(k));
        let ln_p = |x: u32| choose(n, x) + choose(m, seen - x) - choose(all, seen);
        let own: Vec<f64> = (lowest..=seen.min(n)).map(|x| ln_p(x).exp()).collect();
        let mut next = vec![0.0; sums.len() + own.len() - 1];
        for (i, p) in sums.iter().enumerate().filter(|(_, p)| **p > NEGLIGIBLE) {
            for (j, q) in own.iter().enumerate().filter(|(_, q)| **q > NEGLIGIBLE) {
                next[i + j] += p * q;
            }
        }
        sums = next;
    }
    let limit = sums.get(observed).copied().unwrap_or(0.0) * (1.0 + 1e-7);
    sums.iter().filter(|p| **p <= limit).sum::<f64>().min(1.0)
}

/// Fisher's exact test, one-sided, for all `n` of one side against none of `m` of the other: an
/// upper bound of the probability of this result if both sides have the same rate. The direction
/// must be known before.
pub fn always_against_never(n: u32, m: u32) -> f64 {
    (-ln_choose(u64::from(n) + u64::from(m), u64::from(n))).exp()
}

/// The rate a report must have to be seen at least once in `trials` trials with probability 0.95:
/// the p of `(1 - p)^trials = 0.05`. 1 without trials.
pub fn detectable_rate(trials: u32) -> f64 {
    if trials == 0 { 1.0 } else { 1.0 - 0.05_f64.powf(1.0 / f64::from(trials)) }
}

/// The number of clean trials in a row that a failure of this rate survives with a probability of
/// at most `1 - confidence`; 1 if every trial shows the failure.
pub fn clean_trials(rate: f64, confidence: f64) -> u32 {
    let trials = ((1.0 - confidence).ln() / (1.0 - rate).ln()).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is brought between the two first"
    )]
    let trials = trials.clamp(1.0, f64::from(u32::MAX)) as u32;
    trials
}

/// The exact 95 % confidence interval of a rate, from `k` of `n` trials (Clopper and Pearson,
/// 1934).
///
/// Its ends are the rates at which `k` or more, and `k` or fewer, have a probability of 2.5 %:
/// quantiles of beta distributions.
pub fn interval(k: u32, n: u32) -> (f64, f64) {
    const TAIL: f64 = 0.025;
    let (yes, no) = (f64::from(k), f64::from(n - k));
    let low = if k == 0 { 0.0 } else { inv_beta_reg(yes, no + 1.0, TAIL) };
    let high = if k == n { 1.0 } else { inv_beta_reg(yes + 1.0, no, 1.0 - TAIL) };
    (low, high)
}

/// The probability of `k` or fewer of `n` at this rate.
pub fn probability_of_at_most(k: u32, n: u32, rate: f64) -> f64 {
    if k >= n || rate <= 0.0 {
        1.0
    } else if rate >= 1.0 {
        0.0
    } else {
        1.0 - at_least(k + 1, n, rate)
    }
}

/// The probability of `k` or more of `n` at this rate, which is neither 0 nor 1: the tail of the
/// binomial distribution. `k` is at least 1.
fn at_least(k: u32, n: u32, rate: f64) -> f64 {
    beta_reg(f64::from(k), f64::from(n - k) + 1.0, rate)
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Factorials up to this number are in a table, because thousands of dependencies are tested.
const LOOKED_UP: u64 = 4096;

fn ln_factorial(n: u64) -> f64 {
    static ALL: LazyLock<Vec<f64>> = LazyLock::new(|| {
        let sums = (0..=LOOKED_UP).scan(0.0, |sum, i| {
            *sum += ln(i.max(1));
            Some(*sum)
        });
        sums.collect()
    });
    let index = usize::try_from(n).unwrap_or(usize::MAX);
    // The trials of a fleet can be a million, and a sum for each table would take minutes.
    ALL.get(index).copied().unwrap_or_else(|| statrs::function::factorial::ln_factorial(n))
}

#[expect(clippy::cast_precision_loss, reason = "counts of trials are far below 2^52")]
fn ln(n: u64) -> f64 {
    (n as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(is: f64, should: f64) {
        assert!((is - should).abs() < 1e-6 * should.max(1e-6), "{is} should be {should}");
    }

    #[test]
    fn many_trials_are_tested_as_few_are() {
        // Both sides are equal: every table counts, whichever way its logarithms were computed.
        close(fisher_two_sided(250_000, 500_000, 250_000, 500_000), 1.0);
        // The probability is twice that of one end: nearly 2^-n each for the n that were seen, if n
        // is far below the number of trials.
        let p = fisher_two_sided(0, 1_000_000, 20, 1_000_000);
        assert!((p * f64::from(1 << 19) - 1.0).abs() < 1e-3, "{p}");
        // On both sides of the end of the table of factorials.
        for n in [4095, 4096, 4097, 5000] {
            let sum: f64 = (1..=n).map(ln).sum();
            assert!((ln_factorial(n) - sum).abs() < 1e-8, "{n}");
        }
    }

    #[test]
    fn strata_add_up_and_do_not_dilute() {
        let table = |a, n, b, m| Table { a, n, b, m };
        // One table is Fisher's test.
        close(stratified_two_sided(&[table(3, 4, 1, 4)]), fisher_two_sided(3, 4, 1, 4));
        // By hand: one table of C(6, 3) = 20 in each stratum, on both ends.
        close(stratified_two_sided(&[table(0, 3, 3, 3), table(0, 3, 3, 3)]), 2.0 / 400.0);
        // Opposite effects cancel: the observed sum is the most likely one.
        close(stratified_two_sided(&[table(0, 3, 3, 3), table(3, 3, 0, 3)]), 1.0);
        // A stratum in which nothing was seen, or everything, or with one side alone, has no
        // effect.
        let one = table(0, 5, 5, 5);
        for other in [table(0, 50, 0, 50), table(7, 7, 9, 9), table(2, 4, 0, 0)] {
            close(stratified_two_sided(&[one, other]), 2.0 / 252.0);
        }
        // From the definition, with the exact fractions of both hypergeometric distributions.
        close(stratified_two_sided(&[table(2, 10, 5, 10), table(1, 10, 4, 10)]), 0.084_667_254_5);
        close(stratified_two_sided(&[]), 1.0);
    }

    #[test]
    fn known_values() {
        // By hand: one table of C(16, 8) = 12870 on each end.
        close(fisher_two_sided(0, 8, 8, 8), 2.0 / 12870.0);
        // Fisher's tea: 3 of 4 against 1 of 4 (R's fisher.test: 0.4857143).
        close(fisher_two_sided(3, 4, 1, 4), 0.485_714_285_7);
        // R: fisher.test(matrix(c(1, 9, 11, 3), 2)): 0.002759456.
        close(fisher_two_sided(1, 10, 11, 14), 0.002_759_456_185);
        close(fisher_two_sided(0, 8, 1, 8), 1.0);
        close(fisher_two_sided(0, 0, 3, 3), 1.0);
        close(always_against_never(8, 8), 1.0 / 12870.0);
        close(always_against_never(2, 3), 0.1);
        close(always_against_never(0, 5), 1.0);
    }

    #[test]
    fn factorials_go_on_behind_the_table() {
        close(ln_factorial(0), 0.0);
        close(ln_factorial(20), 2_432_902_008_176_640_000_f64.ln());
        close(ln_factorial(LOOKED_UP + 2) - ln_factorial(LOOKED_UP), ln(LOOKED_UP + 1) + ln(LOOKED_UP + 2));
    }

    #[test]
    fn known_intervals() {
        // R: binom.test(7, 10)$conf.int, and so on.
        for (k, n, low, high) in [
            (7, 10, 0.347_547_1, 0.933_260_5),
            (1, 20, 0.001_265_1, 0.248_732_8),
            (5, 10, 0.187_086_0, 0.812_914_0),
        ] {
            let (is_low, is_high) = interval(k, n);
            assert!((is_low - low).abs() < 1e-6 && (is_high - high).abs() < 1e-6, "{is_low} to {is_high}");
        }
        // Without a tail on one side the other end has a closed form.
        close(interval(0, 10).1, 1.0 - 0.025_f64.powf(0.1));
        close(interval(10, 10).0, 0.025_f64.powf(0.1));
        close(interval(1000, 1000).0, 0.025_f64.powf(0.001));
        assert_eq!((interval(0, 10).0, interval(10, 10).1), (0.0, 1.0));
        assert_eq!(interval(0, 0), (0.0, 1.0));
    }

    #[test]
    fn sides_and_outcomes_may_be_swapped() {
        for (a, b) in [(0, 5), (2, 7), (3, 3)] {
            close(fisher_two_sided(a, 9, b, 7), fisher_two_sided(b, 7, a, 9));
            close(fisher_two_sided(a, 9, b, 7), fisher_two_sided(9 - a, 9, 7 - b, 7));
        }
    }

    #[test]
    fn eight_clean_trials_exclude_a_rate_of_a_third() {
        close(detectable_rate(8), 0.312_344_0);
        close(detectable_rate(0), 1.0);
    }
}

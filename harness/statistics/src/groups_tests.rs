use proptest::prelude::*;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::*;

/// Groups whose logarithms are these.
fn groups(before: &[f64], after: &[f64]) -> Groups {
    let exp = |values: &[f64]| values.iter().map(|value| value.exp()).collect();
    Groups::new(&Sides { before: exp(before), after: exp(after) }).unwrap()
}

fn close(is: f64, should: f64, by: f64) {
    assert!((is - should).abs() <= by, "{is} should be {should}");
}

/// A random value of the standard normal distribution.
fn normal(random: &mut ChaCha12Rng) -> f64 {
    Normal::standard().inverse_cdf(random.random_range(1e-9..1.0 - 1e-9))
}

#[test]
fn all_deals_are_counted() {
    // By hand: of 20 ways to deal six boots, only the observed one and its mirror image are this
    // far apart.
    let apart = groups(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
    close(apart.p_different(0), 2.0 / 20.0, 1e-12);
    close(apart.difference(), 3.0, 1e-12);
    let alike = groups(&[1.0, 2.0], &[1.0, 2.0]);
    close(alike.p_different(0), 1.0, 1e-12);
    assert_eq!(deals(16, 7), Some(11440));
    assert_eq!(deals(200, 100), None);
    let mut count = 0;
    each_choice(16, 7, &mut |_| count += 1);
    assert_eq!(count, 11440);
}

/// Survival of mice, from Efron and Tibshirani 1993, An Introduction to the Bootstrap, table 2.1.
/// Their chapter 15 has a one-sided 0.132 from a thousand random deals, and 0.141 by Student's t.
/// Of all 11440 deals, 1613 are as far up, and 3184 are as far in either direction.
#[test]
fn the_mouse_data() {
    let hundredths = |values: &[f64]| values.iter().map(|value| value / 100.0).collect::<Vec<_>>();
    let treated = hundredths(&[94.0, 197.0, 16.0, 38.0, 99.0, 141.0, 23.0]);
    let control = hundredths(&[52.0, 104.0, 146.0, 10.0, 51.0, 30.0, 40.0, 27.0, 46.0]);
    let mice = groups(&control, &treated);
    close(mice.difference(), 0.306_349_206, 1e-8);
    close(mice.p_different(0), 3184.0 / 11440.0, 1e-12);
    // Their bootstrap standard error of the difference is 26.85, Student's is 28.93 (chapter 2, and
    // 15.3).
    let (low, high) = mice.interval(0.6827, 1);
    let error = (high.ln() - low.ln()) / 2.0;
    assert!((0.2685..0.32).contains(&error), "{error}");
}

#[test]
fn drawn_deals_agree_with_all_of_them() {
    let mut random = ChaCha12Rng::seed_from_u64(3);
    // 20 boots a side have 1.4e11 deals, so random deals are used.
    let before: Vec<f64> = (0..20).map(|_| normal(&mut random)).collect();
    let after: Vec<f64> = (0..20).map(|_| normal(&mut random) + 0.6).collect();
    let many = groups(&before, &after);
    let student = two_sided_t(&before, &after);
    close(many.p_different(1), student, 0.1 * student);
    assert_eq!(many.p_different(1).to_bits(), many.p_different(1).to_bits());
    let apart = groups(&before, &before.iter().map(|value| value + 100.0).collect::<Vec<_>>());
    close(apart.p_different(1), 1.0 / 100_001.0, 1e-9);
}

/// Student's test, with statrs.
fn two_sided_t(before: &[f64], after: &[f64]) -> f64 {
    let groups = groups(before, after);
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let (n, m) = (before.len() as f64, after.len() as f64);
    let t = groups.difference() / (groups.variance() * (1.0 / n + 1.0 / m)).sqrt();
    2.0 * StudentsT::new(0.0, 1.0, n + m - 2.0).unwrap().cdf(-t.abs())
}

#[test]
fn permutation_and_student_agree_on_normal_boots() {
    let mut random = ChaCha12Rng::seed_from_u64(5);
    for shift in [0.0, 0.5, 1.0, 2.0] {
        let before: Vec<f64> = (0..8).map(|_| normal(&mut random)).collect();
        let after: Vec<f64> = (0..8).map(|_| normal(&mut random) + shift).collect();
        let (permuted, student) = (groups(&before, &after).p_different(0), two_sided_t(&before, &after));
        close(permuted, student, 0.02);
    }
}

#[test]
fn an_interval_holds_the_truth_about_as_often_as_it_says() {
    let mut random = ChaCha12Rng::seed_from_u64(11);
    for boots in [5, 20] {
        let holds = (0..300).filter(|_| {
            let draw = |random: &mut ChaCha12Rng| (0..boots).map(|_| normal(random)).collect::<Vec<_>>();
            let (before, after) = (draw(&mut random), draw(&mut random));
            let (low, high) = groups(&before, &after).interval(0.95, 1);
            low <= 1.0 && 1.0 <= high
        });
        let holds = holds.count();
        // The expectation is 285 of 300, with a standard error of 4.
        assert!((270..=297).contains(&holds), "{boots} boots: {holds} of 300");
    }
}

#[test]
fn what_is_close_is_shown_to_be_close() {
    let before = [0.0, 0.001, -0.001, 0.002, -0.002];
    let near = groups(&before, &before.map(|value| value + 0.001));
    assert!(near.p_apart(0.01, 0) < 0.01);
    // At the margin itself nothing is shown: half of all deals are at least as close.
    assert!(near.p_apart(0.001, 0) > 0.4);
    let far = groups(&before, &before.map(|value| value + 0.02));
    assert!(far.p_apart(0.01, 0) > 0.99);
}

#[test]
fn so_many_boots_tell() {
    // Two deals of C(8, 4) = 70 are below 5 %, two of C(10, 5) = 252 below a sixth of that.
    assert_eq!(fewest_boots(0.05), 4);
    assert_eq!(fewest_boots(0.05 / 6.0), 5);
    let mut random = ChaCha12Rng::seed_from_u64(13);
    let mut draw =
        |shift: f64, boots: u32| (0..boots).map(|_| normal(&mut random) * 0.1 + shift).collect::<Vec<f64>>();
    // With a scatter of 0.1 and a margin of 0.05: n = 2 * 0.01 * (1.645 + 1.282)^2 / 0.0025 = 69,
    // as far as the scatter is known.
    let few = groups(&draw(0.0, 200), &draw(0.0, 200));
    let boots = few.boots_to_tell(0.05, 0.05).unwrap();
    assert!((60..130).contains(&boots), "{boots}");
    // This number of boots does decide, in nine cases of ten.
    let told = (0..100).filter(|_| groups(&draw(0.0, 69), &draw(0.0, 69)).p_apart(0.05, 0) < 0.05).count();
    assert!((75..=100).contains(&told), "{told}");
    let never = groups(&[0.0, 1.0, 2.0], &[0.05, 1.05, 2.05]);
    assert_eq!(never.boots_to_tell(0.050_000_01, 0.05), None);
}

/// The example of Holm's procedure in common use: 0.01, 0.04, 0.03, 0.005.
#[test]
fn many_metrics_share_the_level() {
    let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
    for (is, should) in adjusted.into_iter().zip([0.03, 0.06, 0.06, 0.02]) {
        close(is, should, 1e-12);
    }
    assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    assert!(holm(&[]).is_empty());
}

#[test]
fn quantiles_and_scatter() {
    // By hand, with R's default method: the 0.9 quantile is 0.7 of the way from the third to the
    // fourth.
    let values = [1.0, 2.0, 4.0, 8.0];
    for (share, should) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
        close(quantile(&values, share), should, 1e-12);
    }
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    close(coefficient_of_variation(&values).unwrap(), (28.75_f64 / 3.0).sqrt() / 3.75, 1e-12);
    assert_eq!(coefficient_of_variation(&[1.0]), None);
}

#[test]
fn what_has_no_logarithm_or_no_scatter_is_no_group() {
    for values in [vec![], vec![1.0], vec![1.0, 0.0], vec![1.0, f64::NAN], vec![1.0, f64::INFINITY]] {
        assert_eq!(Groups::new(&Sides { before: vec![1.0, 2.0], after: values }), None);
    }
}

proptest! {
    #[test]
    fn units_and_sides_do_not_matter(
        before in prop::collection::vec(0.5_f64..2.0, 2..7),
        after in prop::collection::vec(0.5_f64..2.0, 2..7),
        unit in 1e-3_f64..1e9,
    ) {
        let of = |before: &[f64], after: &[f64], unit: f64| {
            let scaled = |values: &[f64]| values.iter().map(|value| value * unit).collect();
            Groups::new(&Sides { before: scaled(before), after: scaled(after) }).unwrap()
        };
        let (one, scaled, turned) = (of(&before, &after, 1.0), of(&before, &after, unit), of(&after, &before, 1.0));
        prop_assert!((one.difference() - scaled.difference()).abs() < 1e-9);
        prop_assert!((one.difference() + turned.difference()).abs() < 1e-9);
        prop_assert!((one.p_different(0) - scaled.p_different(0)).abs() < 1e-9);
        prop_assert!((one.p_different(0) - turned.p_different(0)).abs() < 1e-9);
        prop_assert!((one.p_apart(0.1, 0) - turned.p_apart(0.1, 0)).abs() < 1e-9);
    }
}

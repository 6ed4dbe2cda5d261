//! Bisections of histories whose culprit is known, by trials that are drawn.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Bisection, History, Price, Step};

const PRICE: Price = Price { build: 40.0, start: 8.0, trial: 1.2 };

/// What a bisection came to.
#[derive(Debug)]
struct Outcome {
    step: Step,
    trials: u32,
    builds: usize,
}

/// Bisects `revisions` of which `culprit` brought what `rate` of the trials show; those that `broken` names cannot be tried.
fn bisect(
    seed: u64,
    revisions: usize,
    culprit: usize,
    rate: f64,
    broken: &[usize],
    confidence: f64,
) -> Outcome {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut bisection = Bisection::new(History::line(revisions), confidence);
    let mut trials = 0;
    let mut shows = |revision: usize| {
        trials += 1;
        revision >= culprit && random.random_bool(rate)
    };
    while bisection.tested()[revisions].hits < 3 {
        let hit = shows(revisions);
        bisection.add(revisions, u32::from(hit), u32::from(!hit));
    }
    let step = loop {
        let Step::Test { revision, trials } = bisection.next(PRICE) else { break bisection.next(PRICE) };
        if broken.contains(&revision) {
            bisection.give_up(revision, "does not compile");
            continue;
        }
        for _ in 0..trials {
            let hit = shows(revision);
            bisection.add(revision, u32::from(hit), u32::from(!hit));
            if hit {
                break;
            }
        }
    };
    let builds = bisection.tested().iter().filter(|tested| tested.hits + tested.clean > 0).count();
    Outcome { step, trials, builds }
}

/// How many of so many bisections name the culprit, each of another one.
fn right(bisections: u64, rate: f64, confidence: f64) -> (u64, Vec<Outcome>) {
    let mut right = 0;
    let mut all = Vec::new();
    for seed in 0..bisections {
        let culprit = 1 + usize::try_from(seed % 16).unwrap();
        let outcome = bisect(seed, 16, culprit, rate, &[], confidence);
        right += u64::from(matches!(outcome.step, Step::Found { revision, .. } if revision == culprit));
        all.push(outcome);
    }
    (right, all)
}

#[test]
fn what_every_trial_shows_is_found_every_time_by_few_builds() {
    let (right, all) = right(160, 1.0, 0.95);
    assert_eq!(right, 160);
    // The two ends, and log2 of 16; the rate has to be learnt first.
    assert!(all.iter().all(|one| one.builds <= 7), "{all:?}");
}

#[test]
fn what_one_trial_in_five_shows_is_found_as_often_as_is_said() {
    for (confidence, least) in [(0.95, 184), (0.98, 190)] {
        let (right, all) = right(200, 0.2, confidence);
        assert!(right >= least, "{right} of 200 at {confidence}");
        let trials: u32 = all.iter().map(|one| one.trials).sum();
        assert!(trials < 200 * 250, "{trials} trials");
    }
}

#[test]
fn a_culprit_beside_revisions_that_do_not_build_is_among_those_that_are_named() {
    let named = (0..40).filter(|seed| {
        let outcome = bisect(*seed, 12, 6, 0.5, &[5, 6], 0.98);
        outcome.step == Step::OneOf(vec![5, 6, 7])
    });
    assert!(named.count() >= 38);
}

#[test]
fn a_good_end_that_is_bad_is_told() {
    let told = (0..40).filter(|seed| {
        let outcome = bisect(*seed, 12, 0, 0.5, &[], 0.98);
        matches!(outcome.step, Step::GoodIsBad { .. })
    });
    assert!(told.count() >= 38);
}

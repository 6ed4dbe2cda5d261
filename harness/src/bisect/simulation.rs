//! Bisections of histories whose culprit is known, by random trials and by recorded trials of real
//! kernels.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Bisection, NextStep, Price, RevisionGraph};

const PRICE: Price = Price { build: 40.0, start: 8.0, trial: 1.2 };

/// The outcome of a bisection.
#[derive(Debug)]
struct Outcome {
    step: NextStep,
    trials: u32,
    builds: usize,
}

/// Bisects `revisions`. `shows` tries one of them. Those in `broken` cannot be tried.
fn bisect(
    revisions: usize,
    broken: &[usize],
    confidence: f64,
    mut shows: impl FnMut(usize) -> bool,
) -> Outcome {
    let mut bisection = Bisection::new(RevisionGraph::line(revisions), confidence);
    let mut trials = 0;
    let mut shows = |revision: usize| {
        trials += 1;
        shows(revision)
    };
    while bisection.tested()[revisions].hits < 3 {
        let hit = shows(revisions);
        bisection.add(revisions, u32::from(hit), u32::from(!hit));
    }
    let step = loop {
        let NextStep::Test { revision, trials } = bisection.next(PRICE) else { break bisection.next(PRICE) };
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

/// Bisects by random trials: the share `rate` of them shows the bug that `culprit` introduced.
fn drawn(
    seed: u64,
    revisions: usize,
    culprit: usize,
    rate: f64,
    broken: &[usize],
    confidence: f64,
) -> Outcome {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    bisect(revisions, broken, confidence, |revision| revision >= culprit && random.random_bool(rate))
}

/// The number of bisections that name the culprit, which differs from one bisection to the next.
fn right(bisections: u64, rate: f64, confidence: f64) -> (u64, Vec<Outcome>) {
    let mut right = 0;
    let mut all = Vec::new();
    for seed in 0..bisections {
        let culprit = 1 + usize::try_from(seed % 16).unwrap();
        let outcome = drawn(seed, 16, culprit, rate, &[], confidence);
        right += u64::from(matches!(outcome.step, NextStep::Found { revision, .. } if revision == culprit));
        all.push(outcome);
    }
    (right, all)
}

#[test]
fn what_every_trial_shows_is_found_every_time_by_few_builds() {
    let (right, all) = right(160, 1.0, 0.95);
    assert_eq!(right, 160);
    // These are the two ends and log2 of 16, and one more because the rate must be learnt first.
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
        let outcome = drawn(*seed, 12, 6, 0.5, &[5, 6], 0.98);
        outcome.step == NextStep::OneOf(vec![5, 6, 7])
    });
    assert!(named.count() >= 38);
}

#[test]
fn a_good_end_that_is_bad_is_told() {
    let told = (0..40).filter(|seed| {
        let outcome = drawn(*seed, 12, 0, 0.5, &[], 0.98);
        matches!(outcome.step, NextStep::GoodIsBad { .. })
    });
    assert!(told.count() >= 38);
}

/// The trials of each revision of a real history, from `recorded.txt`, the good end first. None for
/// a revision that does not compile.
fn recorded() -> Vec<Option<Vec<bool>>> {
    let lines = include_str!("recorded.txt").lines().filter(|line| !line.starts_with("//"));
    let trials = lines.map(|line| line.split(' ').nth(1).unwrap());
    trials.map(|trials| (trials != "-").then(|| trials.chars().map(|one| one == '#').collect())).collect()
}

/// Each bisection draws from the trials of each revision in an order of its own.
#[test]
fn what_real_kernels_showed_in_a_fifth_of_their_trials_is_found_in_nineteen_of_twenty_bisections() {
    /// The commit that introduced the bug.
    const CULPRIT: usize = 8;
    let recorded = recorded();
    let broken: Vec<usize> = (0..recorded.len()).filter(|at| recorded[*at].is_none()).collect();
    assert_eq!((recorded.len(), broken.as_slice()), (13, [4, 5].as_slice()));
    let right = (0..200).filter(|seed| {
        let mut random = ChaCha8Rng::seed_from_u64(*seed);
        let outcome = bisect(recorded.len() - 1, &broken, 0.98, |revision| {
            let trials = recorded[revision].as_ref().unwrap();
            trials[random.random_range(0..trials.len())]
        });
        matches!(outcome.step, NextStep::Found { revision: CULPRIT, .. })
    });
    let right = right.count();
    assert!(right >= 190, "{right} of 200");
}

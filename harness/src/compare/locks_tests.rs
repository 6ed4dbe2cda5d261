//! Synthetic trials of two kernels.

use hotplug_lockorder::{Edge, How, LockClass, LockOrder, Node, TrialLocks, Usage};
use proptest::prelude::*;

use super::*;

fn order(edges: &[(u32, u32)]) -> LockOrder {
    let class = |number: u32| LockClass {
        name: format!("lock{number}"),
        key: Some(format!("lock{number}")),
        file: Some("a.c".into()),
        subclass: 0,
        ordinal: 0,
    };
    LockOrder {
        classes: (0..40).map(|number| Node { class: class(number), usage: Usage(0) }).collect(),
        edges: edges
            .iter()
            .map(|(from, to)| Edge { from: *from, to: *to, how: How::EN, distance: 1, path: None })
            .collect(),
        ..LockOrder::default()
    }
}

fn trial(side: Side, number: usize, edges: &[(u32, u32)]) -> TrialLocks {
    let folder = format!("{side}-{number:03}");
    TrialLocks { side, folder, blind: None, restored: true, microseconds: 0, order: order(edges) }
}

fn union(trials: &[TrialLocks]) -> Union {
    let mut union = Union::default();
    for trial in trials {
        union.add(trial);
    }
    union
}

fn names(edges: &[EdgeDiff]) -> Vec<String> {
    edges.iter().map(|edge| format!("{} -> {}", edge.from, edge.to)).collect()
}

/// `n` trials a side, with an edge that only before has, one that only after has, one that both
/// have, and noise.
fn patched(n: usize) -> Vec<TrialLocks> {
    let noise = |number: usize| (10 + u32::try_from(number % 7).unwrap_or(0), 20);
    let before = (0..n).map(|number| trial(Side::Before, number, &[(0, 1), (2, 3), noise(number)]));
    let after = (0..n).map(|number| trial(Side::After, number, &[(0, 2), (2, 3), noise(number + 3)]));
    before.chain(after).collect()
}

#[test]
fn what_the_patch_did_is_told_from_noise() {
    let orders = LockOrders::new(union(&patched(10)));
    let diff = orders.diff(&Elsewhere::default());
    assert_eq!(
        (names(&diff.gone), names(&diff.new)),
        (vec!["lock0 -> lock1".into()], vec!["lock0 -> lock2".into()])
    );
    let new = &diff.new[0];
    assert_eq!((new.before.to_string(), new.after.to_string()), ("0/10".into(), "10/10".into()));
    // Each of these trials was a boot.
    assert_eq!((&new.boots, orders.next_boot()), (&None, None));
    assert_eq!(new.example, "trials/after-000");
    assert!(diff.forecast.is_empty());
}

#[test]
fn few_trials_decide_nothing() {
    let diff = LockOrders::new(union(&patched(3))).diff(&Elsewhere::default());
    assert!(diff.gone.is_empty() && diff.new.is_empty(), "{diff:?}");
    assert!(diff.undecided >= 2);
}

#[test]
fn a_blind_trial_shows_what_it_shows_and_nothing_else() {
    let mut trials = patched(10);
    let mut blind = trial(Side::After, 10, &[(0, 1)]);
    blind.blind = Some("the guest hung".into());
    trials.push(blind);
    let diff = LockOrders::new(union(&trials)).diff(&Elsewhere::default());
    assert!(diff.gone.is_empty(), "the blind trial showed it: {:?}", names(&diff.gone));
    assert_eq!(diff.new[0].after.to_string(), "10/10");
    assert_eq!((diff.extent.after.trials, diff.extent.after.blind), (10, 1));
}

/// Of each side: trials in which lockdep went off.
fn blind(trials: &mut [TrialLocks], side: Side) {
    for trial in trials.iter_mut().filter(|trial| trial.side == side) {
        trial.blind = Some("lockdep was off".into());
    }
}

#[test]
fn what_blind_trials_showed_is_new_and_what_they_lack_is_not_gone() {
    let mut trials = patched(10);
    blind(&mut trials, Side::After);
    let diff = LockOrders::new(union(&trials)).diff(&Elsewhere::default());
    assert_eq!((names(&diff.gone), names(&diff.new)), (vec![], vec!["lock0 -> lock2".to_owned()]));
    assert_eq!(diff.new[0].after.to_string(), "10/10");
    let mut trials = patched(10);
    blind(&mut trials, Side::Before);
    blind(&mut trials, Side::After);
    let diff = LockOrders::new(union(&trials)).diff(&Elsewhere::default());
    assert!(diff.gone.is_empty() && diff.new.is_empty(), "{diff:?}");
}

#[test]
fn too_few_guests_are_told_with_the_number_that_could_decide() {
    let diff = LockOrders::new(union(&patched(3))).diff(&Elsewhere::default());
    let needed = diff.needed.unwrap();
    assert!((5..=8).contains(&needed), "{needed}");
    let enough = LockOrders::new(union(&patched(needed as usize))).diff(&Elsewhere::default());
    assert_eq!((enough.gone.len(), enough.new.len()), (1, 1), "{enough:?}");
}

#[test]
fn two_locks_in_the_other_order_are_a_reversal() {
    let before = (0..10).map(|number| trial(Side::Before, number, &[(0, 1), (2, 3)]));
    let after = (0..10).map(|number| trial(Side::After, number, &[(1, 0), (2, 3)]));
    let trials: Vec<_> = before.chain(after).collect();
    let diff = LockOrders::new(union(&trials)).diff(&Elsewhere::default());
    let reversed = &diff.reversed[0];
    assert_eq!((&*reversed.first, &*reversed.second, diff.reversed.len()), ("lock0", "lock1", 1));
    assert_eq!(
        (&*reversed.example_before, &*reversed.example_after),
        ("trials/before-000", "trials/after-000")
    );
    // A kernel that has both orders is one that lockdep itself reports.
    let mut trials = trials;
    trials.push(trial(Side::After, 10, &[(0, 1)]));
    assert!(LockOrders::new(union(&trials)).diff(&Elsewhere::default()).reversed.is_empty());
}

/// The edges of a side's checkpoint, and the edges that its trials add.
type SideEdges<'a> = (&'a [(u32, u32)], &'a [(u32, u32)]);

/// A boot of both kernels, each with one trial.
fn boot(before: SideEdges<'_>, after: SideEdges<'_>, is_blind: bool) -> Union {
    let mut union = Union::default();
    for (side, (boot, edges)) in [(Side::Before, before), (Side::After, after)] {
        union.add_boot(side, &order(boot));
        let mut one = trial(side, 0, edges);
        one.blind = is_blind.then(|| "lockdep was off".into());
        union.add(&one);
    }
    union
}

/// Three trials a side of each of eight scenarios, each from a checkpoint of its own. The patch moves
/// 4 -> 5 of all checkpoints to 5 -> 4, and adds 0 -> 1 in six scenarios. 0 -> 2 is of the state of
/// one checkpoint, and five recorded 6 -> 7 by chance.
fn portfolio() -> LockOrders {
    let mut union = Union::default();
    for (scenario, name) in ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().enumerate() {
        let (first, six) = (scenario == 0, scenario < 6);
        for (side, boot) in [(Side::Before, (4, 5)), (Side::After, (5, 4))] {
            let is_after = side == Side::After;
            let more = if scenario < 5 && is_after { vec![(6, 7)] } else { Vec::new() };
            let boot = order(&[vec![boot], more].concat());
            for number in 0..3 {
                let all = [((0, 1), six && is_after), ((0, 2), first && is_after), ((8, 9), true)];
                let edges: Vec<(u32, u32)> =
                    all.into_iter().filter(|(_, there)| *there).map(|(edge, _)| edge).collect();
                let one = trial(side, number, &edges);
                let folder = format!("{name}-{}", one.folder);
                union.add_restored(&TrialLocks { folder, ..one }, name, &boot);
            }
        }
    }
    LockOrders::new(union)
}

#[test]
fn the_checkpoints_of_several_scenarios_count_for_their_trials() {
    let orders = portfolio();
    // The trials decide.
    assert_eq!(orders.next_boot(), None);
    let diff = orders.diff(&Elsewhere::default());
    assert_eq!(names(&diff.gone), ["lock4 -> lock5"]);
    assert_eq!(names(&diff.new), ["lock0 -> lock1", "lock5 -> lock4"]);
    assert_eq!(diff.gone[0].example, "checkpoints/a/before");
    assert_eq!(diff.gone[0].before, Count { seen: 24, trials: 24 });
    assert_eq!(diff.new[0].example, "trials/a-after-000");
    assert_eq!(diff.reversed.len(), 1);
    assert_eq!(diff.undecided, 2);
}

/// Restored trials. 4 -> 5 and 0 -> 1 are due to the patch. 6 -> 7 and 0 -> 2 are due to the state
/// of the first boot. The other side's trials have 8 -> 9 too.
fn restored() -> LockOrders {
    let mut union = union(&patched(10));
    union.add_boot(Side::Before, &order(&[(4, 5), (6, 7), (8, 9)]));
    union.add_boot(Side::After, &order(&[]));
    union.add(&trial(Side::After, 10, &[(0, 2), (8, 9)]));
    LockOrders::new(union)
}

#[test]
fn boots_tell_the_patch_from_what_one_boot_was_like() {
    let mut orders = restored();
    let mut boots = 0;
    while let Some(number) = orders.next_boot() {
        boots += 1;
        assert_eq!(number, boots + 1);
        // An edge of the first boot's checkpoint comes from the trial in one further boot, and is
        // missing in another.
        orders.add_boot(&match number {
            3 => boot((&[(4, 5)], &[(0, 1), (6, 7)]), (&[], &[(0, 2)]), false),
            4 => boot((&[(4, 5)], &[(0, 1)]), (&[], &[]), false),
            _ => boot((&[(4, 5), (6, 7)], &[(0, 1)]), (&[], &[(0, 2)]), false),
        });
    }
    let diff = orders.diff(&Elsewhere::default());
    let lists = (names(&diff.gone), names(&diff.new));
    assert_eq!(lists, (vec!["lock0 -> lock1".into(), "lock4 -> lock5".into()], vec![]));
    for edge in &diff.gone {
        // All trials began with the edges of their boot.
        assert_eq!((edge.before.to_string(), edge.after.to_string()), ("10/10".into(), "0/11".into()));
        let count = |seen| Count { seen, trials: boots };
        assert_eq!(edge.boots, Some(Sides { before: count(boots), after: count(0) }));
        // Four candidates share the 1 %: one in 462 is too likely, one in 924 is not.
        assert!((edge.p - 1.0 / 924.0).abs() < 1e-9, "{}", edge.p);
    }
    assert_eq!(diff.extent.after.boots, 6);
    assert_eq!(diff.undecided, 2);
}

#[test]
fn restored_trials_alone_decide_nothing() {
    let diff = restored().diff(&Elsewhere::default());
    assert!(diff.gone.is_empty() && diff.new.is_empty(), "{diff:?}");
}

#[test]
fn boots_end_when_all_was_chance() {
    let mut orders = restored();
    orders.add_boot(&boot((&[], &[]), (&[], &[]), false));
    assert_eq!(orders.next_boot(), None);
    let diff = orders.diff(&Elsewhere::default());
    assert!(diff.gone.is_empty() && diff.new.is_empty(), "{diff:?}");
}

#[test]
fn a_boot_whose_trial_was_blind_tells_of_the_boot_alone() {
    let mut orders = restored();
    let mut boots = 0;
    while orders.next_boot().is_some() {
        boots += 1;
        orders.add_boot(&boot((&[(4, 5)], &[]), (&[], &[]), true));
    }
    // The needed boots and all spare boots were run.
    assert_eq!(boots, 6 + SPARE_BOOTS);
    assert_eq!(names(&orders.diff(&Elsewhere::default()).gone), ["lock4 -> lock5"]);
}

#[test]
fn a_part_goes_with_its_lock() {
    let mut trials = patched(10);
    for one in trials.iter_mut().filter(|one| one.side == Side::After) {
        one.order.classes[3].class = LockClass {
            name: "lock2.waiters.lock".into(),
            key: Some("lock2+0x68".into()),
            ..one.order.classes[3].class.clone()
        };
        one.order.edges.push(Edge { from: 0, to: 3, how: How::EN, distance: 1, path: None });
    }
    let diff = LockOrders::new(union(&trials)).diff(&Elsewhere::default());
    let part = diff.new.iter().find(|edge| edge.to == "lock2.waiters.lock" && edge.from == "lock0");
    assert_eq!(part.and_then(|edge| edge.within.as_deref()), Some("lock2"));
}

#[test]
fn only_tests_that_could_surprise_share_the_chance() {
    // Only the sum of both sides counts.
    let of = |seen| Sides { before: Count { seen, trials: 10 }, after: Count { seen: 0, trials: 10 } };
    // A thousand dependencies that every trial showed, or only one, cost nothing.
    let dull = std::iter::repeat_n(20, 500).chain(std::iter::repeat_n(1, 500));
    let limit = tarone(dull.chain([10]).map(of), 0.005);
    assert!((limit - 0.005).abs() < 1e-12, "{limit}");
    // Each of these could be significant, so the limit is divided by their number.
    let limit = tarone(std::iter::repeat_n(10, 100).map(of), 0.005);
    assert!((limit - 0.005 / 100.0).abs() < 1e-12, "{limit}");
}

fn some_trials() -> impl Strategy<Value = Vec<TrialLocks>> {
    let edges = prop::collection::btree_set((0_u32..6, 0_u32..6), 0..8);
    prop::collection::vec((any::<bool>(), edges), 2..24).prop_map(|all| {
        let one = |(number, (after, edges)): (usize, (bool, std::collections::BTreeSet<(u32, u32)>))| {
            let side = if after { Side::After } else { Side::Before };
            trial(side, number, &edges.into_iter().collect::<Vec<_>>())
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

fn lists(trials: &[TrialLocks]) -> (Vec<String>, Vec<String>) {
    let diff = LockOrders::new(union(trials)).diff(&Elsewhere::default());
    (names(&diff.gone), names(&diff.new))
}

proptest! {
    #[test]
    fn the_order_of_trials_does_not_matter(trials in some_trials()) {
        let turned: Vec<TrialLocks> = trials.iter().rev().cloned().collect();
        prop_assert_eq!(lists(&trials), lists(&turned));
    }

    /// If the trials are duplicated, a decided edge stays decided, and a one-sided edge stays
    /// one-sided.
    #[test]
    fn equal_trials_take_nothing_from_a_list(trials in some_trials()) {
        let twice: Vec<TrialLocks> = trials.iter().chain(&trials).cloned().collect();
        let (gone, new) = lists(&trials);
        let (more_gone, more_new) = lists(&twice);
        prop_assert!(gone.iter().all(|edge| more_gone.contains(edge)), "{:?} {:?}", gone, more_gone);
        prop_assert!(new.iter().all(|edge| more_new.contains(edge)), "{:?} {:?}", new, more_new);
    }
}

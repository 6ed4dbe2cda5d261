//! Small graphs by hand, and many small ones that are compared with a brute-force search.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{Edge, LockClass, LockOrder, Node, TrialLocks, Usage};

fn class(name: &str) -> Node {
    let class = LockClass { name: name.into(), key: None, file: None, subclass: 0, ordinal: 0 };
    Node { class, usage: Usage(0) }
}

/// A trial with these dependencies.
fn trial(number: u32, edges: &[(u32, u32, How)]) -> TrialLocks {
    let order = LockOrder {
        classes: ["a", "b", "c", "d", "e"].map(class).into(),
        edges: edges
            .iter()
            .map(|(from, to, how)| Edge { from: *from, to: *to, how: *how, distance: 1, path: None })
            .collect(),
        ..LockOrder::default()
    };
    let folder = format!("before-{number:03}");
    TrialLocks { side: Side::Before, folder, blind: None, restored: false, microseconds: 0, order }
}

fn foreseen(trials: &[TrialLocks]) -> Vec<Forecast> {
    let mut union = Union::default();
    for trial in trials {
        union.add(trial);
    }
    forecast(&union, Side::Before)
}

fn locks(all: &[Forecast]) -> Vec<String> {
    all.iter().map(|one| one.locks.join(" ")).collect()
}

#[test]
fn two_halves_of_an_inversion_in_two_trials_are_foreseen() {
    let all = foreseen(&[trial(0, &[(0, 1, How::EN)]), trial(1, &[(1, 2, How::EN), (2, 0, How::EN)])]);
    assert_eq!(locks(&all), ["a b c"]);
    assert_eq!(all[0].danger, Danger::Cycle);
    assert_eq!(all[0].steps[0].example, "trials/before-000");
    assert_eq!(all[0].steps[1].example, "trials/before-001");
    assert_eq!(all[0].parts, [["trials/before-000"], ["trials/before-001"], ["trials/before-001"]]);
    assert!((all[0].likelihood - 0.125).abs() < 1e-9, "{}", all[0].likelihood);
}

#[test]
fn what_one_trial_has_lockdep_has_judged() {
    assert!(foreseen(&[trial(0, &[(0, 1, How::EN), (1, 0, How::EN)])]).is_empty());
}

#[test]
fn recursive_readers_that_meet_readers_are_no_deadlock() {
    // lockdep-design.rst: -(*R)-> -(S*)-> is not strong.
    let weak = [trial(0, &[(0, 1, How::ER)]), trial(1, &[(1, 0, How::SN)])];
    assert!(foreseen(&weak).is_empty());
    let strong = [trial(0, &[(0, 1, How::ER)]), trial(1, &[(1, 0, How::EN)])];
    assert_eq!(locks(&foreseen(&strong)), ["a b"]);
    // The same at the point where the cycle closes.
    let weak = [trial(0, &[(0, 1, How::SN)]), trial(1, &[(1, 0, How::ER)])];
    assert!(foreseen(&weak).is_empty());
}

#[test]
fn parent_and_child_of_one_kind_are_left_out() {
    let mut halves = [trial(0, &[(0, 1, How::EN)]), trial(1, &[(1, 0, How::EN)])];
    for half in &mut halves {
        half.order.classes[1].class = LockClass { subclass: 1, ..half.order.classes[0].class.clone() };
    }
    assert!(foreseen(&halves).is_empty());
}

#[test]
fn a_lock_of_interrupts_that_leads_to_one_held_with_interrupts_is_foreseen() {
    let mut one = trial(0, &[(0, 1, How::EN)]);
    one.order.classes[0].usage = Usage(1);
    let mut other = trial(1, &[]);
    other.order.classes[1].usage = Usage(1 << 2);
    let all = foreseen(&[one.clone(), other.clone()]);
    assert_eq!(locks(&all), ["a b"]);
    assert_eq!(all[0].danger, Danger::IrqInversion(Irq::Hardirq));
    // usage_match(): after a recursive reader only a writer's use counts.
    one.order.edges[0].how = How::ER;
    other.order.classes[1].usage = Usage(1 << 3);
    assert!(foreseen(&[one, other]).is_empty());
}

#[test]
fn a_lock_of_softirqs_that_is_held_with_softirqs_is_foreseen() {
    let (mut one, mut other) = (trial(0, &[]), trial(1, &[]));
    one.order.classes[3].usage = Usage(1 << 4);
    other.order.classes[3].usage = Usage(1 << 6);
    let all = foreseen(&[one.clone(), other.clone()]);
    assert_eq!(all[0].danger, Danger::IrqUsage(Irq::Softirq));
    // Two readers do not block each other.
    one.order.classes[3].usage = Usage(1 << 5);
    other.order.classes[3].usage = Usage(1 << 7);
    assert!(foreseen(&[one, other]).is_empty());
}

/// Whether there is a strong cycle that no trial has as a whole. It tries every simple cycle, with
/// each step in each kind in which it occurred.
fn brute_force(trials: &[Vec<(u32, u32, How)>]) -> bool {
    // The trials that had a step of a kind, as a set of bits.
    let mut all: HashMap<(u32, u32, u8), u32> = HashMap::new();
    for (number, edges) in trials.iter().enumerate() {
        for (from, to, how) in edges {
            for kind in How::KINDS.into_iter().filter(|kind| how.has(*kind)) {
                *all.entry((*from, *to, kind.0)).or_default() |= 1 << number;
            }
        }
    }
    (0..5).any(|start| walk(&all, start, start, &mut Vec::new()))
}

fn walk(all: &HashMap<(u32, u32, u8), u32>, start: u32, at: u32, way: &mut Vec<(u32, How, u32)>) -> bool {
    for next in 0..5 {
        if next != start && way.iter().any(|(lock, ..)| *lock == next) {
            continue;
        }
        for kind in How::KINDS {
            let Some(trials) = all.get(&(at, next, kind.0)) else { continue };
            if way.last().is_some_and(|(_, before, _)| !before.goes_on_as(kind)) {
                continue;
            }
            way.push((next, kind, *trials));
            let found = if next == start {
                let together = way.iter().fold(u32::MAX, |set, (.., trials)| set & trials);
                together == 0 && kind.goes_on_as(way[0].1)
            } else {
                walk(all, start, next, way)
            };
            way.pop();
            if found {
                return true;
            }
        }
    }
    false
}

fn some_trials() -> impl Strategy<Value = Vec<Vec<(u32, u32, How)>>> {
    let edge = (0_u32..5, 0_u32..5, 1_u8..16).prop_map(|(from, to, how)| (from, to, How(how)));
    let edges = prop::collection::vec(edge.prop_filter("no loops", |(from, to, _)| from != to), 0..4);
    prop::collection::vec(edges, 2..5)
}

proptest! {
    /// Trials with a strong cycle of their own are left out: lockdep would have reported it, so
    /// they are no input of a forecast.
    #[test]
    fn the_search_agrees_with_trying_every_way(trials in some_trials()) {
        let quiet: Vec<_> = trials.into_iter().filter(|edges| !has_own_cycle(edges)).collect();
        let all: Vec<TrialLocks> = (0..).zip(&quiet).map(|(number, edges)| trial(number, edges)).collect();
        let found = foreseen(&all);
        prop_assert_eq!(!found.is_empty(), brute_force(&quiet), "{:?} {:?}", locks(&found), quiet);
    }

    #[test]
    fn the_order_of_trials_does_not_matter(trials in some_trials()) {
        let all: Vec<TrialLocks> = (0..).zip(&trials).map(|(number, edges)| trial(number, edges)).collect();
        let turned: Vec<TrialLocks> = all.iter().rev().cloned().collect();
        let mut one = locks(&foreseen(&all));
        let mut other = locks(&foreseen(&turned));
        one.sort();
        other.sort();
        prop_assert_eq!(one, other);
    }
}

fn has_own_cycle(edges: &[(u32, u32, How)]) -> bool {
    // Each kind of each step becomes a trial of its own, so that any strong cycle counts.
    let kinds = |edge: &(u32, u32, How)| {
        let (from, to, how) = *edge;
        How::KINDS.into_iter().filter(move |kind| how.has(*kind)).map(move |kind| vec![(from, to, kind)])
    };
    brute_force(&edges.iter().flat_map(kinds).collect::<Vec<_>>())
}

#[test]
fn a_guest_of_another_run_gives_a_half_and_is_no_trial() {
    let mut union = Union::default();
    union.add(&trial(0, &[(0, 1, How::EN)]));
    let known = trial(1, &[(1, 0, How::EN), (1, 2, How::EN)]).order;
    union.add_elsewhere(Side::Before, "atlas/run/v1-003", &known);
    assert_eq!((union.trials(Side::Before), union.watched(Side::Before)), (1, 1));
    let all = forecast(&union, Side::Before);
    assert_eq!(locks(&all), ["a b"]);
    let one = &all[0];
    assert_eq!(one.parts, [["trials/before-000"], ["atlas/run/v1-003"]]);
    assert_eq!((one.steps[0].seen, one.steps[1].seen), (1, 0));
    assert_eq!((&*one.steps[1].example, one.likelihood), ("atlas/run/v1-003", 0.0));
    // A part is new until the other kernel shows it, in whatever run.
    assert!(one.new && one.steps.iter().all(|step| step.new));
    union.add_elsewhere(Side::After, "atlas/other/v1-000", &known);
    let one = &forecast(&union, Side::Before)[0];
    assert!(one.new && one.steps[0].new && !one.steps[1].new);
    union.add_elsewhere(Side::After, "atlas/other/v1-001", &trial(0, &[(0, 1, How::EN)]).order);
    assert!(!forecast(&union, Side::Before)[0].new);
}

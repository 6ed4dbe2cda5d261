//! The deadlocks that the lock orders of both kernels forecast, from a run's own guests and from those of
//! other runs.

use std::collections::BTreeSet;

use hotplug_lockorder::{
    Conjecture, Danger, Forecast, LockOrder, PathStep, Union, conjectures, forecast, passes,
};
use hotplug_side::{Side, Sides};

use crate::unavailable::Unavailable;

/// What guests of other runs showed, and what the patch changes.
#[derive(Debug, Clone, Default)]
pub struct Elsewhere {
    /// For each side: what guests of its kernel showed, with their names among the examples.
    pub guests: Sides<Vec<(String, LockOrder)>>,
    /// The parts of the before kernel's lock orders whose call paths have no changed function. They
    /// count for the after kernel.
    pub unchanged: Vec<(String, LockOrder)>,
    /// The functions that the patch changes; `None` if that is not known.
    pub changed: Option<BTreeSet<String>>,
    /// Why some or all guests are not used.
    pub unused: Vec<Unavailable>,
}

/// The forecasts of both kernels from the run's own guests, and the after kernel's forecasts from all
/// guests, as far as a part of them is new. Those that follow most directly from the patch come first.
/// `added` are the dependencies that the patch added, by the indices of their ends.
pub(super) fn forecasts(own: &Union, elsewhere: &Elsewhere, added: &[(u32, u32)]) -> Vec<Forecast> {
    let mut union = own.clone();
    let add = |union: &mut Union, side: Side, guests: &[(String, LockOrder)]| {
        for (name, order) in guests {
            union.add_elsewhere(side, name, order);
        }
    };
    // A forecast of the after kernel is that of the patch only if the before kernel never showed a part
    // of it, in whatever run.
    add(&mut union, Side::Before, &elsewhere.guests.before);
    let mut all = forecast(&union, Side::After);
    if let Some(changed) = &elsewhere.changed {
        for ends in added {
            conjectured(&union, changed, *ends, &mut all);
        }
    }
    add(&mut union, Side::After, &elsewhere.guests.after);
    add(&mut union, Side::After, &elsewhere.unchanged);
    for one in forecast(&union, Side::After) {
        let is_it = |known: &Forecast| (known.danger, &known.locks) == (one.danger, &one.locks);
        if one.new && !all.iter().any(is_it) {
            all.push(one);
        }
    }
    all.extend(forecast(own, Side::Before));
    let added: BTreeSet<_> = added.iter().map(|(from, to)| (union.name(*from), union.name(*to))).collect();
    let is_by_patch = |step: &PathStep| {
        let is_changed = elsewhere.changed.as_ref().is_some_and(|changed| passes(&step.path, changed));
        is_changed || added.contains(&(step.from.clone(), step.to.clone()))
    };
    all.sort_by_key(|one| match (one.side, one.new) {
        (Side::After, true) => u8::from(!one.steps.iter().any(|step| step.new && is_by_patch(step))),
        _ => 2,
    });
    all
}

/// The deadlocks of a new dependency whose locks had the other order before, if another function than
/// those that the patch changes seems to take them in that order.
fn conjectured(
    union: &Union,
    changed: &BTreeSet<String>,
    (second, first): (u32, u32),
    all: &mut Vec<Forecast>,
) {
    let Some(was) = union.edge((first, second)) else { return };
    if !was.before.shown.ever() || was.after.shown.ever() {
        return;
    }
    let is = union.edge((second, first)).unwrap_or_default().after;
    for one in conjectures(union, Side::Before, (first, second), changed) {
        let Conjecture { function, path, inside } = one;
        let inside = union.edge(inside).unwrap_or_default().before.shown;
        let old = PathStep {
            from: union.name(first),
            to: union.name(second),
            how: was.before.how().to_string(),
            seen: 0,
            new: false,
            example: union.example(Side::Before, &inside),
            path,
            conjectured: Some(function),
        };
        let reversed = PathStep {
            from: union.name(second),
            to: union.name(first),
            how: is.how().to_string(),
            seen: union.seen(Side::After, &is.shown),
            new: true,
            example: union.example(Side::After, &is.shown),
            path: union.path((second, first), Side::After).to_vec(),
            conjectured: None,
        };
        let parts = [(Side::Before, inside), (Side::After, is.shown.clone())];
        let loose = parts.iter().filter(|(_, shown)| !shown.boot);
        all.push(Forecast {
            side: Side::After,
            danger: Danger::Cycle,
            locks: vec![union.name(first), union.name(second)],
            steps: vec![old, reversed],
            new: true,
            parts: loose.map(|(side, shown)| union.witnesses(*side, shown)).collect(),
            likelihood: 0.0,
        });
    }
}

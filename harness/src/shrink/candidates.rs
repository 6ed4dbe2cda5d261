//! The parts of a scenario that may be removed, kind by kind, the coarse kinds first.

use std::collections::BTreeSet;
use std::ops::Range;

use super::machine;
use crate::device::DeviceId;
use crate::scenario::{Operation, Scenario, Step, tidy};

/// One kind of part.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// The number of parts of this kind.
    pub(super) count: fn(&Scenario) -> usize,
    /// Removes some of the parts, by number.
    take: fn(&mut Scenario, Range<usize>),
}

impl Kind {
    /// The scenario without these parts.
    pub(super) fn without(self, scenario: &Scenario, which: Range<usize>) -> Scenario {
        let mut smaller = scenario.clone();
        (self.take)(&mut smaller, which);
        tidy(&mut smaller);
        smaller
    }
}

/// The parts of the schedule. The boot does not depend on them, so all candidates share a
/// checkpoint.
pub(super) const SCHEDULE: [Kind; 11] = [
    // Holds are tried first: a report that appears without them needs no provoked race.
    Kind {
        count: |all| all.holds.rendezvous.len(),
        take: |all, which| drop(all.holds.rendezvous.drain(which)),
    },
    Kind { count: |all| all.holds.delay.len(), take: |all, which| drop(all.holds.delay.drain(which)) },
    Kind { count: |all| all.lanes.len(), take: |all, which| drop(all.lanes.drain(which)) },
    Kind { count: |all| all.guest.load.len(), take: |all, which| drop(all.guest.load.drain(which)) },
    Kind { count: |all| all.guest.typing.iter().count(), take: |all, _| all.guest.typing = None },
    Kind { count: |all| moved(all).len(), take: stay },
    Kind { count: count_steps, take: |all, which| each_step(all, which, |step| step.operations.clear()) },
    Kind { count: |all| operations(all).count(), take: leave_out },
    Kind {
        count: |all| steps(all, |step| step.barrier.is_some() || step.after.is_some()),
        take: |all, which| {
            numbered(
                all,
                |step| step.barrier.is_some() || step.after.is_some(),
                which,
                |step| {
                    (step.barrier, step.after) = (None, None);
                },
            );
        },
    },
    Kind {
        count: |all| steps(all, |step| step.in_flight > 1),
        take: |all, which| numbered(all, |step| step.in_flight > 1, which, |step| step.in_flight = 1),
    },
    Kind {
        count: |all| all.guest.load.iter().filter(|load| load.workers > 1).count(),
        take: |all, which| {
            let several = all.guest.load.iter_mut().filter(|load| load.workers > 1);
            several.skip(which.start).take(which.len()).for_each(|load| load.workers = 1);
        },
    },
];

/// The parts of the machine. A different machine must be booted.
pub(super) const MACHINE: Kind = Kind {
    count: |all| machine::reductions(all).len(),
    take: |all, which| {
        for reduce in &machine::reductions(all)[which] {
            reduce(all);
        }
    },
};

/// The pauses. Many reports are rarer without them, and then other parts would not be found to be
/// unnecessary.
pub(super) const PAUSES: Kind = Kind {
    count: |all| steps(all, |step| step.pause_up_to_ms > 0),
    take: |all, which| {
        numbered(all, |step| step.pause_up_to_ms > 0, which, |step| step.pause_up_to_ms = 0);
    },
};

fn operations(scenario: &Scenario) -> impl Iterator<Item = &Operation> {
    scenario.lanes.iter().flat_map(|lane| &lane.steps).flat_map(|step| &step.operations)
}

/// The devices that an operation acts on.
pub(super) fn moved(scenario: &Scenario) -> BTreeSet<&DeviceId> {
    operations(scenario).filter_map(Operation::device).collect()
}

/// Removes all operations on these devices.
fn stay(scenario: &mut Scenario, which: Range<usize>) {
    let gone: BTreeSet<DeviceId> =
        moved(scenario).into_iter().skip(which.start).take(which.len()).cloned().collect();
    for step in scenario.lanes.iter_mut().flat_map(|lane| &mut lane.steps) {
        step.operations.retain(|operation| operation.device().is_none_or(|id| !gone.contains(id)));
    }
}

fn leave_out(scenario: &mut Scenario, which: Range<usize>) {
    let mut number = 0;
    for step in scenario.lanes.iter_mut().flat_map(|lane| &mut lane.steps) {
        step.operations.retain(|_| {
            number += 1;
            !which.contains(&(number - 1))
        });
    }
}

fn count_steps(scenario: &Scenario) -> usize {
    steps(scenario, does_something)
}

fn each_step(scenario: &mut Scenario, which: Range<usize>, change: fn(&mut Step)) {
    numbered(scenario, does_something, which, change);
}

fn does_something(step: &Step) -> bool {
    !step.operations.is_empty()
}

fn steps(scenario: &Scenario, of: fn(&Step) -> bool) -> usize {
    scenario.lanes.iter().flat_map(|lane| &lane.steps).filter(|step| of(step)).count()
}

/// Changes the steps with these numbers, among those that `of` selects.
fn numbered(scenario: &mut Scenario, of: fn(&Step) -> bool, which: Range<usize>, change: fn(&mut Step)) {
    let steps = scenario.lanes.iter_mut().flat_map(|lane| &mut lane.steps).filter(|step| of(step));
    steps.skip(which.start).take(which.len()).for_each(change);
}

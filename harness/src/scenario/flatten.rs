//! Turns a recorded schedule into a scenario of plain lanes, and keeps such a scenario legal when
//! parts of it are removed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Expect, Holding, Holds, Lane, Operation, Order, Scenario, Schedule, Step};

/// The scenario whose lanes do what `schedule` did. Repeats and random lanes are written out, and
/// orders are as they were drawn. Each pause is drawn from 0 to the recorded one, in whole
/// milliseconds.
#[must_use]
pub fn flatten(scenario: &Scenario, schedule: &Schedule) -> Scenario {
    let lanes = schedule.lanes.iter().map(|lane| {
        let steps = lane.batches.iter().map(|batch| Step {
            operations: batch.operations.clone(),
            barrier: batch.barrier.clone(),
            after: batch.after.clone(),
            in_flight: batch.in_flight,
            order: Order::Given,
            pause_up_to_ms: u32::try_from(batch.pause_us.div_ceil(1000)).unwrap_or(u32::MAX),
            expect: batch.expect,
        });
        Lane { name: lane.name.clone(), repeat: 1, steps: steps.collect() }
    });
    // The schedule has the pair of the sweep and the delays that were drawn.
    let Holding { rendezvous, delays: delay } = schedule.holding.clone();
    let holds = Holds { rendezvous, sweep: None, delay, delays: None };
    let mut plain = Scenario {
        lanes: lanes.collect(),
        random: None,
        latency: None,
        overlap: None,
        holds,
        ..scenario.clone()
    };
    tidy(&mut plain);
    plain
}

/// Removes what a removal has left illegal or useless, until nothing more is to be removed:
/// operations that became illegal, meetings with no other lane, steps and lanes that do nothing.
pub(crate) fn tidy(scenario: &mut Scenario) {
    loop {
        let before = scenario.lanes.clone();
        for lane in &mut scenario.lanes {
            legal(lane);
            for step in &mut lane.steps {
                step.in_flight = step.in_flight.min(step.operations.len().max(1));
            }
        }
        lonely_triggers(scenario);
        lonely_barriers(scenario);
        for lane in &mut scenario.lanes {
            lane.steps.retain(|step| !step.operations.is_empty() || step.barrier.is_some());
        }
        scenario.lanes.retain(|lane| lane.steps.iter().any(|step| !step.operations.is_empty()));
        if scenario.lanes == before {
            return;
        }
    }
}

/// Removes operations until devices are plugged and unplugged in turn, as the check of a scenario
/// requires.
fn legal(lane: &mut Lane) {
    let mut plugged = BTreeSet::new();
    for step in lane.steps.iter_mut().filter(|step| step.expect == Expect::Done) {
        step.operations.retain(|operation| operation.takes_its_turn(&mut plugged));
    }
}

/// Removes triggers that are not an operation of another lane.
fn lonely_triggers(scenario: &mut Scenario) {
    let operations: Vec<(String, Operation)> = scenario
        .lanes
        .iter()
        .flat_map(|lane| lane.steps.iter().flat_map(|step| &step.operations).map(|o| (lane.name.clone(), o)))
        .map(|(name, operation)| (name, operation.clone()))
        .collect();
    for lane in &mut scenario.lanes {
        for step in &mut lane.steps {
            let there = |words: &str| operations.iter().any(|(of, o)| *of != lane.name && o.matches(words));
            step.after.take_if(|trigger| !there(&trigger.operation));
        }
    }
}

/// Removes barriers that are not passed by two or more lanes equally often.
fn lonely_barriers(scenario: &mut Scenario) {
    let mut times: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    for lane in &scenario.lanes {
        for name in lane.steps.iter().filter_map(|step| step.barrier.clone()) {
            *times.entry(name).or_default().entry(lane.name.clone()).or_default() += 1;
        }
    }
    let meets = |name: &String| {
        let lanes = &times[name];
        lanes.len() > 1 && lanes.values().collect::<BTreeSet<_>>().len() == 1
    };
    for step in scenario.lanes.iter_mut().flat_map(|lane| &mut lane.steps) {
        step.barrier.take_if(|name| !meets(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Seed;

    #[test]
    fn whatever_was_drawn_can_be_written_and_read() {
        for path in crate::scenario::shipped() {
            let (scenario, _) = Scenario::read(&path).unwrap();
            for number in 0..20 {
                let schedule = scenario.schedule(Seed(number).of_trial(0), 0);
                let plain = flatten(&scenario, &schedule);
                let operations = |lanes: usize, all: usize| (lanes, all);
                let drawn = schedule.lanes.iter().flat_map(|lane| &lane.batches).map(|b| b.operations.len());
                let written = plain.lanes.iter().flat_map(|lane| &lane.steps).map(|s| s.operations.len());
                assert_eq!(
                    operations(plain.lanes.len(), written.sum()),
                    operations(schedule.lanes.len(), drawn.sum())
                );
                let text = plain.to_toml();
                let again = Scenario::parse(&format!("{}.toml", scenario.name), &text);
                assert_eq!(again.unwrap_or_else(|e| panic!("{e}\n{text}")), plain, "{text}");
                assert!(plain.cpus_ever_started() <= plain.machine.max_cpus, "{text}");
            }
        }
    }
}

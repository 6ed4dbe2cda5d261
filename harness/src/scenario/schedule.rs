//! The schedule of one trial, drawn from its seed. The same scenario and seed give the same
//! schedule on every machine.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Expect, Holding, Offset, Operation, Order, Scenario, Trigger};

/// The seed that a trial's schedule is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed of trial `number` of a run. The trials of one number share it on both sides, so
    /// that both sides perform the same operations.
    #[must_use]
    pub fn of_trial(self, number: u32) -> Self {
        let hash = blake3::hash(format!("{}/{number}", self.0).as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        Self(u64::from_le_bytes(first))
    }
}

/// The schedule of one trial: all its lanes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Lanes, which start together.
    pub lanes: Vec<LaneSchedule>,
    /// The holds of the trial.
    #[serde(default, skip_serializing_if = "Holding::is_empty")]
    pub holding: Holding,
}

/// One lane of one trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSchedule {
    /// The lane's name.
    pub name: String,
    /// The batches, one after another. Repeats are written out.
    pub batches: Vec<Batch>,
}

/// Operations that are requested together. The next batch starts when all of them have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Wait before the batch, after the barrier and the trigger, in microseconds.
    pub pause_us: u64,
    /// A barrier, which all lanes that name it pass together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub barrier: Option<String>,
    /// The trigger that the batch waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Trigger>,
    /// The operations, in this order.
    pub operations: Vec<Operation>,
    /// Requests in flight at once.
    pub in_flight: usize,
    /// The expected outcome of each operation.
    pub expect: Expect,
}

impl Batch {
    /// Wait before the batch.
    pub fn pause(&self) -> Duration {
        Duration::from_micros(self.pause_us)
    }
}

impl Scenario {
    /// The schedule of trial `number`, drawn from its `seed`. Only sweeps and parts depend on
    /// the number.
    pub fn schedule(&self, seed: Seed, number: u32) -> Schedule {
        // The stream of ChaCha is the same in all versions and on all machines. That of StdRng is
        // not.
        let mut random = ChaCha8Rng::seed_from_u64(seed.0);
        let mut lanes = Vec::new();
        for lane in &self.lanes {
            let mut batches = Vec::new();
            for step in (0..lane.repeat).flat_map(|_| &lane.steps) {
                let mut operations = step.operations.clone();
                if step.order == Order::Shuffled {
                    operations.shuffle(&mut random);
                }
                let pause_us = random.random_range(0..=u64::from(step.pause_up_to_ms) * 1000);
                let after = step.after.clone().map(|trigger| {
                    let offset = Offset::Fixed(drawn(trigger.offset, number, &mut random));
                    Trigger { offset, ..trigger }
                });
                batches.push(Batch {
                    pause_us,
                    barrier: step.barrier.clone(),
                    after,
                    operations,
                    in_flight: step.in_flight,
                    expect: step.expect,
                });
            }
            lanes.push(LaneSchedule { name: lane.name.clone(), batches });
        }
        if let Some(grammar) = &self.random {
            lanes.extend(grammar.lanes(self, &mut random));
        }
        let batches = lanes.iter_mut().flat_map(|lane| &mut lane.batches);
        for operation in batches.flat_map(|batch| &mut batch.operations) {
            *operation = operation.of_trial(number);
        }
        // The holds are drawn last, so that a scenario draws the same lanes with and without holds.
        let holding = self.holds.of_trial(number, &mut random);
        Schedule { lanes, holding }
    }
}

fn drawn(offset: Offset, number: u32, random: &mut ChaCha8Rng) -> u64 {
    match offset {
        Offset::Fixed(us) => us,
        Offset::Random(from, to) => random.random_range(from..=to),
        Offset::Sweep(from, to, step) => {
            let steps = (to - from) / step.max(1) + 1;
            from + u64::from(number) % steps * step
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::SAMPLE;

    #[test]
    fn a_seed_is_a_schedule() {
        let scenario = Scenario::parse(SAMPLE.0, SAMPLE.1).unwrap();
        let run = Seed(7);
        assert_eq!(scenario.schedule(run.of_trial(0), 0), scenario.schedule(run.of_trial(0), 0));
        assert_ne!(scenario.schedule(run.of_trial(0), 0), scenario.schedule(run.of_trial(1), 1));
        // The value is fixed, because a release that draws another one cannot replay older
        // recordings.
        assert_eq!(run.of_trial(3), Seed(13_358_204_744_154_157_552));
    }

    #[test]
    fn a_sweep_goes_from_end_to_end_and_begins_again() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let at = |number, random: &mut ChaCha8Rng| drawn(Offset::Sweep(100, 300, 100), number, random);
        let swept: Vec<u64> = (0..5).map(|number| at(number, &mut random)).collect();
        assert_eq!(swept, [100, 200, 300, 100, 200]);
    }
}

//! What one trial does, drawn from its seed: the same scenario and seed give the same schedule, on any machine.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{DeviceId, Order, Scenario};

/// What a trial's schedule is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed of trial `number` of a run. Both sides' trials of a number share it, so that they are asked the same.
    #[must_use]
    pub fn of_trial(self, number: u32) -> Self {
        let hash = blake3::hash(format!("{}/{number}", self.0).as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        Self(u64::from_le_bytes(first))
    }
}

/// What is done to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Add it, and see it online in the guest.
    Plug,
    /// Ask the guest for it, and see it gone.
    Unplug,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plug => "plug",
            Self::Unplug => "unplug",
        })
    }
}

/// All lanes of one trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Lanes, which start together.
    pub lanes: Vec<LaneSchedule>,
}

/// One lane of one trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSchedule {
    /// The lane's name.
    pub name: String,
    /// Its batches, one after another, repeats written out.
    pub batches: Vec<Batch>,
}

/// Operations of one verb; the next batch starts when all have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Wait before it, in microseconds.
    pub pause_us: u64,
    /// What is done.
    pub verb: Verb,
    /// To whom, in this order.
    pub devices: Vec<DeviceId>,
    /// Requests in flight at once.
    pub in_flight: usize,
}

impl Batch {
    /// Wait before it.
    pub fn pause(&self) -> Duration {
        Duration::from_micros(self.pause_us)
    }
}

impl Scenario {
    /// The schedule that `seed` gives.
    pub fn schedule(&self, seed: Seed) -> Schedule {
        // ChaCha's stream is fixed across versions and machines, which StdRng's is not.
        let mut random = ChaCha8Rng::seed_from_u64(seed.0);
        let mut lanes = Vec::new();
        for lane in &self.lanes {
            let mut batches = Vec::new();
            for step in (0..lane.repeat).flat_map(|_| &lane.steps) {
                let mut devices = step.devices.clone();
                if step.order == Order::Shuffled {
                    devices.shuffle(&mut random);
                }
                let pause_us = random.random_range(0..=u64::from(step.pause_up_to_ms) * 1000);
                batches.push(Batch { pause_us, verb: step.verb, devices, in_flight: step.in_flight });
            }
            lanes.push(LaneSchedule { name: lane.name.clone(), batches });
        }
        Schedule { lanes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::DEFAULT;

    #[test]
    fn a_seed_is_a_schedule() {
        let scenario = Scenario::parse(DEFAULT.0, DEFAULT.1).unwrap();
        let run = Seed(7);
        assert_eq!(scenario.schedule(run.of_trial(0)), scenario.schedule(run.of_trial(0)));
        assert_ne!(scenario.schedule(run.of_trial(0)), scenario.schedule(run.of_trial(1)));
        // Written down: a release that draws otherwise cannot replay what an older one recorded.
        assert_eq!(run.of_trial(3), Seed(13_358_204_744_154_157_552));
    }
}

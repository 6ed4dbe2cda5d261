//! Random lanes: each trial draws them from weighted moves, and a model of the machine keeps them
//! legal.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{Batch, Expect, LaneSchedule, Operation, Place, Scenario, Step};
use crate::device::{DeviceId, Presence};

/// The moves that random lanes are drawn from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Random {
    /// Lanes, which run at the same time. Each trial distributes the devices among them anew.
    pub lanes: u32,
    /// Moves of each lane.
    pub moves: u32,
    /// Longest wait before a move, in milliseconds.
    pub pause_up_to_ms: u32,
    /// The percentage of moves that are illegal on purpose. Their refusal is expected.
    pub illegal_percent: u32,
    /// The kinds of moves.
    pub of: Vec<Move>,
}

/// One kind of move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The probability of the move, relative to the other weights.
    pub weight: u32,
    /// How often a lane may make it.
    pub at_most: u32,
    /// The step of the move. One of its operations is drawn.
    pub step: Step,
}

/// The state of a lane's devices, under the assumption that all its moves are done.
#[derive(Debug, Default)]
struct Model {
    plugged: BTreeSet<DeviceId>,
    offline: BTreeSet<DeviceId>,
    /// CPU plugs that this lane may still make. Under TCG, the number of vCPU threads that QEMU can
    /// start in its life is limited.
    cpu_plugs: u32,
}

impl Random {
    /// The lanes of one trial.
    pub(super) fn lanes(&self, scenario: &Scenario, random: &mut ChaCha8Rng) -> Vec<LaneSchedule> {
        let count = self.lanes.max(1);
        let mut devices: Vec<&DeviceId> = scenario.devices.keys().collect();
        devices.shuffle(random);
        let spare = scenario.machine.max_cpus - scenario.machine.cpus;
        (0..count)
            .map(|lane| {
                let index = usize::try_from(lane).unwrap_or(0);
                let step = usize::try_from(count).unwrap_or(1);
                let own: BTreeSet<&DeviceId> = devices.iter().skip(index).step_by(step).copied().collect();
                let cpu_plugs = spare / count + u32::from(lane < spare % count);
                let model = Model { cpu_plugs, ..Model::default() };
                let batches = self.lane(scenario, &own, model, random);
                LaneSchedule { name: format!("random{lane}"), batches }
            })
            .collect()
    }

    fn lane(
        &self,
        scenario: &Scenario,
        own: &BTreeSet<&DeviceId>,
        mut model: Model,
        random: &mut ChaCha8Rng,
    ) -> Vec<Batch> {
        let mut made: BTreeMap<usize, u32> = BTreeMap::new();
        let mut batches = Vec::new();
        for _ in 0..self.moves {
            let illegal = random.random_range(0..100) < self.illegal_percent;
            // All operations that are possible now. The possible operations of one move share its
            // weight.
            let mut choices: Vec<(usize, Operation, f64)> = Vec::new();
            for (index, kind) in self.of.iter().enumerate() {
                if made.get(&index).is_some_and(|times| *times >= kind.at_most) {
                    continue;
                }
                let fits = |operation: &&Operation| match operation.device() {
                    Some(id) => own.contains(id) && model.allows(operation, scenario, illegal),
                    None => !illegal,
                };
                let fitting: Vec<_> = kind.step.operations.iter().filter(fits).collect();
                let share =
                    f64::from(kind.weight) / f64::from(u32::try_from(fitting.len()).unwrap_or(1).max(1));
                choices.extend(fitting.into_iter().map(|operation| (index, operation.clone(), share)));
            }
            let Ok((index, operation, _)) = choices.choose_weighted(random, |(_, _, share)| *share) else {
                continue;
            };
            let kind = &self.of[*index].step;
            let expect = if illegal { Expect::Refused } else { kind.expect };
            if !illegal {
                model.does(operation, scenario);
            }
            *made.entry(*index).or_default() += 1;
            let pause = self.pause_up_to_ms.max(kind.pause_up_to_ms);
            batches.push(Batch {
                pause_us: random.random_range(0..=u64::from(pause) * 1000),
                barrier: None,
                after: None,
                operations: vec![operation.clone()],
                in_flight: 1,
                expect,
            });
        }
        batches
    }
}

impl Model {
    /// Whether a move is legal now. With `illegal`: whether it is illegal and certain to be
    /// refused.
    fn allows(&self, operation: &Operation, scenario: &Scenario, illegal: bool) -> bool {
        let plugged = |id: &DeviceId| self.plugged.contains(id);
        let of = |id: &DeviceId| scenario.devices.get(id);
        match operation {
            Operation::Plug(id) if illegal => plugged(id),
            Operation::Plug(id) => !plugged(id) && (!scenario.is_cpu(id) || self.cpu_plugs > 0),
            Operation::Unplug(id) => {
                let stays = of(id).is_some_and(|device| !device.can_unplug());
                if illegal { !plugged(id) || stays } else { plugged(id) && !stays }
            }
            // A second online of a CPU succeeds (drivers/base/core.c, online_store). That of a
            // memory block fails (drivers/base/memory.c, state_store).
            Operation::Online(Place::Device(id), _) | Operation::Offline(Place::Device(id)) => {
                let offline = self.offline.contains(id);
                let wanted = matches!(operation, Operation::Online(..));
                let memory = of(id).is_some_and(|device| device.presence() == Presence::MemorySlot);
                plugged(id) && if illegal { memory && offline != wanted } else { offline == wanted }
            }
            _ => !illegal,
        }
    }

    fn does(&mut self, operation: &Operation, scenario: &Scenario) {
        match operation {
            Operation::Plug(id) => {
                self.plugged.insert(id.clone());
                self.offline.remove(id);
                if scenario.is_cpu(id) {
                    self.cpu_plugs = self.cpu_plugs.saturating_sub(1);
                }
            }
            Operation::Unplug(id) => {
                self.plugged.remove(id);
            }
            Operation::Online(Place::Device(id), _) => {
                self.offline.remove(id);
            }
            Operation::Offline(Place::Device(id)) => {
                self.offline.insert(id.clone());
            }
            _ => {}
        }
    }
}

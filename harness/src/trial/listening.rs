//! A CPU that the agent has for itself while others are held, and that hears the devices.
//!
//! It takes a restored guest 140 ms under TCG to set itself up so: what is known beforehand is done before a checkpoint is saved.

use std::time::Duration;

use hotplug_protocol::Request;

use super::vm::{Cut, Vm};
use crate::scenario::{Operation, Place, Scenario, Schedule, Seed};

/// The CPU, of those that are `online`: the last that was there at boot and that no lane takes away, and not the first, on which
/// `cpu_down()` has its work done and ACPI its events handled.
pub(super) fn spare(schedule: &Schedule, online: &[u32]) -> Option<u32> {
    let batches = schedule.lanes.iter().flat_map(|lane| &lane.batches);
    let taken: Vec<u32> = batches
        .flat_map(|batch| &batch.operations)
        .filter_map(|operation| match operation {
            Operation::Offline(Place::Cpu(cpu)) => Some(*cpu),
            _ => None,
        })
        .collect();
    online.iter().copied().filter(|cpu| *cpu != 0 && !taken.contains(cpu)).max()
}

/// The CPU in guests that are restored from a checkpoint of this scenario: that of its first trial, which in random lanes
/// another trial may take away.
pub(super) fn in_checkpoints_of(scenario: &Scenario) -> Option<u32> {
    if scenario.holds.is_empty() {
        return None;
    }
    let online: Vec<u32> = (0..scenario.machine.cpus).collect();
    spare(&scenario.schedule(Seed(0), 0), &online)
}

/// Has the guest's agent do so, within `limit`.
pub(super) async fn on(vm: &Vm, cpu: u32, limit: Duration) -> Result<(), Cut> {
    match tokio::time::timeout(limit, vm.agent.ask(Request::Listen { cpu })).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Cut::Broken(format!("no CPU is spared for the agent: {error}"))),
        Err(_) => Err(Cut::Hung("no CPU is spared for the agent".into())),
    }
}

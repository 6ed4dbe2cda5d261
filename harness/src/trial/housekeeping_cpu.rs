//! A CPU that is reserved for the agent while tasks or vCPUs are held, and that device interrupts
//! are routed to.
//!
//! A restored guest takes 140 ms under TCG to set this up. So if the CPU is known beforehand, it is
//! set up before the checkpoint is saved.

use std::time::Duration;

use hotplug_protocol::Request;

use super::vm::{Cut, Vm};
use crate::scenario::{Operation, Place, Scenario, Schedule, Seed};

/// Chooses the CPU among those that are `online`: the last one that was there at boot and that no
/// lane takes offline. CPU 0 is excluded, because `cpu_down()` has its work done there and ACPI
/// events are handled there.
pub(super) fn spare(schedule: &Schedule, online: &[u32]) -> Option<u32> {
    let batches = schedule.lanes.iter().flat_map(|lane| &lane.batches);
    let taken: Vec<u32> = batches
        .flat_map(|batch| &batch.operations)
        .filter_map(|operation| match operation {
            Operation::Offline(Place::Cpu(cpu)) | Operation::Fail(Place::Cpu(cpu), ..) => Some(*cpu),
            _ => None,
        })
        .collect();
    online.iter().copied().filter(|cpu| *cpu != 0 && !taken.contains(cpu)).max()
}

/// The CPU in guests that are restored from a checkpoint of this scenario: the one of the
/// scenario's first trial. With random lanes, another trial may take this CPU offline.
pub(super) fn in_checkpoints_of(scenario: &Scenario) -> Option<u32> {
    if scenario.holds.is_empty() {
        return None;
    }
    let online: Vec<u32> = (0..scenario.machine.cpus).collect();
    spare(&scenario.schedule(Seed(0), 0), &online)
}

/// Reserves the CPU for the guest's agent, within `limit`.
pub(super) async fn on(vm: &Vm, cpu: u32, limit: Duration) -> Result<(), Cut> {
    match tokio::time::timeout(limit, vm.agent.ask(Request::Listen { cpu })).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Cut::Broken(format!("no CPU can be reserved for the agent: {error}"))),
        Err(_) => Err(Cut::Hung("no CPU can be reserved for the agent".into())),
    }
}

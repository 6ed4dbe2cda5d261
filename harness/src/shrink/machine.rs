//! Reduces the machine to what the remaining operations need.

use std::collections::BTreeMap;

use super::candidates::moved;
use crate::bytes::Bytes;
use crate::device::{Cpu, Device, DeviceId};
use crate::scenario::{Operation, Place, Scenario, Topology};

/// Memory at boot that is enough for a kernel with all checks to boot, and to add more memory.
const ENOUGH: Bytes = Bytes(256 * Bytes::MIB);

/// A change that makes one part of the machine smaller.
pub(super) type Reduction = fn(&mut Scenario);

/// The reductions that change this scenario, in their order.
pub(super) fn reductions(scenario: &Scenario) -> Vec<Reduction> {
    let all: [Reduction; 9] = [
        without_unused_devices,
        without_kernel_args,
        without_nodes,
        without_hmat,
        without_options,
        without_further_devices,
        with_fewest_cpus,
        with_one_cpu_at_boot,
        with_less_memory,
    ];
    let changes = |reduce: &Reduction| {
        let mut changed = scenario.clone();
        reduce(&mut changed);
        changed != *scenario
    };
    all.into_iter().filter(changes).collect()
}

/// Keeps only the devices that an operation acts on, with slots and memory for these.
fn without_unused_devices(scenario: &mut Scenario) {
    let used: Vec<DeviceId> = moved(scenario).into_iter().cloned().collect();
    let mut groups: BTreeMap<&str, Vec<&DeviceId>> = BTreeMap::new();
    for id in &used {
        groups.entry(id.group()).or_default().push(id);
    }
    let mut names: BTreeMap<DeviceId, DeviceId> = BTreeMap::new();
    for (group, mut members) in groups {
        members.sort_by_key(|id| id.number());
        let numbered = members.into_iter().enumerate();
        names.extend(numbered.map(|(number, id)| (id.clone(), DeviceId(format!("{group}{number}")))));
    }
    scenario.devices = std::mem::take(&mut scenario.devices)
        .into_iter()
        .filter_map(|(id, device)| Some((names.get(&id)?.clone(), device)))
        .collect();
    for step in scenario.lanes.iter_mut().flat_map(|lane| &mut lane.steps) {
        for operation in &mut step.operations {
            rename(operation, &names);
        }
        if let Some(after) = &mut step.after
            && let Some((verb, old)) = after.operation.split_once(' ')
            && let Some(new) = names.get(&DeviceId(old.into()))
        {
            after.operation = format!("{verb} {new}");
        }
    }
    let in_slots = scenario.devices.values().filter(|device| device.takes_memory_slot());
    scenario.machine.slots = u32::try_from(in_slots.count()).unwrap_or(u32::MAX);
    // DIMMs with a given address need the address space around them.
    if !scenario.devices.values().any(|device| device.has_address()) {
        scenario.machine.max_memory = scenario.largest();
    }
}

fn rename(operation: &mut Operation, names: &BTreeMap<DeviceId, DeviceId>) {
    if let Operation::Plug(id)
    | Operation::Unplug(id)
    | Operation::Resize(id, _)
    | Operation::Online(Place::Device(id), _)
    | Operation::Offline(Place::Device(id))
    | Operation::Fail(Place::Device(id), ..) = operation
        && let Some(new) = names.get(id)
    {
        *id = new.clone();
    }
}

fn without_kernel_args(scenario: &mut Scenario) {
    scenario.machine.kernel_args.clear();
}

/// Leaves one node, if no device is plugged into another one.
fn without_nodes(scenario: &mut Scenario) {
    if !scenario.devices.values().any(|device| device.node() > 0) {
        scenario.machine.nodes.clear();
        scenario.machine.hmat = false;
    }
}

fn without_options(scenario: &mut Scenario) {
    scenario.machine.options.clear();
}

fn without_further_devices(scenario: &mut Scenario) {
    scenario.machine.devices.clear();
}

fn without_hmat(scenario: &mut Scenario) {
    scenario.machine.hmat = false;
}

/// Gives plugged CPUs the slots after the boot CPUs, and sets `max_cpus` to what they need.
fn with_fewest_cpus(scenario: &mut Scenario) {
    // The slots must stay, because nodes name them.
    if !scenario.machine.nodes.is_empty() {
        return;
    }
    let mut slot = scenario.machine.cpus;
    for device in scenario.devices.values_mut() {
        if let Device::Cpu(Cpu { slot: own }) = device {
            *own = slot;
            slot += 1;
        }
    }
    let max_cpus = slot.max(scenario.cpus_ever_started());
    if max_cpus != scenario.machine.max_cpus {
        scenario.machine.max_cpus = max_cpus;
        scenario.machine.topology = Topology::default();
    }
}

/// Boots with one CPU, if nothing names another one.
fn with_one_cpu_at_boot(scenario: &mut Scenario) {
    let named = scenario.guest.load.iter().flat_map(|load| &load.cpus).any(|cpu| *cpu > 0);
    let steps = || scenario.lanes.iter().flat_map(|lane| &lane.steps);
    let cpu = |operation: &Operation| {
        let (Operation::Online(place, _) | Operation::Offline(place) | Operation::Fail(place, ..)) =
            operation
        else {
            return false;
        };
        matches!(place, Place::Cpu(_))
    };
    if named || !scenario.machine.nodes.is_empty() || steps().any(|step| step.operations.iter().any(cpu)) {
        return;
    }
    scenario.machine.cpus = 1;
    with_fewest_cpus(scenario);
}

fn with_less_memory(scenario: &mut Scenario) {
    let machine = &mut scenario.machine;
    if machine.nodes.is_empty() && machine.memory > ENOUGH {
        machine.max_memory.0 -= machine.memory.0 - ENOUGH.0;
        machine.memory = ENOUGH;
    }
}

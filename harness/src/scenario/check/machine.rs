//! Checks of the machine and its devices: each device exists and fits the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;

use super::{Devices, Groups};
use crate::arch::Ability;
use crate::bytes::Bytes;
use crate::device::{Cpu, Device, DeviceId, Rules};
use crate::fault::Fault;
use crate::scenario::file::File;
use crate::scenario::{Machine, Topology};
use crate::text::harmless;

pub(super) fn machine(table: &Spanned<Machine>) -> Result<(), Fault> {
    let machine = table.get_ref();
    let wrong = |what: String, help: &str| Err(Fault::new(table.span(), what, help));
    if machine.cpus == 0 || machine.cpus > machine.max_cpus {
        return wrong("cpus must be at least 1 and at most max_cpus".into(), "raise max_cpus");
    }
    if machine.topology.cores(machine.max_cpus).is_none() {
        let what = format!("sockets, dies, cores and threads do not make max_cpus = {}", machine.max_cpus);
        return wrong(what, "leave cores out, or make their product max_cpus");
    }
    able(machine, table.span(), Ability::Hmat, machine.hmat)?;
    let Topology { dies, threads, .. } = machine.topology;
    able(machine, table.span(), Ability::Threads, dies > 1 || threads > 1)?;
    for option in &machine.options {
        let is_one = option.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        if !is_one || option.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control()) {
            let what = format!("`{}` is no option of a machine", harmless(option, 80));
            return wrong(what, "options = [\"resize-hpt=enabled\"], as `-machine` takes them");
        }
    }
    for device in &machine.devices {
        let begins_with_a_name = device.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !begins_with_a_name || device.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let what = format!("`{}` is no device of QEMU", harmless(device, 80));
            return wrong(what, "devices = [\"virtio-net-pci\"], as `-device` takes them");
        }
    }
    if machine.nodes.is_empty() {
        if machine.hmat {
            return wrong("hmat describes nodes, and the machine has none".into(), "add [[machine.node]]");
        }
        return Ok(());
    }
    let memory: u64 = machine.nodes.iter().map(|node| node.memory().0).sum();
    if memory != machine.memory.0 {
        let what = format!("the nodes have {} together, but memory is {}", Bytes(memory), machine.memory);
        return wrong(what, "make the sum of the nodes equal to memory");
    }
    if machine.nodes[0].memory().0 == 0 {
        return wrong("node 0 has no memory".into(), "give it some: QEMU's firmware needs memory in node 0");
    }
    let mut named = BTreeSet::new();
    for slot in machine.nodes.iter().flat_map(|node| &node.cpus) {
        if *slot >= machine.max_cpus || !named.insert(*slot) {
            let what = format!("CPU slot {slot} is named twice, or is not below max_cpus");
            return wrong(what, "name each slot in one node");
        }
    }
    Ok(())
}

/// Checks that the machine has an ability, if it is used.
pub(super) fn able(
    machine: &Machine,
    span: Range<usize>,
    ability: Ability,
    is_used: bool,
) -> Result<(), Fault> {
    let arch = machine.kind.arch();
    if is_used && arch.lacks.contains(&ability) {
        let what = format!("a guest of {} has no {}", arch.name, ability.name());
        return Err(Fault::new(span, what, format!("kind = \"q35\", or leave out the {}", ability.name())));
    }
    Ok(())
}

pub(super) fn devices(file: &File) -> Result<(Groups, Devices), Fault> {
    let machine = file.machine.get_ref();
    let rules = Rules {
        nodes: u32::try_from(machine.nodes.len()).unwrap_or(u32::MAX).max(1),
        unit: machine.kind.arch().unit,
    };
    let mut groups = Groups::new();
    let mut devices = BTreeMap::new();
    let mut add = |name: &Spanned<String>, count: u32, device: &mut dyn FnMut(u32) -> Device| {
        let ids: Vec<_> = (0..count).map(|i| DeviceId(format!("{}{i}", name.get_ref()))).collect();
        let plain =
            name.get_ref().chars().all(|c| c.is_ascii_lowercase() || c == '-') && !name.get_ref().is_empty();
        if !plain {
            return Err(Fault::new(
                name.span(),
                "a device's name has only lower-case letters and hyphens",
                "name = \"dimm\"",
            ));
        }
        if ids.is_empty() || groups.insert(name.get_ref().clone(), ids.clone()).is_some() {
            return Err(Fault::new(
                name.span(),
                "a group is empty or named twice",
                "give each group a name of its own, and count = 1 or more",
            ));
        }
        devices.extend(ids.into_iter().zip(0..).map(|(id, index)| (id, device(index))));
        Ok(())
    };
    for group in file.dimm.iter().map(Spanned::get_ref) {
        let dimm = group.check(&rules)?;
        add(&group.name, group.count, &mut |_| Device::Dimm(dimm.clone()))?;
    }
    for table in &file.nvdimm {
        able(machine, table.span(), Ability::Nvdimm, true)?;
        let group = table.get_ref();
        let nvdimm = group.check(&rules)?;
        add(&group.name, group.count, &mut |_| Device::Nvdimm(nvdimm))?;
    }
    for table in &file.virtio_mem {
        able(machine, table.span(), Ability::VirtioMem, true)?;
        let group = table.get_ref();
        let device = group.check(&rules)?;
        add(&group.name, group.count, &mut |_| Device::VirtioMem(device))?;
    }
    let slots = cpu_slots(file, &mut add)?;
    let memory = devices.values().map(|device| device.memory().0).fold(machine.memory.0, u64::saturating_add);
    let dimms = devices.values().filter(|device| device.takes_memory_slot()).count();
    let dimms = u32::try_from(dimms).unwrap_or(u32::MAX);
    fits(machine, memory, dimms, slots)
        .map_err(|(what, help)| Fault::new(file.machine.span(), what, help))?;
    Ok((groups, devices))
}

/// Adds a group of devices, and makes each device from its number in the group.
type Add<'a> = dyn FnMut(&Spanned<String>, u32, &mut dyn FnMut(u32) -> Device) -> Result<(), Fault> + 'a;

/// Adds the CPUs. Each takes the slot that its group names, or else the next free slot after the
/// boot CPUs. Returns the number of slots that the machine needs.
fn cpu_slots(file: &File, add: &mut Add<'_>) -> Result<u32, Fault> {
    let machine = file.machine.get_ref();
    let named: Vec<&Spanned<u32>> = file.cpu.iter().flat_map(|group| &group.get_ref().slots).collect();
    let mut taken: BTreeSet<u32> = (0..machine.cpus).collect();
    for slot in named {
        if !taken.insert(*slot.get_ref()) {
            let what = format!("CPU slot {} is taken", slot.get_ref());
            return Err(Fault::new(
                slot.span(),
                what,
                "name slots from the number of boot CPUs on, each once",
            ));
        }
    }
    for group in file.cpu.iter().map(Spanned::get_ref) {
        if !group.slots.is_empty() && group.slots.len() != usize::try_from(group.count).unwrap_or(0) {
            let help = "name one slot for each CPU of the group, or none";
            return Err(Fault::new(group.slots[0].span(), "there are more or fewer slots than CPUs", help));
        }
        add(&group.name, group.count, &mut |index| {
            let named = usize::try_from(index).ok().and_then(|index| group.slots.get(index));
            let slot = named.map_or_else(
                || {
                    let free = (0..u32::MAX).find(|slot| !taken.contains(slot)).unwrap_or(u32::MAX);
                    taken.insert(free);
                    free
                },
                |slot| *slot.get_ref(),
            );
            Device::Cpu(Cpu { slot })
        })?;
    }
    Ok(taken.last().map_or(0, |last| last.saturating_add(1)))
}

fn fits(machine: &Machine, memory: u64, dimms: u32, slots: u32) -> Result<(), (String, String)> {
    if memory > machine.max_memory.0 {
        let all = Bytes(memory);
        return Err((
            format!("all devices together need {all}, but max_memory is {}", machine.max_memory),
            format!("max_memory = \"{all}\" or more"),
        ));
    }
    if dimms > machine.slots {
        return Err((
            format!("{dimms} DIMMs need as many slots, but the machine has {}", machine.slots),
            format!("slots = {dimms}"),
        ));
    }
    if slots > machine.max_cpus {
        return Err((
            format!("all CPUs together need {slots} slots, but max_cpus is {}", machine.max_cpus),
            format!("max_cpus = {slots}"),
        ));
    }
    Ok(())
}

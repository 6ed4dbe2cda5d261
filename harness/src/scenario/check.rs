//! What a scenario must be beyond its syntax: devices exist, fit the machine, and are only moved legally.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;

use super::file::{AfterTable, File, LaneTable, Names, RandomTable, StepTable};
use super::{
    Device, DeviceId, Dimm, Lane, Machine, Move, Offset, Operation, Place, Random, Scenario, Start, Step,
    Trigger, VirtioMem,
};
use crate::Error;
use crate::bytes::Bytes;

/// x86's section size: QEMU takes a smaller DIMM, the guest then refuses it and misaligns the next.
const SECTION: Bytes = Bytes(128 * Bytes::MIB);

/// A fault and the place in the text it stands at.
pub(super) struct Wrong {
    span: Range<usize>,
    what: String,
    mend: String,
}

impl Wrong {
    fn new(span: Range<usize>, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { span, what: what.into(), mend: mend.into() }
    }

    /// The user's error, with the line and a pointer under the offending words.
    pub(super) fn at(self, file: &str, text: &str) -> Error {
        let start = self.span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let number = text[..line_start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count();
        let width = text[start..self.span.end.min(line_start + line.len()).max(start)].chars().count().max(1);
        let margin = " ".repeat(number.to_string().len());
        let detail =
            format!("{margin} |\n{number} | {line}\n{margin} | {}{}", " ".repeat(column), "^".repeat(width));
        Error::user(format!("{file}:{number}: {}", self.what)).detail(detail).mend(self.mend)
    }
}

/// A group's name stands for all its members, in order.
type Groups = BTreeMap<String, Vec<DeviceId>>;

/// Longer than the kernel's own limits, so that a hung task or a stall is reported by the guest before we give up on
/// it (`hung_task_timeout_secs` in `qemu::command_line`).
const TIME_LIMIT_S: u32 = 75;

pub(super) fn check(name: String, file: File) -> Result<Scenario, Wrong> {
    if *file.trials.get_ref() == 0 {
        return Err(Wrong::new(file.trials.span(), "no trials, no verdict", "trials = 6 or more"));
    }
    if let Some(limit) = file.time_limit_s.as_ref().filter(|limit| *limit.get_ref() == 0) {
        return Err(Wrong::new(limit.span(), "every operation would hang", "time_limit_s = 75"));
    }
    machine(&file.machine)?;
    let (groups, devices) = devices(&file)?;
    let mut lanes: Vec<Lane> = Vec::new();
    let mut owner: BTreeMap<DeviceId, String> = BTreeMap::new();
    for table in &file.lane {
        let lane = lane(table.get_ref(), &groups, &devices)?;
        for id in lane.steps.iter().flat_map(|step| &step.operations).filter_map(Operation::device) {
            let first = owner.entry(id.clone()).or_insert_with(|| lane.name.clone());
            if *first != lane.name {
                let what = format!("`{id}` is moved by two lanes, `{first}` and `{}`", lane.name);
                return Err(Wrong::new(table.span(), what, "give each lane devices of its own"));
            }
        }
        if lanes.iter().any(|other| other.name == lane.name) {
            let what = format!("two lanes are called `{}`", lane.name);
            return Err(Wrong::new(table.span(), what, "give each lane a name of its own"));
        }
        lanes.push(lane);
    }
    meetings(&file, &lanes)?;
    let random = file.random.as_ref().map(|table| random(table, &groups, &devices, &owner)).transpose()?;
    if lanes.is_empty() && random.is_none() {
        let mend = "add a [[lane]] with steps, or [random]";
        return Err(Wrong::new(file.machine.span(), "nothing is done to this machine", mend));
    }
    let reboots = |lane: &Lane| lane.steps.iter().any(|s| s.operations.contains(&Operation::Reboot));
    let alone = lanes.len() == 1 && random.is_none() && file.guest.load.is_empty();
    if let Some(table) = file.lane.iter().zip(&lanes).find(|(_, lane)| reboots(lane) && !alone) {
        let what = "a reboot cuts off whatever else is in flight";
        return Err(Wrong::new(table.0.span(), what, "reboot in the only lane of a scenario without load"));
    }
    if file.start == Start::Boot && !file.guest.load.is_empty() {
        let what = "a load begins when the guest is there, the lanes of `start = \"boot\"` before";
        return Err(Wrong::new(file.machine.span(), what, "leave the load out"));
    }
    Ok(Scenario {
        name,
        about: file.about,
        trials: file.trials.into_inner(),
        start: file.start,
        time_limit_s: file.time_limit_s.map_or(TIME_LIMIT_S, Spanned::into_inner),
        machine: file.machine.into_inner(),
        guest: file.guest,
        devices,
        lanes,
        random,
    })
}

fn machine(table: &Spanned<Machine>) -> Result<(), Wrong> {
    let machine = table.get_ref();
    let wrong = |what: String, mend: &str| Err(Wrong::new(table.span(), what, mend));
    if machine.cpus == 0 || machine.cpus > machine.max_cpus {
        return wrong("cpus must be at least 1 and at most max_cpus".into(), "raise max_cpus");
    }
    if machine.topology.cores(machine.max_cpus).is_none() {
        let what = format!("sockets, dies, cores and threads do not make max_cpus = {}", machine.max_cpus);
        return wrong(what, "leave cores out, or make their product max_cpus");
    }
    if machine.nodes.is_empty() {
        return Ok(());
    }
    let memory: u64 = machine.nodes.iter().map(|node| node.memory().0).sum();
    if memory != machine.memory.0 {
        let what = format!("the nodes have {} together, memory is {}", Bytes(memory), machine.memory);
        return wrong(what, "make them the same");
    }
    if machine.nodes[0].memory().0 == 0 {
        return wrong("node 0 has no memory".into(), "QEMU's firmware needs some there");
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

fn devices(file: &File) -> Result<(Groups, BTreeMap<DeviceId, Device>), Wrong> {
    let machine = file.machine.get_ref();
    let at = || file.machine.span();
    let nodes = u32::try_from(machine.nodes.len()).unwrap_or(u32::MAX).max(1);
    let node = |node: &Option<Spanned<u32>>| match node {
        Some(number) if *number.get_ref() >= nodes => {
            let what = format!("there is no node {}", number.get_ref());
            Err(Wrong::new(number.span(), what, "add a [[machine.node]]"))
        }
        number => Ok(number.as_ref().map_or(0, |number| *number.get_ref())),
    };
    let mut groups = Groups::new();
    let mut devices = BTreeMap::new();
    let mut add = |name: &Spanned<String>, count: u32, device: &mut dyn FnMut(u32) -> Device| {
        let ids: Vec<_> = (0..count).map(|i| DeviceId(format!("{}{i}", name.get_ref()))).collect();
        let plain =
            name.get_ref().chars().all(|c| c.is_ascii_lowercase() || c == '-') && !name.get_ref().is_empty();
        if !plain {
            return Err(Wrong::new(name.span(), "a device's name is lower-case letters", "name = \"dimm\""));
        }
        if ids.is_empty() || groups.insert(name.get_ref().clone(), ids.clone()).is_some() {
            return Err(Wrong::new(
                name.span(),
                "a group is empty or named twice",
                "count = 1 or more, one name each",
            ));
        }
        devices.extend(ids.into_iter().zip(0..).map(|(id, index)| (id, device(index))));
        Ok(())
    };
    let (mut memory, mut dimms) = (machine.memory.0, 0);
    for group in file.dimm.iter().map(Spanned::get_ref) {
        let size = sections(&group.size, "a DIMM")?;
        let node = node(&group.node)?;
        let address =
            group.address.as_ref().map(|address| sections(address, "a DIMM's address")).transpose()?;
        if let (Some(address), true) = (&group.address, group.count > 1) {
            let mend = "give each its own group";
            return Err(Wrong::new(address.span(), "two DIMMs cannot share an address", mend));
        }
        add(&group.name, group.count, &mut |_| {
            Device::Dimm(Dimm { size, node, address, backend: group.backend })
        })?;
        memory = memory.saturating_add(size.0.saturating_mul(group.count.into()));
        dimms += group.count;
    }
    for group in file.nvdimm.iter().map(Spanned::get_ref) {
        let (size, node) = (sections(&group.size, "an nvdimm")?, node(&group.node)?);
        add(&group.name, group.count, &mut |_| Device::Nvdimm { size, node })?;
        memory = memory.saturating_add(size.0.saturating_mul(group.count.into()));
        dimms += group.count;
    }
    for group in file.virtio_mem.iter().map(Spanned::get_ref) {
        let (size, node) = (sections(&group.size, "virtio-mem")?, node(&group.node)?);
        // The smallest that Linux takes is a huge page (QEMU, hw/virtio/virtio-mem.c: VIRTIO_MEM_MIN_BLOCK_SIZE).
        let block = group.block.as_ref().map_or(Bytes(2 * Bytes::MIB), |block| *block.get_ref());
        if let Some(wrong) = group.block.as_ref().filter(|_| !block.0.is_power_of_two() || block.0 < 2 << 20)
        {
            let what = format!("virtio-mem's block of {block} is not a power of two from 2M on");
            return Err(Wrong::new(wrong.span(), what, "block = \"2M\", \"4M\", ..."));
        }
        add(&group.name, group.count, &mut |_| Device::VirtioMem(VirtioMem { size, block, node }))?;
        memory = memory.saturating_add(size.0.saturating_mul(group.count.into()));
    }
    let slots = cpu_slots(file, &mut add)?;
    fits(machine, memory, dimms, slots).map_err(|(what, mend)| Wrong::new(at(), what, mend))?;
    Ok((groups, devices))
}

/// Adds a group of devices, each made from its number in the group.
type Add<'a> = dyn FnMut(&Spanned<String>, u32, &mut dyn FnMut(u32) -> Device) -> Result<(), Wrong> + 'a;

/// CPUs sit in the slots that they name, or in the next that nobody has, behind the boot CPUs. How many slots it takes.
fn cpu_slots(file: &File, add: &mut Add<'_>) -> Result<u32, Wrong> {
    let machine = file.machine.get_ref();
    let named: Vec<&Spanned<u32>> = file.cpu.iter().flat_map(|group| &group.get_ref().slots).collect();
    let mut taken: BTreeSet<u32> = (0..machine.cpus).collect();
    for slot in named {
        if !taken.insert(*slot.get_ref()) {
            let what = format!("CPU slot {} is taken", slot.get_ref());
            return Err(Wrong::new(slot.span(), what, "slots from the number of boot CPUs on, each once"));
        }
    }
    for group in file.cpu.iter().map(Spanned::get_ref) {
        if !group.slots.is_empty() && group.slots.len() != usize::try_from(group.count).unwrap_or(0) {
            let mend = "name one slot for each CPU of the group, or none";
            return Err(Wrong::new(group.slots[0].span(), "there are more or fewer slots than CPUs", mend));
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
            Device::Cpu { slot }
        })?;
    }
    Ok(taken.last().map_or(0, |last| last.saturating_add(1)))
}

fn sections(size: &Spanned<Bytes>, what: &str) -> Result<Bytes, Wrong> {
    let bytes = *size.get_ref();
    if bytes.0 == 0 || !bytes.0.is_multiple_of(SECTION.0) {
        let what = format!("{what} of {bytes} is not a multiple of {SECTION}, x86's section size");
        return Err(Wrong::new(size.span(), what, "\"128M\", \"256M\", ..."));
    }
    Ok(bytes)
}

fn fits(machine: &Machine, memory: u64, dimms: u32, slots: u32) -> Result<(), (String, String)> {
    if memory > machine.max_memory.0 {
        let all = Bytes(memory);
        return Err((
            format!("all devices together need {all}, max_memory is {}", machine.max_memory),
            format!("max_memory = \"{all}\" or more"),
        ));
    }
    if dimms > machine.slots {
        return Err((
            format!("{dimms} DIMMs need as many slots, the machine has {}", machine.slots),
            format!("slots = {dimms}"),
        ));
    }
    if slots > machine.max_cpus {
        return Err((
            format!("all CPUs together need {slots} slots, max_cpus is {}", machine.max_cpus),
            format!("max_cpus = {slots}"),
        ));
    }
    Ok(())
}

type Devices = BTreeMap<DeviceId, Device>;

fn lane(table: &LaneTable, groups: &Groups, devices: &Devices) -> Result<Lane, Wrong> {
    let mut plugged = BTreeSet::new();
    let mut steps = Vec::new();
    // Twice: what the first round leaves plugged, the second finds plugged.
    for round in 0..2 {
        for raw in &table.steps {
            let step = step(raw, groups, devices)?;
            if step.expect == super::Expect::Done {
                moves_legally(&step, raw, &mut plugged, round)?;
            }
            if round == 0 {
                steps.push(step);
            }
        }
        if table.repeat <= 1 {
            break;
        }
    }
    Ok(Lane { name: table.name.clone(), repeat: table.repeat.max(1), steps })
}

fn moves_legally(
    step: &Step,
    raw: &Spanned<StepTable>,
    plugged: &mut BTreeSet<DeviceId>,
    round: u32,
) -> Result<(), Wrong> {
    for operation in &step.operations {
        let (id, legal) = match operation {
            Operation::Plug(id) => (id, plugged.insert(id.clone())),
            Operation::Unplug(id) => (id, plugged.remove(id)),
            Operation::Online(Place::Device(id), _) | Operation::Offline(Place::Device(id)) => {
                (id, plugged.contains(id))
            }
            _ => continue,
        };
        if !legal {
            let state = if operation.verb() == "plug" { "plugged already" } else { "not plugged" };
            let when = if round == 0 { "" } else { ", in the second round" };
            let what = format!("`{id}` is {state} at this step{when}");
            let mend = "plug and unplug in turn; expect = \"refused\" for a step that is illegal on purpose";
            return Err(Wrong::new(raw.span(), what, mend));
        }
    }
    Ok(())
}

fn step(raw: &Spanned<StepTable>, groups: &Groups, devices: &Devices) -> Result<Step, Wrong> {
    let table = raw.get_ref();
    let operations = operations(raw, groups, devices)?;
    let in_flight = table.in_flight.as_ref().map_or(1, |n| *n.get_ref());
    if in_flight == 0 {
        let span = table.in_flight.as_ref().map_or(raw.span(), Spanned::span);
        return Err(Wrong::new(span, "with no request in flight nothing happens", "in_flight = 1 or more"));
    }
    Ok(Step {
        operations,
        barrier: table.barrier.as_ref().map(|name| name.get_ref().clone()),
        after: table.after.as_ref().map(trigger).transpose()?,
        in_flight,
        order: table.order,
        pause_up_to_ms: table.pause_up_to_ms,
        expect: table.expect,
    })
}

/// What a step does: the first of its keys that says so, and no other.
fn operations(raw: &Spanned<StepTable>, groups: &Groups, devices: &Devices) -> Result<Vec<Operation>, Wrong> {
    let table = raw.get_ref();
    let reboot = table.reboot.as_ref().filter(|reboot| *reboot.get_ref());
    let verbs = [
        table.plug.is_some(),
        table.unplug.is_some(),
        table.resize.is_some(),
        table.online.is_some(),
        table.offline.is_some(),
        table.write.is_some(),
        table.read.is_some(),
        reboot.is_some(),
    ];
    let several = verbs.iter().filter(|given| **given).count();
    if several > 1 || several == 0 && table.barrier.is_none() && table.after.is_none() {
        let what = "a step does one thing: plug, unplug, resize, online, offline, write, read or reboot";
        return Err(Wrong::new(raw.span(), what, "{ plug = \"dimm\" }"));
    }
    let belongs = |given: bool, key: &str, verb: &str, there: bool| {
        let what = format!("`{key}` belongs to a step that does {verb}");
        if given && !there { Err(Wrong::new(raw.span(), what, format!("leave `{key}` out"))) } else { Ok(()) }
    };
    belongs(table.to.is_some(), "to", "resize", table.resize.is_some())?;
    belongs(table.policy.is_some(), "policy", "online", table.online.is_some())?;
    belongs(table.data.is_some(), "data", "write", table.write.is_some())?;
    belongs(table.offset.is_some() || table.length.is_some(), "offset", "read", table.read.is_some())?;
    let of = |name: &Spanned<Names>, fits: fn(&Device) -> bool, kind: &str| {
        let ids = members(name, groups)?;
        match ids.iter().find(|id| !devices.get(*id).is_some_and(fits)) {
            Some(id) => Err(Wrong::new(name.span(), format!("`{id}` is not {kind}"), "name another device")),
            None => Ok(ids),
        }
    };
    let comes = |device: &Device| !matches!(device, Device::VirtioMem(_));
    if let Some(name) = &table.plug {
        return Ok(of(name, comes, "something that is plugged")?.into_iter().map(Operation::Plug).collect());
    }
    if let Some(name) = &table.unplug {
        return Ok(of(name, comes, "something that is unplugged")?
            .into_iter()
            .map(Operation::Unplug)
            .collect());
    }
    if let Some(name) = &table.resize {
        let ids = of(name, |device| matches!(device, Device::VirtioMem(_)), "a virtio-mem device")?;
        let Some(to) = &table.to else {
            return Err(Wrong::new(raw.span(), "a resize says to what", "to = \"256M\""));
        };
        for id in &ids {
            if let Some(Device::VirtioMem(device)) = devices.get(id)
                && (to.get_ref() > &device.size || !to.get_ref().0.is_multiple_of(device.block.0))
            {
                let what = format!("`{id}` gives multiples of {} up to {}", device.block, device.size);
                return Err(Wrong::new(to.span(), what, "another size"));
            }
        }
        return Ok(ids.into_iter().map(|id| Operation::Resize(id, *to.get_ref())).collect());
    }
    if let Some(name) = &table.online {
        let policy = table.policy.as_ref().map(|policy| *policy.get_ref()).unwrap_or_default();
        return Ok(places(name, groups)?.into_iter().map(|place| Operation::Online(place, policy)).collect());
    }
    if let Some(name) = &table.offline {
        return Ok(places(name, groups)?.into_iter().map(Operation::Offline).collect());
    }
    let absolute = |path: &Spanned<String>| {
        if path.get_ref().starts_with('/') {
            Ok(path.get_ref().clone())
        } else {
            Err(Wrong::new(path.span(), "a path in the guest is absolute", "path from / on"))
        }
    };
    if let Some(path) = &table.write {
        let Some(data) = &table.data else {
            return Err(Wrong::new(raw.span(), "a write says what", "data = \"1\""));
        };
        return Ok(vec![Operation::Write { path: absolute(path)?, data: data.get_ref().clone() }]);
    }
    if let Some(path) = &table.read {
        let (offset, length) = (table.offset.unwrap_or(0), table.length);
        return Ok(vec![Operation::Read { path: absolute(path)?, offset, length }]);
    }
    Ok(reboot.map(|_| Operation::Reboot).into_iter().collect())
}

/// The members of groups, and single devices, as they are named.
fn members(names: &Spanned<Names>, groups: &Groups) -> Result<Vec<DeviceId>, Wrong> {
    let each = names.get_ref().all().iter().map(|name| named(name, names.span(), groups));
    Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
}

/// A group's members, or one device.
fn named(wanted: &str, span: Range<usize>, groups: &Groups) -> Result<Vec<DeviceId>, Wrong> {
    let one = || groups.values().flatten().find(|id| id.0 == wanted).map(|id| vec![id.clone()]);
    groups.get(wanted).cloned().or_else(one).ok_or_else(|| {
        let known = groups.keys().cloned().collect::<Vec<_>>().join(", ");
        let what = format!("no device or group is called `{wanted}`");
        Wrong::new(span, what, format!("declare it, or use one of: {known}"))
    })
}

/// `memory:3`, `cpu:1`, or devices.
fn places(names: &Spanned<Names>, groups: &Groups) -> Result<Vec<Place>, Wrong> {
    let mut places = Vec::new();
    for name in names.get_ref().all() {
        let place = name.split_once(':').map(|(kind, number)| match (kind, number.parse::<u32>()) {
            ("memory", Ok(number)) => Some(Place::Block(number.into())),
            ("cpu", Ok(number)) => Some(Place::Cpu(number)),
            _ => None,
        });
        match place {
            Some(Some(place)) => places.push(place),
            Some(None) => {
                let what = "a place is `memory:N` or `cpu:N`, as sysfs numbers them";
                return Err(Wrong::new(names.span(), what, "memory:3"));
            }
            None => places.extend(named(name, names.span(), groups)?.into_iter().map(Place::Device)),
        }
    }
    Ok(places)
}

fn trigger(table: &Spanned<AfterTable>) -> Result<Trigger, Wrong> {
    let raw = table.get_ref();
    let wrong = |what: &str, mend: &str| Err(Wrong::new(table.span(), what, mend));
    let offset = match (raw.offset_us, raw.random_us, raw.sweep_us) {
        (fixed, None, None) => Offset::Fixed(fixed.unwrap_or(0)),
        (None, Some([from, to]), None) if from <= to => Offset::Random(from, to),
        (None, None, Some([from, to, step])) if from <= to && step > 0 => Offset::Sweep(from, to, step),
        (None, _, None) => return wrong("the times run backwards", "random_us = [0, 5000]"),
        (None, None, _) => {
            return wrong("a sweep goes up, by more than nothing", "sweep_us = [0, 5000, 250]");
        }
        _ => {
            return wrong(
                "an offset is fixed, random or swept",
                "give one of offset_us, random_us, sweep_us",
            );
        }
    };
    Ok(Trigger { operation: raw.step.get_ref().clone(), phase: raw.phase, offset })
}

/// Barriers are passed by several lanes equally often; triggers are of another lane's step.
fn meetings(file: &File, lanes: &[Lane]) -> Result<(), Wrong> {
    let mut barriers: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for lane in lanes {
        let mut own: BTreeMap<&str, u32> = BTreeMap::new();
        for name in lane.steps.iter().filter_map(|step| step.barrier.as_deref()) {
            *own.entry(name).or_default() += lane.repeat;
        }
        for (name, times) in own {
            barriers.entry(name).or_default().push(times);
        }
    }
    for (table, lane) in file.lane.iter().zip(lanes) {
        for raw in &table.get_ref().steps {
            let step = raw.get_ref();
            if let Some(name) = &step.barrier {
                let times = &barriers[name.get_ref().as_str()];
                if times.len() < 2 || times.iter().any(|n| *n != times[0]) {
                    let what =
                        format!("barrier `{}` is not named by two lanes equally often", name.get_ref());
                    let mend = "name it in each lane, with the same repeat";
                    return Err(Wrong::new(name.span(), what, mend));
                }
            }
            if let Some(after) = &step.after {
                let wanted = after.get_ref().step.get_ref();
                let others = lanes.iter().filter(|other| other.name != lane.name);
                let mut known = others.flat_map(|other| &other.steps).flat_map(|step| &step.operations);
                if !known.any(|operation| operation.matches(wanted)) {
                    let what = format!("no other lane has a step that does `{wanted}`");
                    let mend = "step = \"unplug dimm0\", or \"unplug dimm\" for any of them";
                    return Err(Wrong::new(after.get_ref().step.span(), what, mend));
                }
            }
        }
    }
    Ok(())
}

fn random(
    table: &Spanned<RandomTable>,
    groups: &Groups,
    devices: &Devices,
    owner: &BTreeMap<DeviceId, String>,
) -> Result<Random, Wrong> {
    let raw = table.get_ref();
    for (number, key) in [(&raw.lanes, "lanes"), (&raw.moves, "moves")] {
        if *number.get_ref() == 0 {
            return Err(Wrong::new(number.span(), format!("{key} = 0 does nothing"), "1 or more"));
        }
    }
    if let Some(percent) = raw.illegal_percent.as_ref().filter(|percent| *percent.get_ref() > 100) {
        return Err(Wrong::new(percent.span(), "a share is at most 100 percent", "illegal_percent = 10"));
    }
    let mut of = Vec::new();
    for one in &raw.of {
        let step = step(one, groups, devices)?;
        let weight = one.get_ref().weight.as_ref().map_or(1, |weight| *weight.get_ref());
        let at_most = one.get_ref().at_most.as_ref().map_or(u32::MAX, |most| *most.get_ref());
        if step.operations.is_empty() || step.barrier.is_some() || step.after.is_some() {
            let what = "a random move waits for nobody";
            return Err(Wrong::new(one.span(), what, "leave barrier and after to [[lane]]"));
        }
        if step.operations.contains(&Operation::Reboot) {
            let what = "a reboot cuts off whatever else is in flight";
            return Err(Wrong::new(one.span(), what, "leave it to a scenario with one lane"));
        }
        if let Some(id) =
            step.operations.iter().filter_map(Operation::device).find(|id| owner.contains_key(id))
        {
            let what = format!("`{id}` is moved by lane `{}`", owner[id]);
            return Err(Wrong::new(one.span(), what, "give the random lanes devices of their own"));
        }
        of.push(Move { weight, at_most, step });
    }
    if of.is_empty() || of.iter().all(|one| one.weight == 0) {
        let mend = "add a [[random.move]] with a weight";
        return Err(Wrong::new(table.span(), "there is no move to choose", mend));
    }
    Ok(Random {
        lanes: *raw.lanes.get_ref(),
        moves: *raw.moves.get_ref(),
        pause_up_to_ms: raw.pause_up_to_ms,
        illegal_percent: raw.illegal_percent.as_ref().map_or(0, |percent| *percent.get_ref()),
        of,
    })
}

#[cfg(test)]
mod tests {
    use crate::scenario::{DEFAULT, Scenario};

    const GOOD: &str = r#"about = "a test"
trials = 2
[machine]
cpus = 1
max_cpus = 2
memory = "512M"
max_memory = "1G"
slots = 2
[[dimm]]
name = "dimm"
count = 2
size = "256M"
[[cpu]]
name = "cpu"
[[lane]]
name = "all"
repeat = 2
steps = [{ plug = "dimm", in_flight = 2 }, { plug = "cpu0" }, { unplug = "cpu" }, { unplug = "dimm" }]
"#;

    fn fault(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        Scenario::parse("dir/test.toml", &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_scenario_and_a_small_one_are_good() {
        Scenario::parse(DEFAULT.0, DEFAULT.1).unwrap();
        let scenario = Scenario::parse("dir/test.toml", GOOD).unwrap();
        assert_eq!(scenario.name, "test");
        assert_eq!(scenario.devices.len(), 3);
        assert!(scenario.removes_cpus());
    }

    #[test]
    fn every_shipped_scenario_is_good_and_drawn_legally() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
        let mut shipped = 0;
        for entry in fs_err::read_dir(folder).unwrap() {
            let (scenario, text) = Scenario::read(&entry.unwrap().path()).unwrap();
            assert!(text.starts_with("# "), "{} does not say what it is for", scenario.name);
            for number in 0..50 {
                let schedule = scenario.schedule(crate::scenario::Seed(u64::from(number)), number);
                assert!(schedule.lanes.iter().any(|lane| !lane.batches.is_empty()), "{}", scenario.name);
                let plugs = schedule.lanes.iter().flat_map(|lane| &lane.batches).filter(|batch| {
                    batch.expect != super::super::Expect::Refused
                        && batch.operations.iter().any(|o| scenario.plugs_cpu(o))
                });
                let most = scenario.machine.max_cpus - scenario.machine.cpus;
                assert!(scenario.random.is_none() || plugs.count() <= most as usize, "{}", scenario.name);
            }
            shipped += 1;
        }
        assert!(shipped >= 10, "{shipped} scenarios");
    }

    #[test]
    fn every_fault_is_pointed_at() {
        insta::assert_snapshot!(fault("in_flight = 2", "inflight = 2"));
        insta::assert_snapshot!(fault("\"256M\"", "\"100M\""));
        insta::assert_snapshot!(fault("plug = \"cpu0\"", "plug = \"cpu7\""));
        insta::assert_snapshot!(fault("{ unplug = \"cpu\" }", "{ plug = \"cpu\" }"));
        insta::assert_snapshot!(fault(", { unplug = \"dimm\" }", ""));
        insta::assert_snapshot!(fault("slots = 2", "slots = 1"));
        insta::assert_snapshot!(fault("max_memory = \"1G\"", "max_memory = \"768M\""));
        insta::assert_snapshot!(fault("max_cpus = 2", "max_cpus = 1"));
        insta::assert_snapshot!(fault("in_flight = 2", "in_flight = 0"));
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", "{ plug = \"cpu0\", unplug = \"dimm0\" }"));
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", "{ barrier = \"alone\" }"));
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", "{ write = \"sys\", data = \"1\" }"));
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", "{ offline = \"block:1\" }"));
        let after = "{ plug = \"cpu0\", after = { step = \"unplug dimm\", phase = \"accepted\" } }";
        insta::assert_snapshot!(fault("{ plug = \"cpu0\" }", after));
        insta::assert_snapshot!(fault("slots = 2", "slots = 2\ntopology = { threads = 3 }"));
        insta::assert_snapshot!(fault("slots = 2", "slots = 2\nnode = [{ memory = \"256M\" }]"));
        insta::assert_snapshot!(fault("size = \"256M\"", "size = \"256M\"\nnode = 1"));
    }
}

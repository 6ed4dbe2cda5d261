//! Joins two scenarios into one, whose guest does what both do, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Expect, Lane, Machine, NumaNode, Operation, Order, Place, Scenario, Start, Step, Topology, Trigger, tidy,
};
use crate::bytes::Bytes;
use crate::device::{Cpu, Device, DeviceId};

/// What the names of the second scenario's devices, lanes and barriers begin with.
const THEN: &str = "then-";

impl Scenario {
    /// A scenario that does what all of these do, one after the other. `None` if there are none.
    ///
    /// Fails with the reason if one guest cannot do all of it.
    pub fn one_after_the_other(all: impl IntoIterator<Item = Self>) -> Result<Option<Self>, String> {
        all.into_iter().try_fold(None, |joined: Option<Self>, next| {
            let joined = match joined {
                None => next,
                Some(first) => first.followed_by(next)?,
            };
            Ok(Some(joined))
        })
    }

    /// A scenario that does what this one does, then what `next` does. The loads of both run all the
    /// time. Both have plain lanes only. If both are trials of one scenario, each lane goes on where
    /// it ended. Otherwise, or if a device changes its lane, each has devices of its own, and the
    /// machine has room for all of them.
    ///
    /// Fails with the reason if one guest cannot do both.
    pub fn followed_by(self, next: Self) -> Result<Self, String> {
        can_be_joined(&self, &next)?;
        if is_same_scenario(&self, &next) {
            return Ok(self.goes_on(next));
        }
        let places = Places::of(&self.machine, &next.machine);
        let machine = places.machine(&self.machine, &next.machine)?;
        if self.most_cpu().max(next.most_cpu()).is_some_and(|cpu| cpu >= machine.cpus) {
            return Err("they need different CPUs".into());
        }
        let barrier = self.free_barrier();
        let mark = self.free_mark();
        let own = |(id, device): (DeviceId, Device)| (id, places.moved(device, Which::First));
        let mut devices: BTreeMap<DeviceId, Device> = self.devices.into_iter().map(own).collect();
        devices.extend(
            next.devices
                .into_iter()
                .map(|(id, device)| (later(&id, &mark), places.moved(device, Which::Next))),
        );
        let first = self.lanes.into_iter().map(|lane| ended(lane, &barrier, Expect::Any));
        let second = next.lanes.into_iter().map(|lane| begun(lane, &barrier, &mark));
        let mut guest = self.guest;
        for load in next.guest.load {
            if !guest.load.contains(&load) {
                guest.load.push(load);
            }
        }
        guest.typing = guest.typing.max(next.guest.typing);
        let mut programs = self.programs;
        programs.extend(next.programs);
        Ok(Self {
            machine,
            guest,
            programs,
            files: None,
            devices,
            lanes: first.chain(second).collect(),
            time_limit_s: self.time_limit_s.max(next.time_limit_s),
            ..self
        })
    }

    /// The same devices and lanes, in which the steps of `next` follow.
    fn goes_on(self, next: Self) -> Self {
        let barrier = self.free_barrier();
        let mut later: Vec<Lane> = next.lanes;
        let mut lanes: Vec<Lane> = Vec::new();
        for lane in self.lanes {
            let mut lane = ended(lane, &barrier, Expect::Done);
            if let Some(place) = later.iter().position(|other| other.name == lane.name) {
                lane.steps.extend(again(later.remove(place), &barrier).steps);
            }
            lanes.push(lane);
        }
        lanes.extend(later.into_iter().map(|lane| {
            let mut lane = again(lane, &barrier);
            lane.steps.insert(0, waits(&barrier));
            lane
        }));
        let mut joined = Self { lanes, ..self };
        // A barrier of one lane is none.
        tidy(&mut joined);
        // Under TCG, QEMU starts at most `maxcpus` vCPUs in its life.
        let started = joined.cpus_ever_started();
        if started > joined.machine.max_cpus {
            (joined.machine.topology, joined.machine.max_cpus) = arrangement(&joined.machine, started);
        }
        joined
    }

    /// The highest number of a CPU that a step or a load names.
    fn most_cpu(&self) -> Option<u32> {
        let of_step = |operation: &Operation| match operation {
            Operation::Online(Place::Cpu(number), _)
            | Operation::Offline(Place::Cpu(number))
            | Operation::Fail(Place::Cpu(number), ..) => Some(*number),
            _ => None,
        };
        let loads = self.guest.load.iter().flat_map(|load| load.cpus.iter().copied());
        self.operations().filter_map(of_step).chain(loads).max()
    }

    /// The beginning of names that no device and no lane of the scenario has.
    fn free_mark(&self) -> String {
        let names = || self.devices.keys().map(|id| &id.0).chain(self.lanes.iter().map(|lane| &lane.name));
        let mut mark = THEN.to_owned();
        while names().any(|name| name.starts_with(&mark)) {
            mark += THEN;
        }
        mark
    }

    /// The name of a barrier that the scenario does not have.
    fn free_barrier(&self) -> String {
        let steps = self.lanes.iter().flat_map(|lane| &lane.steps);
        let taken: BTreeSet<&str> = steps.filter_map(|step| step.barrier.as_deref()).collect();
        let names = (1..).map(|number| format!("half-{number}"));
        names.into_iter().find(|name| !taken.contains(name.as_str())).unwrap_or_default()
    }
}

/// Checks whether one guest can do what both scenarios do.
fn can_be_joined(first: &Scenario, next: &Scenario) -> Result<(), String> {
    let both = [first, next];
    if both.iter().any(|one| one.start == Start::Boot) {
        return Err("one of them begins with the boot".into());
    }
    if both.iter().any(|one| one.operations().any(|operation| *operation == Operation::Reboot)) {
        return Err("one of them restarts the guest".into());
    }
    let (a, b) = (&first.machine, &next.machine);
    let usual = Topology::default();
    let same_cpus = a.topology == b.topology || a.topology == usual || b.topology == usual;
    if (a.kind, a.accelerator, &a.cpu_model) != (b.kind, b.accelerator, &b.cpu_model) || !same_cpus {
        return Err("they need different machines".into());
    }
    if first.guest.memory_online != next.guest.memory_online {
        return Err("their memory comes online in different ways".into());
    }
    if first.guest.rootfs != next.guest.rootfs {
        return Err("their programs have different roots".into());
    }
    let differs = |(name, program)| next.programs.get(name).is_some_and(|other| other != program);
    if let Some((name, _)) = first.programs.iter().find(|one| differs(*one)) {
        return Err(format!("each has a program {name} of its own"));
    }
    Ok(())
}

/// Which of the two scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    First,
    Next,
}

/// Where the CPUs of both scenarios go in the joined machine: the CPUs of the boot, then those that
/// one scenario plugs, then those of the other. A scenario with NUMA nodes comes first, so that its
/// sockets stay what they were.
#[derive(Debug, Clone, Copy)]
struct Places {
    /// CPUs at boot.
    boot: u32,
    /// CPUs at boot of both machines.
    cpus: [u32; 2],
    /// The first slots for the CPUs that each scenario plugs.
    start: [u32; 2],
    /// The number of all slots.
    all: u32,
    /// The machine that comes first.
    base: Which,
}

impl Places {
    fn of(first: &Machine, next: &Machine) -> Self {
        let is_plain = |m: &Machine| m.nodes.is_empty() && m.topology == Topology::default();
        let base = if is_plain(first) && !is_plain(next) { Which::Next } else { Which::First };
        // More CPUs at boot would be in nodes that have none.
        let boot = match base {
            Which::First if !first.nodes.is_empty() => first.cpus,
            Which::Next if !next.nodes.is_empty() => next.cpus,
            _ => first.cpus.max(next.cpus),
        };
        let room = [first.max_cpus - first.cpus, next.max_cpus - next.cpus];
        let mut start = [boot; 2];
        start[1 - base as usize] += room[base as usize];
        Self { boot, cpus: [first.cpus, next.cpus], start, all: boot + room[0] + room[1], base }
    }

    fn slot(self, slot: u32, of: Which) -> u32 {
        let at = of as usize;
        // A CPU of the boot stays where it is.
        slot.checked_sub(self.cpus[at]).map_or(slot, |plugged| self.start[at] + plugged)
    }

    fn moved(self, device: Device, of: Which) -> Device {
        match device {
            Device::Cpu(cpu) => Device::Cpu(Cpu { slot: self.slot(cpu.slot, of) }),
            other => other,
        }
    }

    fn nodes(self, machine: &Machine, of: Which) -> Vec<NumaNode> {
        let slots = |node: &NumaNode| node.cpus.iter().map(|slot| self.slot(*slot, of)).collect();
        machine.nodes.iter().map(|node| NumaNode { cpus: slots(node), ..node.clone() }).collect()
    }

    /// The joined machine.
    fn machine(self, first: &Machine, next: &Machine) -> Result<Machine, String> {
        let ((base, of), (other, and)) = match self.base {
            Which::First => ((first, Which::First), (next, Which::Next)),
            Which::Next => ((next, Which::Next), (first, Which::First)),
        };
        let mut nodes = self.nodes(base, of);
        if !other.nodes.is_empty() && at_boot(base) != at_boot(other) {
            return Err("they need different NUMA nodes".into());
        }
        for (node, more) in nodes.iter_mut().zip(self.nodes(other, and)) {
            node.cpus.extend(more.cpus.into_iter().filter(|slot| *slot >= self.boot));
        }
        let memory = base.memory.0.max(other.memory.0);
        if let Some(first) = nodes.first_mut() {
            first.memory = Some(Bytes(first.memory().0 + memory - base.memory.0));
        }
        let (topology, max_cpus) = arrangement(base, self.all);
        if base.kind.arch().id != other.kind.arch().id {
            return Err("they need machines of different architectures".into());
        }
        let mut options = base.options.clone();
        options.extend(other.options.iter().filter(|option| !base.options.contains(option)).cloned());
        let mut devices = base.devices.clone();
        devices.extend(other.devices.iter().filter(|device| !base.devices.contains(device)).cloned());
        let known: Vec<&str> = base.kernel_args.split_whitespace().collect();
        let more = other.kernel_args.split_whitespace().filter(|word| !known.contains(word));
        Ok(Machine {
            cpus: self.boot,
            max_cpus,
            topology,
            memory: Bytes(memory),
            max_memory: Bytes(base.max_memory.0.saturating_add(other.max_memory.0)),
            slots: base.slots + other.slots,
            nodes,
            hmat: base.hmat || other.hmat,
            options,
            devices,
            kernel_args: known.iter().copied().chain(more).collect::<Vec<_>>().join(" "),
            ..base.clone()
        })
    }
}

/// The arrangement of so many CPUs, like those of `base`, and their number. Sockets keep their size,
/// because those of a machine with nodes are in one node each.
fn arrangement(base: &Machine, all: u32) -> (Topology, u32) {
    let Topology { sockets, dies, threads, .. } = base.topology;
    if sockets == 1 {
        return (Topology { cores: None, ..base.topology }, all.next_multiple_of(dies * threads));
    }
    let cores = base.topology.cores(base.max_cpus).unwrap_or(1);
    let socket = cores * dies * threads;
    let sockets = all.div_ceil(socket);
    (Topology { sockets, cores: Some(cores), ..base.topology }, sockets * socket)
}

/// The memory and the CPUs of each node at boot.
fn at_boot(machine: &Machine) -> Vec<(Option<Bytes>, Vec<u32>)> {
    let cpus = |node: &NumaNode| node.cpus.iter().copied().filter(|slot| *slot < machine.cpus).collect();
    machine.nodes.iter().map(|node| (node.memory, cpus(node))).collect()
}

/// The name of a device of the second scenario.
fn later(id: &DeviceId, mark: &str) -> DeviceId {
    DeviceId(format!("{mark}{id}"))
}

/// Whether both are trials of one scenario, in which no device changes its lane.
fn is_same_scenario(first: &Scenario, next: &Scenario) -> bool {
    let is_same = |load: &Scenario| (load.machine.clone(), load.guest.clone(), load.devices.clone());
    let mut lane_of: BTreeMap<&DeviceId, &str> = BTreeMap::new();
    let lanes = first.lanes.iter().chain(&next.lanes);
    let mut moves = lanes.flat_map(|lane| {
        let operations = lane.steps.iter().flat_map(|step| &step.operations);
        operations.filter_map(Operation::device).map(move |id| (id, lane.name.as_str()))
    });
    is_same(first) == is_same(next) && moves.all(|(id, lane)| *lane_of.entry(id).or_insert(lane) == lane)
}

/// A lane of the same scenario, with names of its own for its barriers.
fn again(lane: Lane, barrier: &str) -> Lane {
    let own = |name: String| format!("{barrier}-{name}");
    let steps = lane.steps.into_iter().map(|step| Step { barrier: step.barrier.map(own), ..step });
    Lane { steps: steps.collect(), ..lane }
}

/// A step that waits for the lanes of the first scenario.
fn waits(barrier: &str) -> Step {
    Step {
        operations: Vec::new(),
        barrier: Some(barrier.into()),
        after: None,
        in_flight: 1,
        order: Order::Given,
        pause_up_to_ms: 0,
        expect: Expect::Done,
    }
}

/// A lane of the first scenario: it removes what it leaves, and waits for the others.
fn ended(mut lane: Lane, barrier: &str, expect: Expect) -> Lane {
    let mut plugged = BTreeSet::new();
    for step in lane.steps.iter().filter(|step| step.expect == Expect::Done) {
        for operation in &step.operations {
            operation.takes_its_turn(&mut plugged);
        }
    }
    if !plugged.is_empty() {
        lane.steps.push(Step {
            in_flight: plugged.len(),
            operations: plugged.into_iter().map(Operation::Unplug).collect(),
            barrier: None,
            expect,
            ..waits(barrier)
        });
    }
    lane.steps.push(waits(barrier));
    lane
}

/// A lane of the second scenario: it waits for the first one.
fn begun(lane: Lane, barrier: &str, mark: &str) -> Lane {
    let steps = lane.steps.into_iter().map(|step| Step {
        operations: step.operations.into_iter().map(|operation| renamed(operation, mark)).collect(),
        barrier: step.barrier.map(|name| format!("{mark}{name}")),
        after: step
            .after
            .map(|trigger| Trigger { operation: renamed_words(&trigger.operation, mark), ..trigger }),
        ..step
    });
    Lane {
        name: format!("{mark}{}", lane.name),
        steps: std::iter::once(waits(barrier)).chain(steps).collect(),
        ..lane
    }
}

/// The operation on a device of the second scenario.
fn renamed(operation: Operation, mark: &str) -> Operation {
    let place = |place: Place| match place {
        Place::Device(id) => Place::Device(later(&id, mark)),
        other => other,
    };
    match operation {
        Operation::Plug(id) => Operation::Plug(later(&id, mark)),
        Operation::Unplug(id) => Operation::Unplug(later(&id, mark)),
        Operation::Resize(id, to) => Operation::Resize(later(&id, mark), to),
        Operation::Online(at, policy) => Operation::Online(place(at), policy),
        Operation::Offline(at) => Operation::Offline(place(at)),
        Operation::Fail(at, what, part) => Operation::Fail(place(at), what, part),
        other => other,
    }
}

/// The same in the words of a trigger, such as `unplug dimm0` and `unplug dimm`. Words that name no
/// device stay as they are.
fn renamed_words(words: &str, mark: &str) -> String {
    match words.split_once(' ') {
        // `memory:40` and `cpu:1` are no devices.
        Some((verb @ ("plug" | "unplug" | "resize" | "online" | "offline" | "fail"), id))
            if !id.contains(':') =>
        {
            format!("{verb} {mark}{id}")
        }
        _ => words.to_owned(),
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;

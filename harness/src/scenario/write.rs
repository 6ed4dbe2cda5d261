//! Writes a checked scenario as a file that [`Scenario::parse`] reads as the same scenario. Random
//! lanes are not written: `shrink`, which writes scenarios, has already drawn them.

use std::collections::BTreeMap;
use std::fmt::Write;

use hotplug_protocol::Load;
use serde::Serialize;

use super::{Expect, Holds, Machine, Offset, Operation, Order, Program, Scenario, Step, Victim, program};
use crate::bytes::Bytes;
use crate::device::DeviceId;

/// The lines of one TOML table.
#[derive(Default)]
struct Keys(Vec<String>);

impl Keys {
    fn add(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        self.0.push(format!("{key} = {}", toml_value(value)));
    }

    /// Adds the key unless its value is the one that an absent key has.
    fn unless<T: Serialize + PartialEq>(&mut self, key: &str, value: &T, absent: &T) {
        if value != absent {
            self.add(key, value);
        }
    }

    fn lines(&self) -> String {
        format!("{}\n", self.0.join("\n"))
    }

    fn inline(&self) -> String {
        format!("{{ {} }}", self.0.join(", "))
    }
}

/// Formats a value as TOML on one line. The layout around values is made here, because the library
/// would write each step as a table of several lines.
fn toml_value(value: &(impl Serialize + ?Sized)) -> String {
    toml::Value::try_from(value).map(|value| value.to_string()).unwrap_or_default()
}

/// A list with one table on each line.
fn list(tables: impl Iterator<Item = Keys>) -> String {
    let lines: Vec<String> = tables.map(|keys| format!("    {},\n", keys.inline())).collect();
    format!("[\n{}]", lines.concat())
}

impl Scenario {
    /// The text of the scenario's file.
    pub fn to_toml(&self) -> String {
        let mut top = Keys::default();
        top.add("about", &self.about);
        top.add("trials", &self.trials);
        top.unless("start", &self.start, &super::Start::default());
        top.add("time_limit_s", &self.time_limit_s);
        let mut text = top.lines();
        let _ = write!(text, "\n[machine]\n{}", machine(&self.machine));
        let mut guest = Keys::default();
        guest.add("memory_online", &self.guest.memory_online);
        if let Some(typing) = &self.guest.typing {
            guest.add("typing", typing);
        }
        if let Some(rootfs) = &self.guest.rootfs {
            guest.add("rootfs", rootfs);
        }
        let _ = write!(text, "\n[guest]\n{}", guest.lines());
        if !self.guest.load.is_empty() {
            let _ = writeln!(text, "load = {}", list(self.guest.load.iter().map(load)));
        }
        for program in self.programs.values().filter(|program| self.runs(&program.name)) {
            let _ = write!(text, "\n[[program]]\n{}", own_program(program).lines());
        }
        let groups = self.groups();
        for (name, members) in &groups {
            text.push_str(&self.group(name, members));
        }
        for lane in &self.lanes {
            let mut keys = Keys::default();
            keys.add("name", &lane.name);
            keys.unless("repeat", &lane.repeat, &1);
            let steps = list(lane.steps.iter().map(|one| step(one, &groups)));
            let _ = writeln!(text, "\n[[lane]]\n{}steps = {steps}", keys.lines());
        }
        if let Some(timing) = &self.latency {
            let _ = write!(text, "\n[latency]\n{}", toml::to_string(timing).unwrap_or_default());
            if !timing.victims.is_empty() {
                let _ = writeln!(text, "victims = {}", list(timing.victims.iter().map(victim)));
            }
        }
        if let Some(racing) = &self.overlap {
            let _ = write!(text, "\n[overlap]\n{}", toml::to_string(racing).unwrap_or_default());
        }
        let mut table = |head: &str, keys: Result<String, toml::ser::Error>| {
            let _ = write!(text, "\n{head}\n{}", keys.unwrap_or_default());
        };
        let Holds { rendezvous, sweep, delay, delays } = &self.holds;
        for one in rendezvous {
            table("[[rendezvous]]", toml::to_string(one));
        }
        if let Some(one) = sweep {
            table("[sweep]", toml::to_string(one));
        }
        for one in delay {
            table("[[delay]]", toml::to_string(one));
        }
        if let Some(one) = delays {
            table("[delays]", toml::to_string(one));
        }
        text
    }

    /// Whether a step or a load runs this program.
    fn runs(&self, name: &str) -> bool {
        let is_it = |operation: &Operation| matches!(operation, Operation::Program(other) if other == name);
        self.operations().any(is_it) || self.guest.load.iter().any(|load| program::is_run_by(load, name))
    }

    /// The members of each group, in the order of their numbers.
    fn groups(&self) -> Groups<'_> {
        let mut groups: Groups<'_> = BTreeMap::new();
        for id in self.devices.keys() {
            groups.entry(id.group()).or_default().push(id);
        }
        for members in groups.values_mut() {
            members.sort_by_key(|id| id.number());
        }
        groups
    }

    fn group(&self, name: &str, members: &[&DeviceId]) -> String {
        let mut keys = Keys::default();
        keys.add("name", name);
        keys.unless("count", &members.len(), &1);
        let first = &self.devices[members[0]];
        let slots: Vec<u32> = members.iter().filter_map(|id| self.devices[*id].cpu_slot()).collect();
        if slots.is_empty() {
            for (key, value) in first.keys() {
                keys.add(key, &value);
            }
        } else {
            // A group of CPUs has the slots of all its members.
            keys.add("slots", &slots);
        }
        format!("\n[[{}]]\n{}", first.table(), keys.lines())
    }
}

type Groups<'a> = BTreeMap<&'a str, Vec<&'a DeviceId>>;

fn machine(machine: &Machine) -> String {
    let mut keys = Keys::default();
    keys.unless("kind", &machine.kind, &super::MachineKind::default());
    if let Some(accelerator) = &machine.accelerator {
        keys.add("accelerator", accelerator);
    }
    if let Some(model) = &machine.cpu_model {
        keys.add("cpu_model", model);
    }
    keys.add("cpus", &machine.cpus);
    keys.add("max_cpus", &machine.max_cpus);
    if machine.topology != super::Topology::default() {
        let mut topology = Keys::default();
        topology.unless("sockets", &machine.topology.sockets, &1);
        topology.unless("dies", &machine.topology.dies, &1);
        if let Some(cores) = machine.topology.cores {
            topology.add("cores", &cores);
        }
        topology.unless("threads", &machine.topology.threads, &1);
        keys.0.push(format!("topology = {}", topology.inline()));
    }
    keys.add("memory", &machine.memory);
    keys.add("max_memory", &machine.max_memory);
    keys.add("slots", &machine.slots);
    keys.unless("hmat", &machine.hmat, &false);
    keys.unless("options", &machine.options, &Vec::new());
    keys.unless("devices", &machine.devices, &Vec::new());
    keys.unless("kernel_args", &machine.kernel_args, &String::new());
    let mut text = keys.lines();
    for node in &machine.nodes {
        let mut keys = Keys::default();
        if let Some(memory) = &node.memory {
            keys.add("memory", memory);
        }
        keys.unless("cpus", &node.cpus, &Vec::new());
        let _ = write!(text, "\n[[machine.node]]\n{}", keys.lines());
    }
    text
}

fn victim(victim: &Victim) -> Keys {
    let mut keys = load(&victim.load);
    keys.add("name", &victim.name);
    keys
}

fn load(load: &Load) -> Keys {
    let mut keys = Keys::default();
    keys.add("kind", &load.kind);
    keys.add("workers", &load.workers);
    if let Some(path) = &load.path {
        keys.add("path", path);
    }
    keys.unless("data", &load.data, &Vec::new());
    if let Some(rate) = &load.rate {
        keys.add("rate", rate);
    }
    keys.unless("cpus", &load.cpus, &Vec::new());
    if let Some(bytes) = load.bytes {
        keys.add("bytes", &Bytes(bytes));
    }
    if let Some(program) = &load.program {
        keys.add("program", &program.name);
        keys.unless("expect", &if load.must_succeed { Expect::Done } else { Expect::Any }, &Expect::Any);
    }
    keys
}

fn own_program(program: &Program) -> Keys {
    let Program { name, files, run, env, folder, cpus, limit_s } = program;
    let mut keys = Keys::default();
    keys.add("name", name);
    if let Some(files) = files {
        keys.add("files", files);
    }
    keys.add("run", run);
    keys.unless("env", env, &BTreeMap::new());
    if let Some(folder) = folder {
        keys.add("folder", folder);
    }
    keys.unless("cpus", cpus, &Vec::new());
    keys.add("limit_s", limit_s);
    keys
}

fn step(step: &Step, groups: &Groups<'_>) -> Keys {
    let mut keys = Keys::default();
    if let Some(first) = step.operations.first() {
        let objects: Vec<String> = step.operations.iter().map(Operation::object).collect();
        let all = groups.iter().find(|(_, all)| all.iter().map(|id| &id.0).eq(&objects));
        match (first, objects.as_slice(), all) {
            (Operation::Reboot, ..) => keys.add("reboot", &true),
            (_, [one], _) => keys.add(first.verb(), one),
            (_, _, Some((group, _))) => keys.add(first.verb(), group),
            (_, several, None) => keys.add(first.verb(), several),
        }
        match first {
            Operation::Resize(_, to) => keys.add("to", to),
            Operation::Fail(_, at, part) => {
                keys.add("at", at);
                keys.unless("parts", &part.of, &1);
                if let Some(number) = part.number {
                    keys.add("part", &number);
                }
            }
            Operation::Online(_, policy) => keys.unless("policy", policy, &super::Policy::default()),
            Operation::Write { data, .. } => keys.add("data", data),
            Operation::Read { offset, length, shows, .. } => {
                if let Some(shows) = shows {
                    keys.add("shows", shows);
                }
                keys.unless("offset", offset, &0);
                if let Some(length) = length {
                    keys.add("length", length);
                }
            }
            _ => {}
        }
    }
    if let Some(barrier) = &step.barrier {
        keys.add("barrier", barrier);
    }
    if let Some(trigger) = &step.after {
        let mut after = Keys::default();
        after.add("step", &trigger.operation);
        after.add("phase", &trigger.phase);
        match trigger.offset {
            Offset::Fixed(us) => after.unless("offset_us", &us, &0),
            Offset::Random(from, to) => after.add("random_us", &[from, to]),
            Offset::Sweep(from, to, by) => after.add("sweep_us", &[from, to, by]),
        }
        keys.0.push(format!("after = {}", after.inline()));
    }
    keys.unless("in_flight", &step.in_flight, &1);
    keys.unless("order", &step.order, &Order::default());
    keys.unless("pause_up_to_ms", &step.pause_up_to_ms, &0);
    keys.unless("expect", &step.expect, &super::Expect::default());
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_as_the_same() {
        for path in crate::scenario::shipped() {
            let (scenario, _) = Scenario::read(&path).unwrap();
            if scenario.random.is_some() {
                continue;
            }
            let text = scenario.to_toml();
            let again = Scenario::parse(&path.display().to_string(), &text);
            assert_eq!(again.unwrap_or_else(|e| panic!("{e}\n{text}")), scenario, "{text}");
        }
    }

    #[test]
    fn programs_are_written_with_their_loads_and_steps() {
        let (file, text) = super::super::SAMPLE;
        let programs = r#"
[[program]]
name = "selftest"
files = "tests"
run = ["./run.sh", "-v"]
env = { LANG = "C" }
cpus = [0]
limit_s = 20

[[lane]]
name = "own"
steps = [{ program = "selftest", expect = "any" }]
"#;
        let load = "[guest]\nrootfs = \"root.tar\"\nload = [{ kind = \"program\", program = \"selftest\", workers = 2, expect = \"done\" }]\n";
        let own = text.find("[guest]").unwrap();
        let end = own + text[own..].find("\n[[").unwrap();
        let text = format!("{}{load}{}{programs}", &text[..own], &text[end..]);
        let scenario = Scenario::parse(file, &text).unwrap();
        assert!(scenario.guest.load[0].must_succeed);
        assert_eq!(scenario.guest.load[0].program, scenario.program("selftest"));
        assert_eq!(Scenario::parse(file, &scenario.to_toml()).unwrap(), scenario, "{}", scenario.to_toml());
    }

    #[test]
    fn some_devices_of_a_group_are_a_list() {
        let (file, text) = super::super::SAMPLE;
        let mut scenario = Scenario::parse(file, text).unwrap();
        scenario.about = "a \"quoted\" \\ \u{7f} thing".into();
        scenario.lanes[0].steps[0].operations.swap(1, 2);
        scenario.lanes[0].steps[1].operations.remove(0);
        let text = scenario.to_toml();
        assert!(text.contains(r#"plug = ["dimm0", "dimm2", "dimm1", "dimm3"]"#), "{text}");
        assert_eq!(Scenario::parse(file, &text).unwrap(), scenario, "{text}");
    }
}

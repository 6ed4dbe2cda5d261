//! What a scenario must be beyond its syntax: devices exist, fit the machine, and are only moved legally.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Device, DeviceId, File, Lane, LaneTable, Machine, Scenario, Step, StepTable, Verb};
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

pub(super) fn check(name: String, file: File) -> Result<Scenario, Wrong> {
    if *file.trials.get_ref() == 0 {
        return Err(Wrong::new(file.trials.span(), "no trials, no verdict", "trials = 6 or more"));
    }
    let (groups, devices) = devices(&file)?;
    let mut lanes = Vec::new();
    let mut owner: BTreeMap<DeviceId, String> = BTreeMap::new();
    for table in &file.lane {
        let lane = lane(table.get_ref(), &groups)?;
        for id in lane.steps.iter().flat_map(|step| &step.devices) {
            let first = owner.entry(id.clone()).or_insert_with(|| lane.name.clone());
            if *first != lane.name {
                let what = format!("`{id}` is moved by two lanes, `{first}` and `{}`", lane.name);
                return Err(Wrong::new(table.span(), what, "give each lane devices of its own"));
            }
        }
        lanes.push(lane);
    }
    Ok(Scenario {
        name,
        about: file.about,
        trials: file.trials.into_inner(),
        machine: file.machine.into_inner(),
        guest: file.guest,
        devices,
        lanes,
    })
}

fn devices(file: &File) -> Result<(Groups, BTreeMap<DeviceId, Device>), Wrong> {
    let machine = file.machine.get_ref();
    let at = || file.machine.span();
    if machine.cpus == 0 || machine.cpus > machine.max_cpus {
        return Err(Wrong::new(at(), "cpus must be at least 1 and at most max_cpus", "raise max_cpus"));
    }
    let mut groups = Groups::new();
    let mut devices = BTreeMap::new();
    let mut add = |name: &toml::Spanned<String>, count: u32, device: Device| {
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
        devices.extend(ids.into_iter().map(|id| (id, device)));
        Ok(())
    };
    let (mut memory, mut dimms, mut cpus) = (machine.memory.0, 0, 0);
    for group in &file.dimm {
        let group = group.get_ref();
        let size = *group.size.get_ref();
        if size.0 == 0 || !size.0.is_multiple_of(SECTION.0) {
            let what = format!("a DIMM of {size} is not a multiple of {SECTION}, x86's section size");
            return Err(Wrong::new(group.size.span(), what, "size = \"128M\", \"256M\", ..."));
        }
        add(&group.name, group.count, Device::Dimm { size })?;
        memory = memory.saturating_add(size.0.saturating_mul(group.count.into()));
        dimms += group.count;
    }
    for group in &file.cpu {
        add(&group.get_ref().name, group.get_ref().count, Device::Cpu)?;
        cpus += group.get_ref().count;
    }
    fits(machine, memory, dimms, cpus).map_err(|(what, mend)| Wrong::new(at(), what, mend))?;
    Ok((groups, devices))
}

fn fits(machine: &Machine, memory: u64, dimms: u32, cpus: u32) -> Result<(), (String, String)> {
    if memory > machine.max_memory.0 {
        let all = Bytes(memory);
        return Err((
            format!("all DIMMs together need {all}, max_memory is {}", machine.max_memory),
            format!("max_memory = \"{all}\" or more"),
        ));
    }
    if dimms > machine.slots {
        return Err((
            format!("{dimms} DIMMs need as many slots, the machine has {}", machine.slots),
            format!("slots = {dimms}"),
        ));
    }
    let need = machine.cpus.saturating_add(cpus);
    if need > machine.max_cpus {
        return Err((
            format!("all CPUs together are {need}, max_cpus is {}", machine.max_cpus),
            format!("max_cpus = {need}"),
        ));
    }
    Ok(())
}

fn lane(table: &LaneTable, groups: &Groups) -> Result<Lane, Wrong> {
    let mut plugged = BTreeSet::new();
    let mut steps = Vec::new();
    // Twice: what the first round leaves plugged, the second finds plugged.
    for round in 0..2 {
        for raw in &table.steps {
            let step = step(raw.get_ref(), raw.span(), groups)?;
            for id in &step.devices {
                let legal = match step.verb {
                    Verb::Plug => plugged.insert(id.clone()),
                    Verb::Unplug => plugged.remove(id),
                };
                if !legal {
                    let state = if step.verb == Verb::Plug { "plugged already" } else { "not plugged" };
                    let when = if round == 0 { "" } else { ", in the second round" };
                    let what = format!("`{id}` is {state} at this step{when}");
                    return Err(Wrong::new(raw.span(), what, "plug and unplug in turn"));
                }
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

fn step(table: &StepTable, span: Range<usize>, groups: &Groups) -> Result<Step, Wrong> {
    let (verb, name) = match (&table.plug, &table.unplug) {
        (Some(name), None) => (Verb::Plug, name),
        (None, Some(name)) => (Verb::Unplug, name),
        _ => return Err(Wrong::new(span, "a step is one of plug or unplug", "{ plug = \"dimm\" }")),
    };
    let wanted = name.get_ref();
    let one = || groups.values().flatten().find(|id| id.0 == *wanted).map(|id| vec![id.clone()]);
    let devices = groups.get(wanted).cloned().or_else(one).ok_or_else(|| {
        let known = groups.keys().cloned().collect::<Vec<_>>().join(", ");
        let what = format!("no device or group is called `{wanted}`");
        Wrong::new(name.span(), what, format!("declare it, or use one of: {known}"))
    })?;
    let in_flight = table.in_flight.as_ref().map_or(1, |n| *n.get_ref());
    if in_flight == 0 {
        let span = table.in_flight.as_ref().map_or(span, toml::Spanned::span);
        return Err(Wrong::new(span, "with no request in flight nothing happens", "in_flight = 1 or more"));
    }
    Ok(Step { verb, devices, in_flight, order: table.order, pause_up_to_ms: table.pause_up_to_ms })
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
    }
}

//! Checks of one step: it does one thing, to devices that exist.

use std::ops::Range;

use toml::Spanned;

use super::{Devices, Groups};
use crate::device::{Device, DeviceId, Presence};
use crate::fault::Fault;
use crate::scenario::file::{AfterTable, Names, StepTable};
use crate::scenario::{FailAt, Offset, Operation, Part, Place, Step, Trigger};

pub(super) fn step(raw: &Spanned<StepTable>, groups: &Groups, devices: &Devices) -> Result<Step, Fault> {
    let table = raw.get_ref();
    let operations = operations(raw, groups, devices)?;
    let in_flight = table.in_flight.as_ref().map_or(1, |n| *n.get_ref());
    if in_flight == 0 {
        let span = table.in_flight.as_ref().map_or(raw.span(), Spanned::span);
        return Err(Fault::new(span, "a step needs at least one request in flight", "in_flight = 1 or more"));
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

/// The operations of a step. At most one of its keys names an operation.
fn operations(raw: &Spanned<StepTable>, groups: &Groups, devices: &Devices) -> Result<Vec<Operation>, Fault> {
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
        table.fail.is_some(),
        table.program.is_some(),
        reboot.is_some(),
    ];
    let several = verbs.iter().filter(|given| **given).count();
    if several > 1 || several == 0 && table.barrier.is_none() && table.after.is_none() {
        let what = "a step does one thing: plug, unplug, resize, online, offline, write, read, fail, program or reboot";
        return Err(Fault::new(raw.span(), what, "{ plug = \"dimm\" }"));
    }
    let belongs = |given: bool, key: &str, verb: &str, there: bool| {
        let what = format!("`{key}` belongs to a step that does {verb}");
        if given && !there { Err(Fault::new(raw.span(), what, format!("leave `{key}` out"))) } else { Ok(()) }
    };
    belongs(table.to.is_some(), "to", "resize", table.resize.is_some())?;
    belongs(table.at.is_some(), "at", "fail", table.fail.is_some())?;
    belongs(table.parts.is_some() || table.part.is_some(), "parts", "fail", table.fail.is_some())?;
    belongs(table.policy.is_some(), "policy", "online", table.online.is_some())?;
    belongs(table.data.is_some(), "data", "write", table.write.is_some())?;
    belongs(table.shows.is_some(), "shows", "read", table.read.is_some())?;
    belongs(table.offset.is_some() || table.length.is_some(), "offset", "read", table.read.is_some())?;
    let of = |name: &Spanned<Names>, fits: fn(&Device) -> bool, kind: &str| {
        let ids = members(name, groups)?;
        match ids.iter().find(|id| !devices.get(*id).is_some_and(fits)) {
            Some(id) => Err(Fault::new(name.span(), format!("`{id}` is not {kind}"), "name another device")),
            None => Ok(ids),
        }
    };
    let comes = |device: &Device| device.presence() != Presence::Resized;
    if let Some(name) = &table.plug {
        return Ok(of(name, comes, "a device that can be plugged")?
            .into_iter()
            .map(Operation::Plug)
            .collect());
    }
    if let Some(name) = &table.unplug {
        return Ok(of(name, comes, "a device that can be unplugged")?
            .into_iter()
            .map(Operation::Unplug)
            .collect());
    }
    if let Some(name) = &table.resize {
        let ids = of(name, |device| device.presence() == Presence::Resized, "a virtio-mem device")?;
        let Some(to) = &table.to else {
            return Err(Fault::new(raw.span(), "a resize needs a size", "to = \"256M\""));
        };
        for id in &ids {
            if let Some((block, most)) = devices.get(id).and_then(|device| device.sizes())
                && (*to.get_ref() > most || !to.get_ref().0.is_multiple_of(block.0))
            {
                let what = format!("`{id}` provides multiples of {block} up to {most}");
                return Err(Fault::new(to.span(), what, "give another size"));
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
            Err(Fault::new(path.span(), "a path in the guest is absolute", "begin the path with /"))
        }
    };
    if let Some(path) = &table.write {
        let Some(data) = &table.data else {
            return Err(Fault::new(raw.span(), "a write needs data", "data = \"1\""));
        };
        return Ok(vec![Operation::Write { path: absolute(path)?, data: data.get_ref().clone() }]);
    }
    if let Some(path) = &table.read {
        let (offset, length, shows) = (table.offset.unwrap_or(0), table.length, shows(table)?);
        return Ok(vec![Operation::Read { path: absolute(path)?, offset, length, shows }]);
    }
    if let Some(name) = &table.fail {
        return failures(raw, places(name, groups)?, name.span(), devices);
    }
    if let Some(name) = &table.program {
        return Ok(vec![Operation::Program(name.get_ref().clone())]);
    }
    Ok(reboot.map(|_| Operation::Reboot).into_iter().collect())
}

/// The regular expression that the content of a read must match.
fn shows(table: &StepTable) -> Result<Option<String>, Fault> {
    let Some(shows) = &table.shows else { return Ok(None) };
    match regex::Regex::new(shows.get_ref()) {
        Ok(_) => Ok(Some(shows.get_ref().clone())),
        Err(error) => {
            let what = format!("`shows` is no regular expression: {error}");
            Err(Fault::new(shows.span(), what, "shows = \"[1-9]\""))
        }
    }
}

/// The failures on purpose of a step at these places, which its text has at `span`.
fn failures(
    raw: &Spanned<StepTable>,
    places: Vec<Place>,
    span: Range<usize>,
    devices: &Devices,
) -> Result<Vec<Operation>, Fault> {
    let table = raw.get_ref();
    let Some(at) = &table.at else {
        let what = "a step that fails on purpose names what fails";
        return Err(Fault::new(raw.span(), what, "at = \"states\", \"allocations\" or \"notifiers\""));
    };
    let is_cpu = |place: &Place| match place {
        Place::Cpu(_) => true,
        Place::Block(_) => false,
        Place::Device(id) => devices.get(id).is_some_and(|device| device.cpu_slot().is_some()),
    };
    let (needed, kind) = match at.get_ref() {
        FailAt::States => (Some(true), "only a CPU has states"),
        FailAt::Notifiers => (Some(false), "only memory has notifiers that fail"),
        FailAt::Allocations => (None, ""),
    };
    if places.iter().any(|place| needed.is_some_and(|cpu| is_cpu(place) != cpu)) {
        return Err(Fault::new(span, kind, "name another place, or at = \"allocations\""));
    }
    let of = table.parts.as_ref().map_or(1, |parts| *parts.get_ref());
    let number = table.part.as_ref().map(|part| *part.get_ref());
    if of == 0 || number.is_some_and(|number| number >= of) {
        let what = "there is at least one part, and parts are numbered from 0";
        return Err(Fault::new(raw.span(), what, "parts = 4"));
    }
    let part = Part { number, of };
    Ok(places.into_iter().map(|place| Operation::Fail(place, *at.get_ref(), part)).collect())
}

/// The devices that `names` lists: the members of groups, and single devices.
fn members(names: &Spanned<Names>, groups: &Groups) -> Result<Vec<DeviceId>, Fault> {
    let each = names.get_ref().all().iter().map(|name| named(name, names.span(), groups));
    Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
}

/// A group's members, or one device.
fn named(wanted: &str, span: Range<usize>, groups: &Groups) -> Result<Vec<DeviceId>, Fault> {
    let one = || groups.values().flatten().find(|id| id.0 == wanted).map(|id| vec![id.clone()]);
    groups.get(wanted).cloned().or_else(one).ok_or_else(|| {
        let known = groups.keys().cloned().collect::<Vec<_>>().join(", ");
        let what = format!("no device or group is called `{wanted}`");
        Fault::new(span, what, format!("declare it, or use one of: {known}"))
    })
}

/// The places that `names` lists: `memory:3`, `cpu:1`, or devices.
fn places(names: &Spanned<Names>, groups: &Groups) -> Result<Vec<Place>, Fault> {
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
                return Err(Fault::new(names.span(), what, "memory:3"));
            }
            None => places.extend(named(name, names.span(), groups)?.into_iter().map(Place::Device)),
        }
    }
    Ok(places)
}

fn trigger(table: &Spanned<AfterTable>) -> Result<Trigger, Fault> {
    let raw = table.get_ref();
    let wrong = |what: &str, help: &str| Err(Fault::new(table.span(), what, help));
    let offset = match (raw.offset_us, raw.random_us, raw.sweep_us) {
        (fixed, None, None) => Offset::Fixed(fixed.unwrap_or(0)),
        (None, Some([from, to]), None) if from <= to => Offset::Random(from, to),
        (None, None, Some([from, to, step])) if from <= to && step > 0 => Offset::Sweep(from, to, step),
        (None, _, None) => return wrong("the second time is before the first", "random_us = [0, 5000]"),
        (None, None, _) => {
            return wrong("a sweep goes up, in steps of at least 1", "sweep_us = [0, 5000, 250]");
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

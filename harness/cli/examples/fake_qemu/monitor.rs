//! The monitor, and the reactions of the guest to its commands, which are immediate.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use hotplug_protocol::AgentEvent;
use serde_json::{Value, json};

use crate::fault::{Moment, strike};
use crate::guest::{Dimm, Guest};
use crate::script::{Course, When, meet};

/// The sources of an `_OST`: a device check, an ejection.
const INSERTION: u32 = 1;
const EJECTION: u32 = 3;
/// `ACPI_OST_SC_EJECT_IN_PROGRESS`.
const IN_PROGRESS: u32 = 0x84;

/// Sends the greeting and executes commands until the connection closes.
pub(crate) fn serve(guest: &Guest, monitor: UnixStream) -> io::Result<()> {
    strike(guest, if guest.restored { Moment::Start } else { Moment::Boot })?;
    let version = json!({ "qemu": { "micro": 2, "minor": 0, "major": 10 }, "package": "fake" });
    let greeting = json!({ "QMP": { "version": version, "capabilities": ["oob"] } });
    // This fails if a fault has closed the connection.
    let _ = guest.monitor().write_all(format!("{greeting}\n").as_bytes());
    let mut is_booted = false;
    for line in BufReader::new(monitor).lines() {
        // An error means that the other end of a socket is gone, or that a fault has closed it.
        let Ok(line) = line else { break };
        if obey(guest, &serde_json::from_str(&line)?).is_err() {
            break;
        }
        // A boot takes longer than the negotiation of the monitor.
        if !std::mem::replace(&mut is_booted, true) {
            guest.boot()?;
        }
    }
    Ok(())
}

fn obey(guest: &Guest, message: &Value) -> io::Result<()> {
    let reply = |value: Value| -> io::Result<()> {
        let mut reply = value;
        reply["id"] = message["id"].clone();
        guest.monitor().write_all(format!("{reply}\n").as_bytes())
    };
    let done = |value: Value| reply(json!({ "return": value }));
    let refuse = |what: &str| reply(json!({ "error": { "class": "GenericError", "desc": what } }));
    let arguments = &message["arguments"];
    let text = |key: &str| arguments[key].as_str().unwrap_or_default();
    match message["execute"].as_str().unwrap_or_default() {
        "qmp_capabilities" | "migrate-set-capabilities" | "stop" | "inject-nmi" => done(json!({})),
        "set-action" => {
            if text("shutdown") == "pause" {
                guest.stay();
            }
            done(json!({}))
        }
        "dump-guest-memory" => {
            let path = text("protocol").trim_start_matches("file:");
            std::fs::write(path, "KDUMP   of the fake")?;
            done(json!({}))?;
            guest.event("DUMP_COMPLETED", &json!({ "result": { "status": "completed" } }))
        }
        "human-monitor-command" if text("command-line").starts_with("gdbserver ") => done(json!("")),
        "query-chardev" => {
            let filename = "disconnected:tcp:127.0.0.1:40001,server=on";
            done(json!([{ "label": "gdb", "filename": filename, "frontend-open": true }]))
        }
        "quit" => {
            done(json!({}))?;
            std::process::exit(0)
        }
        "migrate" => done(json!({})).and_then(|()| migrated(guest)),
        "migrate-incoming" => {
            done(json!({}))?;
            strike(guest, Moment::Restore)?;
            migrated(guest)
        }
        "cont" => guest.event("RESUME", &Value::Null).and_then(|()| done(json!({}))),
        "object-add" => {
            let size = arguments["size"].as_u64().unwrap_or(0);
            guest.books().backends.push((text("id").into(), size));
            done(json!({}))
        }
        "object-del" => {
            guest.books().backends.retain(|(id, _)| id != text("id"));
            done(json!({}))
        }
        "query-hotpluggable-cpus" => done(cpus(guest)),
        "query-memory-devices" => done(dimms(guest)),
        "device_add" if text("driver") == "pc-dimm" => {
            let dimm = guest.books().plug_dimm(text("id"), text("memdev"));
            let Some(dimm) = dimm else { return refuse("no such memory backend") };
            done(json!({}))?;
            strike(guest, Moment::Accepted)?;
            dimm_came(guest, &dimm)
        }
        "device_add" => {
            let slot = arguments["core-id"].as_u64().and_then(|slot| usize::try_from(slot).ok());
            let Some(slot) = slot.filter(|slot| guest.books().cpus.get(*slot).is_some_and(Option::is_none))
            else {
                return refuse("no such CPU, or it is already plugged");
            };
            guest.books().cpus[slot] = Some(text("id").into());
            done(json!({}))?;
            strike(guest, Moment::Accepted)?;
            cpu_came(guest, slot, text("id"))
        }
        "device_del" => {
            let dimm = guest.books().dimms.iter().find(|dimm| dimm.id == text("id")).cloned();
            let slot = guest.books().cpus.iter().position(|cpu| cpu.as_deref() == Some(text("id")));
            match (dimm, slot) {
                (Some(dimm), _) => done(json!({})).and_then(|()| dimm_goes(guest, &dimm)),
                (None, Some(slot)) => done(json!({})).and_then(|()| cpu_goes(guest, slot, text("id"))),
                (None, None) => refuse("no such device"),
            }
        }
        other => refuse(&format!("the fake does not implement {other}")),
    }
}

fn migrated(guest: &Guest) -> io::Result<()> {
    ["setup", "active", "completed"]
        .iter()
        .try_for_each(|status| guest.event("MIGRATION", &json!({ "status": status })))
}

fn cpus(guest: &Guest) -> Value {
    let books = guest.books();
    // QEMU lists the slots from the last to the first.
    let all = books.cpus.iter().enumerate().rev().map(|(slot, cpu)| {
        let props = json!({ "core-id": slot, "thread-id": 0, "node-id": 0, "socket-id": 0 });
        let mut entry = json!({ "props": props, "vcpus-count": 1, "type": "max-x86_64-cpu" });
        if let Some(id) = cpu {
            entry["qom-path"] = format!("/machine/peripheral/{id}").into();
        }
        entry
    });
    all.collect()
}

fn dimms(guest: &Guest) -> Value {
    let books = guest.books();
    let all = books.dimms.iter().map(|dimm| {
        let data = json!({
            "memdev": format!("/objects/{}", dimm.memdev), "hotplugged": true, "hotpluggable": true,
            "addr": dimm.address, "size": dimm.size, "slot": dimm.slot, "node": 0, "id": dimm.id,
        });
        json!({ "type": "dimm", "data": data })
    });
    all.collect()
}

/// Sends an `_OST`. It does not name a device that is gone.
fn ost(
    guest: &Guest,
    kind: &str,
    slot: usize,
    device: Option<&str>,
    source: u32,
    status: u32,
) -> io::Result<()> {
    let mut info = json!({ "source": source, "status": status, "slot": slot.to_string(), "slot-type": kind });
    if let Some(device) = device {
        info["device"] = device.into();
    }
    guest.event("ACPI_DEVICE_OST", &json!({ "info": info }))
}

fn dimm_came(guest: &Guest, dimm: &Dimm) -> io::Result<()> {
    if meet(guest, When::PlugDimm)? == Course::Hangs {
        return Ok(());
    }
    for block in dimm.blocks() {
        let devpath = format!("/devices/system/memory/memory{block}");
        guest.uevent("add", &devpath)?;
        guest.uevent("online", &devpath)?;
    }
    guest.record(6, "Built 1 zonelists, mobility grouping on.  Total pages: 1")?;
    ost(guest, "DIMM", dimm.slot, Some(&dimm.id), INSERTION, 0)
}

fn dimm_goes(guest: &Guest, dimm: &Dimm) -> io::Result<()> {
    ost(guest, "DIMM", dimm.slot, Some(&dimm.id), EJECTION, IN_PROGRESS)?;
    if meet(guest, When::UnplugDimm)? == Course::Hangs {
        return Ok(());
    }
    guest.books().dimms.retain(|other| other.id != dimm.id);
    for block in dimm.blocks() {
        let devpath = format!("/devices/system/memory/memory{block}");
        guest.uevent("offline", &devpath)?;
        guest.uevent("remove", &devpath)?;
    }
    let path = format!("/machine/peripheral/{}", dimm.id);
    guest.event("DEVICE_DELETED", &json!({ "device": dimm.id, "path": path }))?;
    ost(guest, "DIMM", dimm.slot, None, EJECTION, 0)
}

fn cpu_came(guest: &Guest, slot: usize, id: &str) -> io::Result<()> {
    if meet(guest, When::PlugCpu)? == Course::Hangs {
        return Ok(());
    }
    ost(guest, "CPU", slot, Some(id), INSERTION, 0)?;
    let devpath = format!("/devices/system/cpu/cpu{slot}");
    guest.uevent("add", &devpath)?;
    guest.record(6, &format!("Will online and init hotplugged CPU: {slot}"))?;
    guest.uevent("online", &devpath)?;
    guest.say(AgentEvent::CpuOnline { cpu: u32::try_from(slot).unwrap_or(u32::MAX), errno: 0 })
}

fn cpu_goes(guest: &Guest, slot: usize, id: &str) -> io::Result<()> {
    ost(guest, "CPU", slot, Some(id), EJECTION, IN_PROGRESS)?;
    if meet(guest, When::UnplugCpu)? == Course::Hangs {
        return Ok(());
    }
    guest.books().cpus[slot] = None;
    let devpath = format!("/devices/system/cpu/cpu{slot}");
    guest.uevent("offline", &devpath)?;
    guest.record(6, &format!("smpboot: CPU {slot} is now offline"))?;
    guest.uevent("remove", &devpath)?;
    // QEMU sends this event for the local APIC only.
    guest.event("DEVICE_DELETED", &json!({ "path": format!("/machine/peripheral/{id}/lapic") }))?;
    ost(guest, "CPU", slot, None, EJECTION, 0)
}

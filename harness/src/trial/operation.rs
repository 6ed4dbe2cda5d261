//! One operation, from its request to its end: what QEMU accepted, what the guest did, whether it adds up.

use std::time::Duration;

use qapi::qmp::{ACPI_DEVICE_OST, ACPIOSTInfo, ACPISlotType};
use serde::{Deserialize, Serialize};

use super::accounting::{Ledger, Mismatch, Resource};
use super::outcome::Outcome;
use super::vm::Vm;
use crate::Result;
use crate::bytes::Bytes;
use crate::journal::{Happening, HostTime, Listener};
use crate::qmp::QmpError;
use crate::qmp::hotplug::DimmPlace;
use crate::scenario::{Device, DeviceId, Verb};

/// An operation that neither ends nor is refused for this long has hung. Longer than the kernel's own limits, so that
/// a hung task or a stall is reported by the guest before we give up on it (see `kernel_arguments`).
pub(super) const DEADLINE: Duration = Duration::from_secs(75);

/// ACPI 6.5, 6.3.5 _OST: the source of an insertion's status is the notification it answers.
const OST_INSERTION: [i64; 2] = [0, 1];
/// The source of an ejection's status (`ACPI_NOTIFY_EJECT_REQUEST`, include/acpi/actypes.h).
const OST_EJECTION: i64 = 3;
/// `ACPI_OST_SC_SUCCESS` (include/linux/acpi.h).
const OST_SUCCESS: i64 = 0;
/// In progress: `ACPI_OST_SC_EJECT_IN_PROGRESS`, `ACPI_OST_SC_INSERT_IN_PROGRESS`.
const OST_IN_PROGRESS: [i64; 2] = [0x84, 0x80];

/// One operation of a trial, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// The lane it belongs to.
    pub lane: String,
    /// What was done.
    pub verb: Verb,
    /// To whom.
    pub device: DeviceId,
    /// When the request was sent.
    pub asked: HostTime,
    /// When QEMU accepted it.
    pub accepted: Option<HostTime>,
    /// When it ended.
    pub ended: Option<HostTime>,
    /// What came of it.
    pub outcome: Outcome,
}

/// One device of a trial and where it lives while it is plugged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) id: &'a DeviceId,
    pub(super) device: Device,
    /// The ACPI slot of a CPU; DIMMs get theirs from QEMU.
    pub(super) cpu_slot: u32,
}

impl Target<'_> {
    fn resource(&self) -> Resource {
        match self.device {
            Device::Dimm { .. } => Resource::Memory,
            Device::Cpu => Resource::Cpus,
        }
    }

    /// How much more of its resource the guest has once it is plugged: bytes, or CPUs.
    fn amount(&self) -> i64 {
        match self.device {
            Device::Dimm { size: Bytes(bytes) } => bytes.cast_signed(),
            Device::Cpu => 1,
        }
    }
}

/// Performs one operation and checks the guest's accounts. `accepted` is called when QEMU has taken the request.
pub(super) async fn perform(
    vm: &Vm,
    ledger: &Ledger,
    verb: Verb,
    target: Target<'_>,
    accepted: impl FnOnce(),
) -> Result<(Outcome, Vec<Mismatch>)> {
    let resource = target.resource();
    ledger.begin(resource);
    let end = tokio::time::timeout(DEADLINE, until_end(vm, verb, target, accepted)).await;
    let (outcome, place) = match end {
        Ok(end) => end?,
        Err(_) => (Outcome::TimedOut, None),
    };
    let change = match (&outcome, verb) {
        (Outcome::Done, Verb::Plug) => Some(target.amount()),
        (Outcome::Done, Verb::Unplug) => Some(-target.amount()),
        (Outcome::RefusedByGuest { .. }, Verb::Unplug) | (Outcome::FailedInQemu { .. }, _) => Some(0),
        // After a refused insertion the device is in QEMU and not in the guest; who knows what half of it is.
        (Outcome::RefusedByGuest { .. }, Verb::Plug) | (Outcome::TimedOut | Outcome::CutOff, _) => None,
    };
    ledger.end(resource, change);
    if outcome == Outcome::TimedOut || outcome == Outcome::CutOff {
        return Ok((outcome, Vec::new()));
    }
    let quiet = ledger.before_snapshot();
    // A guest that hangs here is found by its next operation, or by the trial's last question.
    let Ok(Ok(now)) = tokio::time::timeout(DEADLINE, vm.agent.snapshot()).await else {
        return Ok((Outcome::TimedOut, Vec::new()));
    };
    let own = match place {
        Some(place) if outcome == Outcome::Done => place.blocks(ledger.block_bytes),
        _ => 0..0,
    };
    let at = vm.journal.now();
    let after = format!("{verb} {}", target.id);
    let wrong = ledger.check(quiet, &now, own, verb == Verb::Plug);
    Ok((outcome, wrong.into_iter().map(|what| Mismatch { at, after: after.clone(), what }).collect()))
}

async fn until_end(
    vm: &Vm,
    verb: Verb,
    target: Target<'_>,
    accepted: impl FnOnce(),
) -> Result<(Outcome, Option<DimmPlace>)> {
    // Listening starts before the request, so that no answer can slip through.
    let heard = vm.journal.listen();
    let (request, place) = match (verb, target.device) {
        (Verb::Plug, Device::Dimm { size }) => match vm.qmp.plug_dimm(target.id, size).await {
            Ok(()) => split(vm.qmp.dimm_place(target.id).await),
            Err(error) => (Err(error), None),
        },
        (Verb::Unplug, Device::Dimm { .. }) => match vm.qmp.dimm_place(target.id).await {
            Ok(place) => (vm.qmp.unplug(target.id).await, Some(place)),
            Err(error) => (Err(error), None),
        },
        (Verb::Plug, Device::Cpu) => (plug_cpu(vm, target).await, None),
        (Verb::Unplug, Device::Cpu) => (vm.qmp.unplug(target.id).await, None),
    };
    match request {
        Ok(()) => accepted(),
        Err(QmpError::Gone(_)) => return Ok((Outcome::CutOff, place)),
        Err(error) => return Ok((Outcome::FailedInQemu { error: error.to_string() }, place)),
    }
    let outcome = match (verb, place) {
        (Verb::Plug, Some(place)) => inserted(heard, ACPISlotType::DIMM, place.slot, true).await?,
        (Verb::Plug, None) => inserted(heard, ACPISlotType::CPU, target.cpu_slot, false).await?,
        (Verb::Unplug, Some(place)) => ejected(vm, heard, target, ACPISlotType::DIMM, place.slot).await?,
        (Verb::Unplug, None) => ejected(vm, heard, target, ACPISlotType::CPU, target.cpu_slot).await?,
    };
    if outcome == Outcome::Done && verb == Verb::Unplug && place.is_some() {
        match vm.qmp.remove_backend(target.id).await {
            Ok(()) => {}
            Err(QmpError::Gone(_)) => return Ok((Outcome::CutOff, place)),
            Err(error) => return Ok((Outcome::FailedInQemu { error: error.to_string() }, place)),
        }
    }
    Ok((outcome, place))
}

fn split<T>(place: Result<T, QmpError>) -> (Result<(), QmpError>, Option<T>) {
    match place {
        Ok(place) => (Ok(()), Some(place)),
        Err(error) => (Err(error), None),
    }
}

async fn plug_cpu(vm: &Vm, target: Target<'_>) -> Result<(), QmpError> {
    let slots = vm.qmp.cpu_slots().await?;
    match slots.iter().find(|slot| slot.slot == target.cpu_slot) {
        Some(slot) if slot.is_free() => vm.qmp.plug_cpu(target.id, slot).await,
        _ => Err(QmpError::Refused {
            class: "harness".into(),
            desc: format!("CPU slot {} is taken", target.cpu_slot),
        }),
    }
}

/// Waits until the guest has taken a device in. For a CPU, `_OST` comes when it is present; it is done when the agent
/// has brought it online. Memory comes online before its `_OST` (`add_memory_resource`).
async fn inserted(mut heard: Listener, kind: ACPISlotType, slot: u32, online: bool) -> Result<Outcome> {
    let (mut present, mut online) = (false, online);
    loop {
        let stamped = heard.next().await?;
        if let Some(ost) = status_of(&stamped.what, kind, slot)
            && OST_INSERTION.contains(&ost.source)
        {
            if ost.status == OST_SUCCESS {
                present = true;
            } else if !OST_IN_PROGRESS.contains(&ost.status) {
                return Ok(refused(ost.status));
            }
        }
        if let Happening::CpuReady { slot: ready, errno, .. } = stamped.what
            && ready == slot
            && kind == ACPISlotType::CPU
        {
            if errno != 0 {
                let name = nix::errno::Errno::from_raw(errno);
                return Ok(Outcome::RefusedByGuest { how: format!("bringing it online failed with {name}") });
            }
            online = true;
        }
        if present && online {
            return Ok(Outcome::Done);
        }
    }
}

/// Waits until a device is gone, or the guest has refused to give it.
async fn ejected(
    vm: &Vm,
    mut heard: Listener,
    target: Target<'_>,
    kind: ACPISlotType,
    slot: u32,
) -> Result<Outcome> {
    loop {
        let stamped = heard.next().await?;
        if let Happening::Qmp { event, data } = &stamped.what {
            let ours = data["device"].as_str() == Some(&target.id.0);
            match event.as_str() {
                "DEVICE_DELETED" if ours => return Ok(Outcome::Done),
                "DEVICE_UNPLUG_GUEST_ERROR" | "MEM_UNPLUG_ERROR" if ours => {
                    let how =
                        data["msg"].as_str().map_or_else(|| event.clone(), |msg| format!("{event}: {msg}"));
                    return Ok(Outcome::RefusedByGuest { how });
                }
                _ => {}
            }
        }
        if let Some(ost) = status_of(&stamped.what, kind, slot)
            && ost.source == OST_EJECTION
        {
            if ost.status == OST_SUCCESS && kind == ACPISlotType::CPU {
                // Some QEMUs report only the CPU's APIC as deleted; the slot tells.
                let free = vm
                    .qmp
                    .cpu_slots()
                    .await
                    .is_ok_and(|all| all.iter().any(|s| s.slot == slot && s.is_free()));
                if free {
                    return Ok(Outcome::Done);
                }
            } else if ost.status != OST_SUCCESS && !OST_IN_PROGRESS.contains(&ost.status) {
                return Ok(refused(ost.status));
            }
        }
    }
}

fn refused(status: i64) -> Outcome {
    Outcome::RefusedByGuest { how: format!("_OST status {status:#x}") }
}

/// The `_OST` that a happening carries, if it is about this slot. Its `device` is missing once the device is gone.
fn status_of(what: &Happening, kind: ACPISlotType, slot: u32) -> Option<ACPIOSTInfo> {
    match what {
        Happening::Qmp { event, data } if event == "ACPI_DEVICE_OST" => {
            let ost: ACPI_DEVICE_OST = serde_json::from_value(data.clone()).ok()?;
            (ost.info.slot_type == kind && ost.info.slot == slot.to_string()).then_some(ost.info)
        }
        _ => None,
    }
}

//! The typed events of QEMU, parsed from QMP's JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::qmp::commands::{AcpiDeviceOst, AcpiOst};
use crate::bytes::Bytes;

/// ACPI 6.5, 6.3.5 _OST: the source of an insertion's status is the notification that it answers.
const OST_INSERTION: [i64; 2] = [0, 1];
/// The source of an ejection's status (`ACPI_NOTIFY_EJECT_REQUEST`, include/acpi/actypes.h).
const OST_EJECTION: i64 = 3;
/// `ACPI_OST_SC_SUCCESS` (include/linux/acpi.h).
const OST_SUCCESS: i64 = 0;
/// In progress: `ACPI_OST_SC_EJECT_IN_PROGRESS`, `ACPI_OST_SC_INSERT_IN_PROGRESS`.
const OST_IN_PROGRESS: [i64; 2] = [0x84, 0x80];

/// An asynchronous event of QEMU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmmEvent {
    /// A device has left the machine (`DEVICE_DELETED`).
    Gone {
        /// Its id.
        device: String,
    },
    /// The guest does not release a device (`DEVICE_UNPLUG_GUEST_ERROR`, `MEM_UNPLUG_ERROR`).
    Refused {
        /// Its id.
        device: String,
        /// The event, and QEMU's message if it has one.
        reason: String,
    },
    /// The firmware passes on the guest's acknowledgement of a request (`ACPI_DEVICE_OST`).
    Acknowledged(Acknowledgement),
    /// A virtio-mem device provides another amount of memory (`MEMORY_DEVICE_SIZE_CHANGE`).
    Resized {
        /// Its id.
        device: String,
        /// The amount.
        size: Bytes,
    },
    /// The guest shut down, or reset itself while a reset counts as that (`SHUTDOWN`).
    ShutDown,
    /// A dump of the guest's memory ended (`DUMP_COMPLETED`).
    Dumped {
        /// QEMU's message if it failed.
        error: Option<String>,
    },
    /// All vCPUs stopped, and guest time with them (`STOP`).
    Stopped,
    /// All vCPUs run again (`RESUME`).
    Resumed,
    /// A migration changed its state (`MIGRATION`).
    Migration {
        /// The state, such as `completed`.
        status: String,
    },
    /// Any other event, known or not.
    Other {
        /// Its name.
        name: String,
        /// Its data, or null.
        data: Value,
    },
}

/// An acknowledgement of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The device's slot.
    pub slot: AcknowledgedSlot,
    /// The request that is acknowledged.
    pub request: AcknowledgedRequest,
    /// The guest's progress with it.
    pub status: AcknowledgedStatus,
}

/// A slot, as the firmware numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcknowledgedSlot {
    /// A slot of a DIMM.
    Memory(u32),
    /// A slot of a CPU.
    Cpu(u32),
}

/// A request that the guest acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcknowledgedRequest {
    /// To add a device.
    Insertion,
    /// To release a device.
    Ejection,
    /// Another request, with the source event code of its `_OST`.
    Other(i64),
}

/// The guest's progress with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcknowledgedStatus {
    /// It is done.
    Success,
    /// The guest has received it.
    InProgress,
    /// The guest failed or refused, with this `_OST` status.
    Failed(i64),
}

impl VmmEvent {
    /// Parses the event that has QMP's `name` and `data`. An event that lacks a required member
    /// becomes [`VmmEvent::Other`].
    pub(crate) fn of_qmp(name: &str, data: Value) -> Self {
        let text = |key: &str| data[key].as_str().map(str::to_owned);
        let known = match name {
            "DEVICE_DELETED" => text("device").map(|device| Self::Gone { device }),
            "DEVICE_UNPLUG_GUEST_ERROR" | "MEM_UNPLUG_ERROR" => text("device").map(|device| {
                let reason = text("msg").map_or_else(|| name.to_owned(), |msg| format!("{name}: {msg}"));
                Self::Refused { device, reason }
            }),
            "ACPI_DEVICE_OST" => serde_json::from_value::<AcpiDeviceOst>(data.clone())
                .ok()
                .and_then(|ost| Acknowledgement::of_ost(&ost.info))
                .map(Self::Acknowledged),
            "MEMORY_DEVICE_SIZE_CHANGE" => text("id")
                .zip(data["size"].as_u64())
                .map(|(device, size)| Self::Resized { device, size: Bytes(size) }),
            "SHUTDOWN" => Some(Self::ShutDown),
            "DUMP_COMPLETED" => {
                let failed = data["result"]["status"] != "completed";
                let error = || text("error").unwrap_or_else(|| "the dump failed".into());
                Some(Self::Dumped { error: failed.then(error) })
            }
            "STOP" => Some(Self::Stopped),
            "RESUME" => Some(Self::Resumed),
            "MIGRATION" => text("status").map(|status| Self::Migration { status }),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other { name: name.to_owned(), data })
    }
}

impl Acknowledgement {
    /// Parses an `_OST`. Returns `None` if the slot is neither a DIMM's nor a CPU's.
    fn of_ost(ost: &AcpiOst) -> Option<Self> {
        let number = ost.slot.parse().ok()?;
        let slot = match ost.slot_type.as_str() {
            "DIMM" => AcknowledgedSlot::Memory(number),
            "CPU" => AcknowledgedSlot::Cpu(number),
            _ => return None,
        };
        let request = match ost.source {
            source if OST_INSERTION.contains(&source) => AcknowledgedRequest::Insertion,
            OST_EJECTION => AcknowledgedRequest::Ejection,
            other => AcknowledgedRequest::Other(other),
        };
        let status = match ost.status {
            OST_SUCCESS => AcknowledgedStatus::Success,
            status if OST_IN_PROGRESS.contains(&status) => AcknowledgedStatus::InProgress,
            status => AcknowledgedStatus::Failed(status),
        };
        Some(Self { slot, request, status })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_qemu_sends_is_typed_and_what_is_not_known_is_kept() {
        let ost = |slot_type: &str, source: i64, status: i64| {
            let info = json!({ "slot": "3", "slot-type": slot_type, "source": source, "status": status });
            VmmEvent::of_qmp("ACPI_DEVICE_OST", json!({ "info": info }))
        };
        let acknowledged =
            |slot, request, status| VmmEvent::Acknowledged(Acknowledgement { slot, request, status });
        let (dimm, cpu) = (AcknowledgedSlot::Memory(3), AcknowledgedSlot::Cpu(3));
        let insertion = AcknowledgedRequest::Insertion;
        assert_eq!(ost("DIMM", 1, 0), acknowledged(dimm, insertion, AcknowledgedStatus::Success));
        assert_eq!(
            ost("CPU", 3, 0x84),
            acknowledged(cpu, AcknowledgedRequest::Ejection, AcknowledgedStatus::InProgress)
        );
        assert_eq!(
            ost("DIMM", 0x103, 1),
            acknowledged(dimm, AcknowledgedRequest::Other(0x103), AcknowledgedStatus::Failed(1))
        );
        assert!(matches!(ost("BRIDGE", 1, 0), VmmEvent::Other { .. }));
        let dumped = |status: &str| {
            VmmEvent::of_qmp("DUMP_COMPLETED", json!({ "result": { "status": status }, "error": "full" }))
        };
        assert_eq!(dumped("completed"), VmmEvent::Dumped { error: None });
        assert_eq!(dumped("failed"), VmmEvent::Dumped { error: Some("full".into()) });
        let refused = VmmEvent::of_qmp("MEM_UNPLUG_ERROR", json!({ "device": "dimm0", "msg": "busy" }));
        let reason = "MEM_UNPLUG_ERROR: busy".to_owned();
        assert_eq!(refused, VmmEvent::Refused { device: "dimm0".into(), reason });
        // Some versions of QEMU report only the path of the CPU's APIC.
        let unnamed = json!({ "path": "/machine/peripheral/cpu0/lapic" });
        let other = VmmEvent::Other { name: "DEVICE_DELETED".into(), data: unnamed.clone() };
        assert_eq!(VmmEvent::of_qmp("DEVICE_DELETED", unnamed), other);
    }
}

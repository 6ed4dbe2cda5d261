//! The requests of memory and CPU hotplug, and QEMU's answers to them, typed.
//!
//! What these return is only what QEMU did. Whether the guest followed is told by events, and read in `trial`.

use serde_json::Value;

use super::commands::{
    DeviceAdd, DeviceDel, HotpluggableCpu, ObjectAdd, ObjectDel, QomSet, QueryHotpluggableCpus,
    QueryMemoryDevices, SetAction,
};
use super::{Qmp, QmpError};
use crate::bytes::Bytes;
use crate::device::{DeviceId, Plug};

/// Where a plugged DIMM landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DimmPlace {
    /// Guest-physical address, bytes.
    pub address: u64,
    /// Size, bytes.
    pub size: Bytes,
    /// Slot, as `ACPI_DEVICE_OST` names it.
    pub slot: u32,
}

impl DimmPlace {
    /// Numbers of the memory blocks it covers.
    pub fn blocks(&self, block_bytes: u64) -> std::ops::Range<u64> {
        self.address / block_bytes..(self.address + self.size.0).div_ceil(block_bytes)
    }
}

/// One entry of `query-hotpluggable-cpus`.
#[derive(Debug, Clone)]
pub struct CpuSlot {
    /// Its number in ACPI's list of possible CPUs: slots in the order of their topology (hw/i386/x86-common.c).
    pub slot: u32,
    /// What `device_add` wants to know.
    pub cpu: HotpluggableCpu,
}

impl CpuSlot {
    /// Nobody sits in it.
    pub fn is_free(&self) -> bool {
        self.cpu.qom_path.is_none()
    }
}

impl Qmp {
    /// Plugs a device.
    pub async fn plug(&self, id: &DeviceId, plug: Plug) -> Result<(), QmpError> {
        match plug {
            Plug::Device { memory, device } => {
                self.execute(ObjectAdd { arguments: memory }).await?;
                let added = self.execute(DeviceAdd { arguments: device }).await.map(drop);
                if added.is_err() {
                    // Nothing refers to the backend now. Its own failure would only hide the first.
                    let _ = self.remove_backend(id).await;
                }
                added
            }
            Plug::Cpu { slot } => {
                let slots = self.cpu_slots().await?;
                let Some(free) = slots.into_iter().find(|one| one.slot == slot && one.is_free()) else {
                    let desc = format!("CPU slot {slot} is taken");
                    return Err(QmpError::Refused { class: "harness".into(), desc });
                };
                let mut arguments = free.cpu.props;
                arguments.insert("driver".into(), free.cpu.driver.into());
                arguments.insert("id".into(), id.0.clone().into());
                self.execute(DeviceAdd { arguments }).await.map(drop)
            }
        }
    }

    /// Asks a virtio-mem device to give `size` in all. It answers by `MEMORY_DEVICE_SIZE_CHANGE`.
    pub async fn resize(&self, id: &DeviceId, size: Bytes) -> Result<(), QmpError> {
        let (path, property) = (format!("/machine/peripheral/{id}"), "requested-size".to_owned());
        self.execute(QomSet { path, property, value: size.0.into() }).await.map(drop)
    }

    /// Whether a guest that restarts may: QEMU otherwise ends, so that a panic is an end.
    pub async fn allow_reboot(&self, allowed: bool) -> Result<(), QmpError> {
        let reboot = if allowed { "reset" } else { "shutdown" };
        self.execute(SetAction { reboot }).await.map(drop)
    }

    /// Where a DIMM sits.
    pub async fn dimm_place(&self, id: &DeviceId) -> Result<DimmPlace, QmpError> {
        let odd = |what: String| QmpError::Odd { command: "query-memory-devices", what };
        for device in self.execute(QueryMemoryDevices {}).await? {
            let data = device.data;
            if device.kind == "dimm" && data.id.as_ref() == Some(&id.0) {
                let place = |address, size, slot| DimmPlace { address, size: Bytes(size), slot };
                let place = data.addr.zip(data.size).zip(data.slot).map(|((a, b), c)| place(a, b, c));
                return place.ok_or_else(|| odd(format!("{data:?}")));
            }
        }
        Err(odd(format!("no {id} in it")))
    }

    /// Removes the memory behind a DIMM that is gone. QEMU says "is in use" before that.
    pub async fn remove_backend(&self, id: &DeviceId) -> Result<(), QmpError> {
        self.execute(ObjectDel { id: id.backend() }).await.map(drop)
    }

    /// All possible CPUs, in the order of their slots.
    pub async fn cpu_slots(&self) -> Result<Vec<CpuSlot>, QmpError> {
        let mut cpus = self.execute(QueryHotpluggableCpus {}).await?;
        // QEMU lists them from the last to the first (hw/core/machine.c); the topology gives the order.
        cpus.sort_by_key(|cpu| {
            ["socket-id", "die-id", "cluster-id", "module-id", "core-id", "thread-id"]
                .map(|level| cpu.props.get(level).and_then(Value::as_i64))
        });
        Ok((0..).zip(cpus).map(|(slot, cpu)| CpuSlot { slot, cpu }).collect())
    }

    /// Asks the guest to give a device back. Success only says that it was asked.
    pub async fn unplug(&self, id: &DeviceId) -> Result<(), QmpError> {
        self.execute(DeviceDel { id: id.0.clone() }).await.map(drop)
    }
}

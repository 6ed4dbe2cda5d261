//! The requests of memory and CPU hotplug, and QEMU's answers to them, typed.
//!
//! An answer shows only what QEMU did. Events show whether the guest followed, and `trial` waits
//! for them.

use serde_json::Value;

use super::commands::{
    DeviceAdd, DeviceDel, HotpluggableCpu, ObjectAdd, ObjectDel, QomSet, QueryHotpluggableCpus,
    QueryMemoryDevices, SetAction,
};
use super::{Qmp, QmpError};
use crate::bytes::Bytes;
use crate::device::{DeviceId, Plug};

/// The place of a plugged DIMM.
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
    /// The numbers of the memory blocks that it covers.
    pub fn blocks(&self, block_bytes: u64) -> std::ops::Range<u64> {
        self.address / block_bytes..(self.address + self.size.0).div_ceil(block_bytes)
    }
}

/// One entry of `query-hotpluggable-cpus`.
#[derive(Debug, Clone)]
pub struct CpuSlot {
    /// Its number in ACPI's list of possible CPUs, in which the slots are in the order of their
    /// topology (hw/i386/x86-common.c).
    pub slot: u32,
    /// The entry, which has the arguments for `device_add`.
    pub cpu: HotpluggableCpu,
}

impl CpuSlot {
    /// Whether no CPU is in it.
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
                    // Nothing uses the backend now. A failure to remove it would only hide the
                    // first error.
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

    /// Requests that a virtio-mem device provides `size` in total. QEMU reports each change by
    /// `MEMORY_DEVICE_SIZE_CHANGE`.
    pub async fn resize(&self, id: &DeviceId, size: Bytes) -> Result<(), QmpError> {
        let (path, property) = (format!("/machine/peripheral/{id}"), "requested-size".to_owned());
        self.execute(QomSet { path, property, value: size.0.into() }).await.map(drop)
    }

    /// Sets whether the guest may reboot. Otherwise QEMU ends at a reboot, so that a panic ends the
    /// trial.
    pub async fn allow_reboot(&self, allowed: bool) -> Result<(), QmpError> {
        let reboot = if allowed { "reset" } else { "shutdown" };
        self.execute(SetAction { reboot }).await.map(drop)
    }

    /// The place of a DIMM.
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
        Err(odd(format!("it does not list {id}")))
    }

    /// Removes the memory backend of a DIMM that is gone. While the DIMM exists, QEMU refuses with
    /// "is in use".
    pub async fn remove_backend(&self, id: &DeviceId) -> Result<(), QmpError> {
        self.execute(ObjectDel { id: id.backend() }).await.map(drop)
    }

    /// All possible CPUs, in the order of their slots.
    pub async fn cpu_slots(&self) -> Result<Vec<CpuSlot>, QmpError> {
        let mut cpus = self.execute(QueryHotpluggableCpus {}).await?;
        // QEMU lists them from the last to the first (hw/core/machine.c). The topology gives the
        // order.
        cpus.sort_by_key(|cpu| {
            ["socket-id", "die-id", "cluster-id", "module-id", "core-id", "thread-id"]
                .map(|level| cpu.props.get(level).and_then(Value::as_i64))
        });
        Ok((0..).zip(cpus).map(|(slot, cpu)| CpuSlot { slot, cpu }).collect())
    }

    /// Requests that the guest releases a device. Success means only that the request was sent.
    pub async fn unplug(&self, id: &DeviceId) -> Result<(), QmpError> {
        self.execute(DeviceDel { id: id.0.clone() }).await.map(drop)
    }
}

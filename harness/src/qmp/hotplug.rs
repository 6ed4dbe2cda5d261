//! The requests of memory and CPU hotplug, and QEMU's answers to them, typed.
//!
//! What these return is only what QEMU did. Whether the guest followed is told by events, and read in `trial`.

use serde_json::{Value, json};

use super::commands::{
    Arguments, DeviceAdd, DeviceDel, HotpluggableCpu, ObjectAdd, ObjectDel, QomSet, QueryHotpluggableCpus,
    QueryMemoryDevices, SetAction,
};
use super::{Qmp, QmpError};
use crate::bytes::Bytes;
use crate::qemu::Inherited;
use crate::scenario::{Backend, DeviceId, Dimm};

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

/// The id of the memory backend behind a DIMM.
fn backend(id: &DeviceId) -> String {
    format!("mem-{id}")
}

/// The object behind a device's memory.
fn memory(id: &DeviceId, size: Bytes, kind: Backend, file_offset: Bytes) -> ObjectAdd {
    let (driver, more) = match kind {
        Backend::Ram => ("memory-backend-ram", json!({})),
        Backend::Memfd => ("memory-backend-memfd", json!({})),
        Backend::HugePages => {
            ("memory-backend-memfd", json!({ "hugetlb": true, "hugetlbsize": 2 * Bytes::MIB }))
        }
        Backend::File => (
            "memory-backend-file",
            json!({ "share": true, "offset": file_offset.0, "mem-path": Inherited::DimmFile.path() }),
        ),
    };
    let mut arguments = arguments(json!({ "qom-type": driver, "id": backend(id), "size": size.0 }));
    arguments.extend(self::arguments(more));
    ObjectAdd { arguments }
}

/// The members of a JSON object.
fn arguments(object: Value) -> Arguments {
    match object {
        Value::Object(members) => members,
        _ => Arguments::new(),
    }
}

impl Qmp {
    /// Adds a `pc-dimm` over memory of its own; one that is backed by a file begins there at `file_offset`.
    pub async fn plug_dimm(&self, id: &DeviceId, dimm: &Dimm, file_offset: Bytes) -> Result<(), QmpError> {
        let mut arguments = arguments(json!({ "node": dimm.node }));
        if let Some(Bytes(address)) = dimm.address {
            arguments.insert("addr".into(), address.into());
        }
        self.plug_memory("pc-dimm", id, dimm.size, dimm.backend, file_offset, arguments).await
    }

    /// Adds an `nvdimm`.
    pub async fn plug_nvdimm(&self, id: &DeviceId, size: Bytes, node: u32) -> Result<(), QmpError> {
        let arguments = arguments(json!({ "node": node }));
        self.plug_memory("nvdimm", id, size, Backend::Ram, Bytes(0), arguments).await
    }

    async fn plug_memory(
        &self,
        driver: &str,
        id: &DeviceId,
        size: Bytes,
        backend: Backend,
        file_offset: Bytes,
        mut arguments: Arguments,
    ) -> Result<(), QmpError> {
        self.execute(memory(id, size, backend, file_offset)).await?;
        arguments.insert("memdev".into(), self::backend(id).into());
        let added = self.device_add(driver, id, arguments).await;
        if added.is_err() {
            // Nothing refers to the backend now. Its own failure would only hide the first.
            let _ = self.remove_backend(id).await;
        }
        added
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
        self.execute(ObjectDel { id: backend(id) }).await.map(drop)
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

    /// Adds the CPU of a free slot.
    pub async fn plug_cpu(&self, id: &DeviceId, slot: &CpuSlot) -> Result<(), QmpError> {
        self.device_add(&slot.cpu.driver, id, slot.cpu.props.clone()).await
    }

    /// Asks the guest to give a device back. Success only says that it was asked.
    pub async fn unplug(&self, id: &DeviceId) -> Result<(), QmpError> {
        self.execute(DeviceDel { id: id.0.clone() }).await.map(drop)
    }

    async fn device_add(
        &self,
        driver: &str,
        id: &DeviceId,
        mut arguments: Arguments,
    ) -> Result<(), QmpError> {
        arguments.insert("driver".into(), driver.into());
        arguments.insert("id".into(), id.0.clone().into());
        self.execute(DeviceAdd { arguments }).await.map(drop)
    }
}

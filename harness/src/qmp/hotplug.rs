//! The requests of memory and CPU hotplug, and QEMU's answers to them, typed.
//!
//! What these return is only what QEMU did. Whether the guest followed is told by events, and read in `trial`.

use qapi::qmp;

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
    pub cpu: qmp::HotpluggableCPU,
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
fn memory(id: &DeviceId, size: Bytes, kind: Backend, file_offset: Bytes) -> qmp::ObjectOptions {
    let base = qmp::MemoryBackendProperties {
        size: size.0,
        dump: None,
        host_nodes: None,
        merge: None,
        policy: None,
        prealloc: None,
        prealloc_context: None,
        prealloc_threads: None,
        reserve: None,
        share: (kind == Backend::File).then_some(true),
        x_use_canonical_path_for_ramblock_id: None,
    };
    let id = backend(id);
    let memfd = |huge: bool| qmp::MemoryBackendMemfdProperties {
        base: base.clone(),
        hugetlb: huge.then_some(true),
        hugetlbsize: huge.then_some(2 * Bytes::MIB),
        seal: None,
    };
    match kind {
        Backend::Ram => qmp::ObjectOptions::memory_backend_ram { id, memory_backend_ram: base },
        Backend::Memfd => qmp::ObjectOptions::memory_backend_memfd { id, memory_backend_memfd: memfd(false) },
        Backend::HugePages => {
            qmp::ObjectOptions::memory_backend_memfd { id, memory_backend_memfd: memfd(true) }
        }
        Backend::File => {
            let memory_backend_file = qmp::MemoryBackendFileProperties {
                base,
                align: None,
                discard_data: None,
                offset: Some(file_offset.0),
                pmem: None,
                readonly: None,
                rom: None,
                mem_path: Inherited::DimmFile.path(),
            };
            qmp::ObjectOptions::memory_backend_file { id, memory_backend_file }
        }
    }
}

impl Qmp {
    /// Adds a `pc-dimm` over memory of its own; one that is backed by a file begins there at `file_offset`.
    pub async fn plug_dimm(&self, id: &DeviceId, dimm: &Dimm, file_offset: Bytes) -> Result<(), QmpError> {
        let mut arguments = qapi::Dictionary::new();
        arguments.insert("node".into(), dimm.node.into());
        if let Some(Bytes(address)) = dimm.address {
            arguments.insert("addr".into(), address.into());
        }
        self.plug_memory("pc-dimm", id, dimm.size, dimm.backend, file_offset, arguments).await
    }

    /// Adds an `nvdimm`.
    pub async fn plug_nvdimm(&self, id: &DeviceId, size: Bytes, node: u32) -> Result<(), QmpError> {
        let mut arguments = qapi::Dictionary::new();
        arguments.insert("node".into(), node.into());
        self.plug_memory("nvdimm", id, size, Backend::Ram, Bytes(0), arguments).await
    }

    async fn plug_memory(
        &self,
        driver: &str,
        id: &DeviceId,
        size: Bytes,
        backend: Backend,
        file_offset: Bytes,
        mut arguments: qapi::Dictionary,
    ) -> Result<(), QmpError> {
        self.execute(qmp::object_add(memory(id, size, backend, file_offset))).await?;
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
        let (path, property) = (format!("/machine/peripheral/{id}"), "requested-size".into());
        self.execute(qmp::qom_set { path, property, value: size.0.into() }).await.map(drop)
    }

    /// Whether a guest that restarts may: QEMU otherwise ends, so that a panic is an end.
    pub async fn allow_reboot(&self, allowed: bool) -> Result<(), QmpError> {
        let reboot = if allowed { qmp::RebootAction::reset } else { qmp::RebootAction::shutdown };
        let action = qmp::set_action { panic: None, reboot: Some(reboot), shutdown: None, watchdog: None };
        self.execute(action).await.map(drop)
    }

    /// Where a DIMM sits.
    pub async fn dimm_place(&self, id: &DeviceId) -> Result<DimmPlace, QmpError> {
        let odd = |what: String| QmpError::Odd { command: "query-memory-devices", what };
        for device in self.execute(qmp::query_memory_devices {}).await? {
            if let qmp::MemoryDeviceInfo::dimm(info) = device
                && info.data.id.as_ref() == Some(&id.0)
            {
                let bad = |_| odd(format!("{:?}", info.data));
                return Ok(DimmPlace {
                    address: info.data.addr.try_into().map_err(bad)?,
                    size: Bytes(info.data.size.try_into().map_err(bad)?),
                    slot: info.data.slot.try_into().map_err(bad)?,
                });
            }
        }
        Err(odd(format!("no {id} in it")))
    }

    /// Removes the memory behind a DIMM that is gone. QEMU says "is in use" before that.
    pub async fn remove_backend(&self, id: &DeviceId) -> Result<(), QmpError> {
        self.execute(qmp::object_del { id: backend(id) }).await.map(drop)
    }

    /// All possible CPUs, in the order of their slots.
    pub async fn cpu_slots(&self) -> Result<Vec<CpuSlot>, QmpError> {
        let mut cpus = self.execute(qmp::query_hotpluggable_cpus {}).await?;
        // QEMU lists them from the last to the first (hw/core/machine.c); the topology gives the order.
        cpus.sort_by_key(|cpu| {
            let p = &cpu.props;
            [p.socket_id, p.die_id, p.cluster_id, p.module_id, p.core_id, p.thread_id]
        });
        Ok((0..).zip(cpus).map(|(slot, cpu)| CpuSlot { slot, cpu }).collect())
    }

    /// Adds the CPU of a free slot.
    pub async fn plug_cpu(&self, id: &DeviceId, slot: &CpuSlot) -> Result<(), QmpError> {
        let odd = |error: serde_json::Error| QmpError::Odd { command: "device_add", what: error.to_string() };
        let props = serde_json::to_value(&slot.cpu.props).map_err(odd)?;
        let arguments = props.as_object().cloned().unwrap_or_default();
        self.device_add(&slot.cpu.type_, id, arguments).await
    }

    /// Asks the guest to give a device back. Success only says that it was asked.
    pub async fn unplug(&self, id: &DeviceId) -> Result<(), QmpError> {
        self.execute(qmp::device_del { id: id.0.clone() }).await.map(drop)
    }

    async fn device_add(
        &self,
        driver: &str,
        id: &DeviceId,
        arguments: qapi::Dictionary,
    ) -> Result<(), QmpError> {
        let command = qmp::device_add { bus: None, id: Some(id.0.clone()), driver: driver.into(), arguments };
        self.execute(command).await.map(drop)
    }
}

//! Waiting for what the guest makes of a request: `_OST` codes, deletions, uevents, each phase told as it comes.

use hotplug_protocol::{AgentEvent, Snapshot};

use super::cpus::Cpus;
use super::vm::Vm;
use crate::Result;
use crate::bytes::Bytes;
use crate::event_log::{Event, OperationOutcome, Subscription};
use crate::qmp::commands::{AcpiDeviceOst, AcpiOst, QueryMemoryDevices};
use crate::scenario::{DeviceId, Phase};

/// ACPI 6.5, 6.3.5 _OST: the source of an insertion's status is the notification it answers.
const OST_INSERTION: [i64; 2] = [0, 1];
/// The source of an ejection's status (`ACPI_NOTIFY_EJECT_REQUEST`, include/acpi/actypes.h).
const OST_EJECTION: i64 = 3;
/// `ACPI_OST_SC_SUCCESS` (include/linux/acpi.h).
const OST_SUCCESS: i64 = 0;
/// In progress: `ACPI_OST_SC_EJECT_IN_PROGRESS`, `ACPI_OST_SC_INSERT_IN_PROGRESS`.
const OST_IN_PROGRESS: [i64; 2] = [0x84, 0x80];

/// Where a device sits, as events name it.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    /// `DIMM` or `CPU`, as `ACPI_DEVICE_OST` names it.
    kind: &'static str,
    number: u32,
    /// Memory blocks of a DIMM.
    blocks: &'a [u64],
    /// Which CPU of the guest sits where.
    cpus: Option<&'a Cpus>,
}

impl<'a> Slot<'a> {
    pub(super) fn dimm(number: u32, blocks: &'a [u64]) -> Self {
        Self { kind: "DIMM", number, blocks, cpus: None }
    }

    pub(super) fn cpu(number: u32, cpus: &'a Cpus) -> Self {
        Self { kind: "CPU", number, blocks: &[], cpus: Some(cpus) }
    }

    /// What a uevent says of what sits here: `add`, `online`, `offline`, `remove`.
    fn action<'h>(&self, what: &'h Event) -> Option<&'h str> {
        let Event::Agent { event: AgentEvent::Uevent { action, devpath }, .. } = what else { return None };
        let ours = match self.cpus {
            None => devpath
                .strip_prefix("/devices/system/memory/memory")
                .and_then(|number| number.parse().ok())
                .is_some_and(|number| self.blocks.contains(&number)),
            Some(cpus) => devpath
                .strip_prefix("/devices/system/cpu/cpu")
                .and_then(|number| number.parse().ok())
                .is_some_and(|number| cpus.known(self.number) == Some(number)),
        };
        ours.then_some(action.as_str())
    }

    /// The `_OST` that a happening carries, if it is about this slot. Its `device` is missing once the device is gone.
    fn status(&self, what: &Event) -> Option<AcpiOst> {
        match what {
            Event::Qmp { event, data } if event == "ACPI_DEVICE_OST" => {
                let ost: AcpiDeviceOst = serde_json::from_value(data.clone()).ok()?;
                (ost.info.slot_type == self.kind && ost.info.slot == self.number.to_string())
                    .then_some(ost.info)
            }
            _ => None,
        }
    }
}

/// Hears what happens since before a request was sent.
pub(super) struct EventWaiter<'a> {
    vm: &'a Vm,
    heard: Subscription,
    reached: &'a (dyn Fn(Phase) + Sync),
}

impl<'a> EventWaiter<'a> {
    pub(super) fn new(vm: &'a Vm, reached: &'a (dyn Fn(Phase) + Sync)) -> Self {
        Self { vm, heard: vm.event_log.listen(), reached }
    }

    /// Waits until the guest has taken a device in. For a CPU, `_OST` comes when it is present; it is done when the agent
    /// has brought it online. Memory comes online before its `_OST` (`add_memory_resource`).
    ///
    /// What a booting kernel finds by ACPI's first scan (drivers/acpi/scan.c, `acpi_scan_init`) was not notified, and has
    /// no `_OST`: it is done when the guest that is there to be asked has it. A CPU that came before the firmware read
    /// ACPI's tables (QEMU, hw/i386/acpi-build.c: `acpi_build_update`) is one of the boot's own, which the kernel itself
    /// brings online.
    pub(super) async fn inserted(mut self, slot: Slot<'_>) -> Result<OperationOutcome> {
        let (mut present, mut online) = (false, slot.cpus.is_none());
        let mut booted = false;
        loop {
            let stamped = self.heard.next().await?;
            if matches!(stamped.what, Event::Agent { event: AgentEvent::Ready(_), .. }) {
                booted = true;
                match slot.cpus {
                    None => present |= self.has(slot.blocks).await,
                    Some(cpus) if cpus.has_online(self.vm, slot.number).await => {
                        (present, online) = (true, true);
                    }
                    Some(_) => {}
                }
            }
            if let Some(ost) = slot.status(&stamped.what)
                && OST_INSERTION.contains(&ost.source)
            {
                (self.reached)(Phase::Notified);
                if ost.status == OST_SUCCESS {
                    present = true;
                } else if !OST_IN_PROGRESS.contains(&ost.status) {
                    return Ok(refused(ost.status));
                }
            }
            match slot.action(&stamped.what) {
                Some("add") => (self.reached)(Phase::Notified),
                Some("online") => (self.reached)(Phase::Online),
                _ => {}
            }
            if let Event::CpuReady { slot: ready, errno, .. } = stamped.what
                && slot.cpus.is_some()
                && ready == slot.number
            {
                if errno != 0 {
                    let name = nix::errno::Errno::from_raw(errno);
                    return Ok(OperationOutcome::RefusedByGuest {
                        how: format!("bringing it online failed with {name}"),
                    });
                }
                (self.reached)(Phase::Online);
                online = true;
                // It came before the guest was there, and it is there now.
                present |= booted;
            }
            if present && online {
                return Ok(OperationOutcome::Done);
            }
        }
    }

    /// Waits until a device is gone, or the guest has refused to give it.
    pub(super) async fn ejected(mut self, id: &DeviceId, slot: Slot<'_>) -> Result<OperationOutcome> {
        loop {
            let stamped = self.heard.next().await?;
            if slot.action(&stamped.what) == Some("offline") {
                (self.reached)(Phase::Offline);
            }
            if let Event::Qmp { event, data } = &stamped.what {
                let ours = data["device"].as_str() == Some(&id.0);
                match event.as_str() {
                    "DEVICE_DELETED" if ours => {
                        (self.reached)(Phase::Ejected);
                        return Ok(OperationOutcome::Done);
                    }
                    "DEVICE_UNPLUG_GUEST_ERROR" | "MEM_UNPLUG_ERROR" if ours => {
                        let how = data["msg"]
                            .as_str()
                            .map_or_else(|| event.clone(), |msg| format!("{event}: {msg}"));
                        return Ok(OperationOutcome::RefusedByGuest { how });
                    }
                    _ => {}
                }
            }
            if let Some(ost) = slot.status(&stamped.what)
                && ost.source == OST_EJECTION
            {
                if OST_IN_PROGRESS.contains(&ost.status) {
                    (self.reached)(Phase::Notified);
                } else if ost.status != OST_SUCCESS {
                    return Ok(refused(ost.status));
                } else if slot.cpus.is_some() && self.is_free(slot.number).await {
                    // Some QEMUs report only the CPU's APIC as deleted; the slot tells.
                    (self.reached)(Phase::Ejected);
                    return Ok(OperationOutcome::Done);
                }
            }
        }
    }

    async fn has(&self, blocks: &[u64]) -> bool {
        let there = |now: &Snapshot, number: &u64| now.blocks.iter().any(|block| block.number == *number);
        let now = self.vm.agent.snapshot().await;
        now.is_ok_and(|now| blocks.iter().all(|number| there(&now, number)))
    }

    async fn is_free(&self, slot: u32) -> bool {
        let slots = self.vm.qmp.cpu_slots().await;
        slots.is_ok_and(|all| all.iter().any(|s| s.slot == slot && s.is_free()))
    }

    /// Waits until a virtio-mem device gives `size`.
    pub(super) async fn resized(mut self, id: &DeviceId, size: Bytes) -> Result<()> {
        let reached = self.reached;
        let done = |what: &Event| match what {
            Event::Qmp { event, data } if event == "MEMORY_DEVICE_SIZE_CHANGE" => {
                let ours = data["id"].as_str() == Some(&id.0);
                if ours {
                    reached(Phase::Notified);
                }
                (ours && data["size"].as_u64() == Some(size.0)).then_some(())
            }
            _ => None,
        };
        // Asked for what it gives already, it says nothing.
        let given = async {
            let devices = self.vm.qmp.execute(QueryMemoryDevices {}).await;
            devices.is_ok_and(|all| {
                all.iter().any(|device| {
                    let is_ours = device.kind == "virtio-mem" && device.data.id.as_ref() == Some(&id.0);
                    is_ours && device.data.size == Some(size.0)
                })
            })
        };
        if given.await {
            return Ok(());
        }
        self.heard.until(done).await
    }

    /// Waits for the region of an nvdimm (drivers/acpi/nfit/core.c, `acpi_nfit_register_regions`).
    pub(super) async fn region(mut self) -> Result<()> {
        let reached = self.reached;
        let region = |what: &Event| match what {
            Event::Agent { event: AgentEvent::Uevent { action, devpath }, .. } => {
                let name = devpath.rsplit('/').next().unwrap_or_default();
                (action == "add" && name.starts_with("region")).then_some(())
            }
            _ => None,
        };
        self.heard.until(region).await?;
        reached(Phase::Notified);
        Ok(())
    }
}

fn refused(status: i64) -> OperationOutcome {
    OperationOutcome::RefusedByGuest { how: format!("_OST status {status:#x}") }
}

//! Waits for the guest's side of a request: acknowledgements of the firmware, events of QEMU, uevents. Each phase is
//! reported as it is reached.

use hotplug_protocol::{AgentEvent, Snapshot};

use super::cpus::Cpus;
use super::vm::Vm;
use crate::Result;
use crate::arch::Arch;
use crate::bytes::Bytes;
use crate::device::DeviceId;
use crate::event_log::{Event, OperationOutcome, Subscription};
use crate::scenario::Phase;
use crate::vmm::qmp::commands::QueryMemoryDevices;
use crate::vmm::{AcknowledgedRequest, AcknowledgedSlot, AcknowledgedStatus, VmmEvent};

/// Where a device sits, as events name it.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    slot: AcknowledgedSlot,
    /// Memory blocks of a DIMM.
    blocks: &'a [u64],
    /// The CPU of the guest in each slot.
    cpus: Option<&'a Cpus>,
}

impl<'a> Slot<'a> {
    pub(super) fn dimm(number: u32, blocks: &'a [u64]) -> Self {
        Self { slot: AcknowledgedSlot::Memory(number), blocks, cpus: None }
    }

    pub(super) fn cpu(number: u32, cpus: &'a Cpus) -> Self {
        Self { slot: AcknowledgedSlot::Cpu(number), blocks: &[], cpus: Some(cpus) }
    }

    /// The number of the slot.
    fn number(&self) -> u32 {
        match self.slot {
            AcknowledgedSlot::Memory(number) | AcknowledgedSlot::Cpu(number) => number,
        }
    }

    /// The action of a uevent of the device in this slot: `add`, `online`, `offline`, `remove`.
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
                .is_some_and(|number| cpus.known(self.number()) == Some(number)),
        };
        ours.then_some(action.as_str())
    }

    /// The acknowledgement of such a request, if the event is one of this slot.
    fn acknowledged(&self, what: &Event, request: AcknowledgedRequest) -> Option<AcknowledgedStatus> {
        match what {
            Event::Vmm(VmmEvent::Acknowledged(of)) if of.slot == self.slot && of.request == request => {
                Some(of.status)
            }
            _ => None,
        }
    }
}

/// Receives all events since before a request was sent.
pub(super) struct EventWaiter<'a> {
    vm: &'a Vm,
    arch: &'static Arch,
    heard: Subscription,
    reached: &'a (dyn Fn(Phase) + Sync),
}

impl<'a> EventWaiter<'a> {
    pub(super) fn new(vm: &'a Vm, arch: &'static Arch, reached: &'a (dyn Fn(Phase) + Sync)) -> Self {
        Self { vm, arch, heard: vm.event_log.listen(), reached }
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
                    Some(cpus) if cpus.has_online(self.vm, slot.number()).await => {
                        (present, online) = (true, true);
                    }
                    Some(_) => {}
                }
            }
            if let Some(status) = slot.acknowledged(&stamped.what, AcknowledgedRequest::Insertion) {
                (self.reached)(Phase::Notified);
                match status {
                    AcknowledgedStatus::Success => present = true,
                    AcknowledgedStatus::InProgress => {}
                    AcknowledgedStatus::Failed(code) => return Ok(refused(code)),
                }
            }
            match slot.action(&stamped.what) {
                Some("add") => (self.reached)(Phase::Notified),
                Some("online") => {
                    (self.reached)(Phase::Online);
                    // Without a firmware that acknowledges, the device is present once all of it is.
                    present |= !self.arch.firmware_acknowledges
                        && (slot.cpus.is_some() || self.has(slot.blocks).await);
                }
                _ => {}
            }
            if let Event::CpuReady { slot: ready, errno, .. } = stamped.what
                && slot.cpus.is_some()
                && ready == slot.number()
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
            match &stamped.what {
                Event::Vmm(VmmEvent::Gone { device }) if *device == id.0 => {
                    (self.reached)(Phase::Ejected);
                    return Ok(OperationOutcome::Done);
                }
                Event::Vmm(VmmEvent::Refused { device, reason }) if *device == id.0 => {
                    return Ok(OperationOutcome::RefusedByGuest { how: reason.clone() });
                }
                _ => {}
            }
            match slot.acknowledged(&stamped.what, AcknowledgedRequest::Ejection) {
                Some(AcknowledgedStatus::InProgress) => (self.reached)(Phase::Notified),
                Some(AcknowledgedStatus::Failed(code)) => return Ok(refused(code)),
                Some(AcknowledgedStatus::Success)
                    if slot.cpus.is_some() && self.is_free(slot.number()).await =>
                {
                    // Some QEMUs report only the CPU's APIC as deleted. The slot shows that the CPU is gone.
                    (self.reached)(Phase::Ejected);
                    return Ok(OperationOutcome::Done);
                }
                Some(AcknowledgedStatus::Success) | None => {}
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
            Event::Vmm(VmmEvent::Resized { device, size: now }) if *device == id.0 => {
                reached(Phase::Notified);
                (*now == size).then_some(())
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

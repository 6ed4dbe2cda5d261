//! Waits for the guest's side of a request: acknowledgements of the firmware, events of QEMU,
//! uevents. Each phase is reported as it is reached.

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

/// The slot of a device, as events name it.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    place: AcknowledgedSlot,
    /// The memory blocks of a DIMM.
    blocks: &'a [u64],
    /// The CPU of the guest in each slot.
    cpus: Option<&'a Cpus>,
}

impl<'a> Slot<'a> {
    pub(super) fn dimm(number: u32, blocks: &'a [u64]) -> Self {
        Self { place: AcknowledgedSlot::Memory(number), blocks, cpus: None }
    }

    pub(super) fn cpu(number: u32, cpus: &'a Cpus) -> Self {
        Self { place: AcknowledgedSlot::Cpu(number), blocks: &[], cpus: Some(cpus) }
    }

    /// The number of the slot.
    fn number(&self) -> u32 {
        match self.place {
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

    /// The status of the event, if it acknowledges such a request for this slot.
    fn acknowledged(&self, what: &Event, request: AcknowledgedRequest) -> Option<AcknowledgedStatus> {
        match what {
            Event::Vmm(VmmEvent::Acknowledged(of)) if of.slot == self.place && of.request == request => {
                Some(of.status)
            }
            _ => None,
        }
    }
}

/// Receives all events from a moment before the request is sent.
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

    /// Waits until the guest has a plugged device. `_OST` of a CPU arrives when the CPU is present,
    /// and the plug is done when the agent has brought it online. Memory comes online before its
    /// `_OST` (`add_memory_resource`).
    ///
    /// A device that a booting kernel finds by ACPI's first scan (drivers/acpi/scan.c,
    /// `acpi_scan_init`) gets no notification, and has no `_OST`. Its plug is done when the agent
    /// is ready and the guest has the device. A CPU that was plugged before the firmware read
    /// ACPI's tables (QEMU, hw/i386/acpi-build.c: `acpi_build_update`) is one of the boot CPUs,
    /// which the kernel itself brings online.
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
                    // If the firmware does not acknowledge, the device is present once all its
                    // parts are.
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
                // The CPU was plugged before the guest was ready, and the guest has it now. Or the
                // kernel itself brought it online, as the last step of its plug.
                present |= booted || !self.arch.firmware_acknowledges;
            }
            if present && online {
                return Ok(OperationOutcome::Done);
            }
        }
    }

    /// Waits until a device is gone, or the guest has refused to release it.
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
                    // Some versions of QEMU report only the CPU's APIC as deleted. The slot shows
                    // that the CPU is gone.
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

    /// Waits until a virtio-mem device provides `size`.
    pub(super) async fn resized(mut self, id: &DeviceId, size: Bytes) -> Result<()> {
        let reached = self.reached;
        let done = |what: &Event| match what {
            Event::Vmm(VmmEvent::Resized { device, size: now }) if *device == id.0 => {
                reached(Phase::Notified);
                (*now == size).then_some(())
            }
            _ => None,
        };
        // A device that already provides the requested size causes no event.
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

//! The assignment of the guest's CPUs to QEMU's slots, and which of the CPUs are online.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::vm::Vm;

/// The CPUs of one trial's guest.
#[derive(Debug, Default)]
pub(super) struct Cpus(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The guest's CPU number for each slot.
    numbers: BTreeMap<u32, u32>,
    online: BTreeSet<u32>,
}

impl Cpus {
    /// The CPUs that are online when the lanes begin. Each is in the slot of its number.
    pub(super) fn of_boot(online: &[u32]) -> Self {
        let numbers = online.iter().map(|number| (*number, *number)).collect();
        Self(Mutex::new(Inner { numbers, online: online.iter().copied().collect() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a CPU was added.
    pub(super) fn came(&self, slot: u32, number: u32, online: bool) {
        self.lock().numbers.insert(slot, number);
        self.set_online(number, online);
    }

    /// Records that the CPU of a slot was removed.
    pub(super) fn gone(&self, slot: u32) {
        let mut inner = self.lock();
        if let Some(number) = inner.numbers.remove(&slot) {
            inner.online.remove(&number);
        }
    }

    /// Records whether a CPU is online. Returns whether that is a change.
    pub(super) fn set_online(&self, number: u32, online: bool) -> bool {
        let mut inner = self.lock();
        if online { inner.online.insert(number) } else { inner.online.remove(&number) }
    }

    /// The guest's number of the CPU in a slot, if it is known.
    pub(super) fn known(&self, slot: u32) -> Option<u32> {
        self.lock().numbers.get(&slot).copied()
    }

    /// Whether this CPU's slot is known.
    pub(super) fn has(&self, number: u32) -> bool {
        self.lock().numbers.values().any(|known| *known == number)
    }

    /// Whether the CPU in a slot is online.
    pub(super) fn is_online(&self, slot: u32) -> bool {
        let inner = self.lock();
        inner.numbers.get(&slot).is_some_and(|number| inner.online.contains(number))
    }

    /// The guest's number of the CPU in a slot. The guest is queried if it is not known.
    pub(super) async fn number(&self, vm: &Vm, slot: u32) -> Option<u32> {
        if let Some(number) = self.known(slot) {
            return Some(number);
        }
        let number = in_slot(vm, slot, vm.agent.snapshot().await.ok()?.cpus_present).await?;
        self.lock().numbers.insert(slot, number);
        Some(number)
    }

    /// Queries the guest whether the CPU of a slot is online.
    pub(super) async fn has_online(&self, vm: &Vm, slot: u32) -> bool {
        let Ok(now) = vm.agent.snapshot().await else { return false };
        let number = in_slot(vm, slot, now.cpus_online).await;
        if let Some(number) = number {
            self.came(slot, number, true);
        }
        number.is_some()
    }
}

/// The CPU of a slot, among these numbers.
async fn in_slot(vm: &Vm, slot: u32, numbers: Vec<u32>) -> Option<u32> {
    for number in numbers {
        if slot_of(vm, number).await == Some(slot) {
            return Some(number);
        }
    }
    None
}

/// The slot of a CPU. The agent identifies CPUs by number, QEMU by slot.
pub(super) async fn slot_of(vm: &Vm, number: u32) -> Option<u32> {
    let path = format!("/sys/devices/system/cpu/cpu{number}/{}", vm.arch.slot_file);
    (vm.arch.slot)(&vm.agent.read(path).await.ok()?)
}

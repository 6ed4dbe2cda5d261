//! Does what the guest has add up to what was plugged, to the page?

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hotplug_protocol::{Hello, Snapshot};
use serde::{Deserialize, Serialize};

use crate::journal::HostTime;
use crate::scenario::MemoryOnline;

/// Something that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// When it was seen.
    pub at: HostTime,
    /// After which operation, such as `unplug dimm2`.
    pub after: String,
    /// What: a counter, the value it has and the one it should have.
    pub what: String,
}

/// What an operation changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    /// Memory blocks.
    Memory,
    /// CPUs.
    Cpus,
}

/// What the guest should have: what it booted with, and what came and went since.
#[derive(Debug)]
pub(super) struct Ledger {
    baseline: Snapshot,
    page_bytes: u64,
    pub(super) block_bytes: u64,
    /// The zone into which new blocks go.
    zone: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plugged_pages: i64,
    plugged_cpus: i64,
    memory: Traffic,
    cpus: Traffic,
}

/// Whether a counter can be read without an operation changing it meanwhile.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Traffic {
    in_flight: u32,
    begun: u64,
    /// An operation's effect is not known, because it never ended: nothing can be checked any more.
    unknown: bool,
}

impl Ledger {
    pub(super) fn new(baseline: Snapshot, hello: &Hello, online: MemoryOnline) -> Self {
        // 512 MiB of boot memory end below 4 GiB, and q35 puts DIMMs above, where the kernel's zone is Normal.
        let zone = if online == MemoryOnline::Movable { "Movable" } else { "Normal" };
        let block_bytes = hello.block_bytes.unwrap_or(128 << 20);
        Self { baseline, page_bytes: hello.page_bytes.max(1), block_bytes, zone, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation is about to change `resource`.
    pub(super) fn begin(&self, resource: Resource) {
        let mut state = self.state();
        let traffic = state.traffic(resource);
        traffic.in_flight += 1;
        traffic.begun += 1;
    }

    /// It ended and changed memory by `bytes` or CPUs by `cpus`; None where nobody knows.
    pub(super) fn end(&self, resource: Resource, change: Option<i64>) {
        let page_bytes = i64::try_from(self.page_bytes).unwrap_or(i64::MAX);
        let mut state = self.state();
        let traffic = state.traffic(resource);
        traffic.in_flight -= 1;
        traffic.unknown |= change.is_none();
        match (resource, change.unwrap_or(0)) {
            (Resource::Memory, bytes) => state.plugged_pages += bytes / page_bytes,
            (Resource::Cpus, cpus) => state.plugged_cpus += cpus,
        }
    }

    /// What may be compared with a snapshot asked for now.
    pub(super) fn before_snapshot(&self) -> Quiet {
        let state = self.state();
        Quiet { memory: state.memory, cpus: state.cpus }
    }

    /// Compares a snapshot with the ledger. Only what did not change meanwhile is compared; `own` blocks must be in
    /// state `online`, or, when `present` is false, be gone.
    pub(super) fn check(&self, quiet: Quiet, now: &Snapshot, own: Range<u64>, present: bool) -> Vec<String> {
        let mut wrong = check_blocks(now, own, present);
        let state = self.state();
        if quiet.memory.is_still(state.memory) {
            wrong.extend(self.check_memory(now, state.plugged_pages));
        }
        if quiet.cpus.is_still(state.cpus) {
            let should = i64::try_from(self.baseline.cpus_online.len()).unwrap_or(0) + state.plugged_cpus;
            let is = i64::try_from(now.cpus_online.len()).unwrap_or(0);
            if is != should {
                wrong.push(format!("{is} CPUs online, should be {should}"));
            }
        }
        wrong
    }

    fn check_memory(&self, now: &Snapshot, plugged: i64) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut compare = |what: String, is: u64, was: u64, change: i64| {
            let should = was.saturating_add_signed(change);
            if is != should {
                let off = i128::from(is) - i128::from(should);
                wrong.push(format!("{what} is {is}, should be {should} ({off:+})"));
            }
        };
        let kib = plugged * i64::try_from(self.page_bytes / 1024).unwrap_or(4);
        compare("MemTotal in KiB".into(), now.mem_total_kib, self.baseline.mem_total_kib, kib);
        let pages = |snapshot: &Snapshot| -> BTreeMap<(u32, String), (u64, u64)> {
            let key = |z: &hotplug_protocol::Zone| (z.node, z.name.clone());
            snapshot.zones.iter().map(|z| (key(z), (z.present_pages, z.managed_pages))).collect()
        };
        let (was, is) = (pages(&self.baseline), pages(now));
        let mut zones: Vec<_> = was.keys().chain(is.keys()).collect();
        zones.sort();
        zones.dedup();
        for key in zones {
            let (node, zone) = key;
            // All DIMMs of today's scenarios go to node 0.
            let change = if *node == 0 && zone == self.zone { plugged } else { 0 };
            let (present_was, managed_was) = was.get(key).copied().unwrap_or_default();
            let (present, managed) = is.get(key).copied().unwrap_or_default();
            compare(format!("node {node} zone {zone} present pages"), present, present_was, change);
            compare(format!("node {node} zone {zone} managed pages"), managed, managed_was, change);
        }
        wrong
    }
}

fn check_blocks(now: &Snapshot, own: Range<u64>, present: bool) -> Vec<String> {
    let states: BTreeMap<u64, &str> = now.blocks.iter().map(|b| (b.number, b.state.as_str())).collect();
    let mut wrong = Vec::new();
    for number in own {
        match (states.get(&number), present) {
            (Some(&"online"), true) | (None, false) => {}
            (Some(state), true) => wrong.push(format!("memory block {number} is {state}, should be online")),
            (None, true) => wrong.push(format!("memory block {number} is missing")),
            (Some(state), false) => wrong.push(format!("memory block {number} is {state}, should be gone")),
        }
    }
    wrong
}

impl State {
    fn traffic(&mut self, resource: Resource) -> &mut Traffic {
        match resource {
            Resource::Memory => &mut self.memory,
            Resource::Cpus => &mut self.cpus,
        }
    }
}

/// The traffic at the moment a snapshot was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quiet {
    memory: Traffic,
    cpus: Traffic,
}

impl Traffic {
    fn is_still(self, later: Self) -> bool {
        self == later && self.in_flight == 0 && !self.unknown
    }
}

#[cfg(test)]
mod tests {
    use hotplug_protocol::{Block, Zone};

    use super::*;

    const BLOCK: u64 = 128 << 20;
    const PAGES: u64 = BLOCK / 4096;

    fn guest(blocks: u64, cpus: u32) -> Snapshot {
        let zone = |name: &str, pages| Zone {
            node: 0,
            name: name.into(),
            present_pages: pages,
            managed_pages: pages,
        };
        Snapshot {
            mem_total_kib: 500_000 + blocks * PAGES * 4,
            zones: vec![zone("DMA32", 125_000), zone("Movable", blocks * PAGES)],
            blocks: (0..blocks).map(|i| Block { number: 32 + i, state: "online".into() }).collect(),
            cpus_present: (0..cpus).collect(),
            cpus_online: (0..cpus).collect(),
            lockdep_armed: Some(true),
            tainted: 0,
        }
    }

    fn ledger() -> Ledger {
        let hello = Hello { version: 1, release: "6.1".into(), page_bytes: 4096, block_bytes: Some(BLOCK) };
        Ledger::new(guest(0, 2), &hello, MemoryOnline::Movable)
    }

    fn plug_one(ledger: &Ledger) -> Quiet {
        ledger.begin(Resource::Memory);
        ledger.end(Resource::Memory, Some(BLOCK.cast_signed()));
        ledger.before_snapshot()
    }

    #[test]
    fn what_adds_up_is_silent() {
        let ledger = ledger();
        let quiet = plug_one(&ledger);
        assert_eq!(ledger.check(quiet, &guest(1, 2), 32..33, true), Vec::<String>::new());
    }

    #[test]
    fn each_counter_is_watched_by_itself() {
        let ledger = ledger();
        let quiet = plug_one(&ledger);
        let broken = |change: fn(&mut Snapshot)| {
            let mut now = guest(1, 2);
            change(&mut now);
            let wrong = ledger.check(quiet, &now, 32..33, true);
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            wrong[0].clone()
        };
        assert!(broken(|s| s.mem_total_kib -= 4).contains("MemTotal"));
        assert!(broken(|s| s.zones[1].present_pages += 1).contains("zone Movable present pages is 32769"));
        assert!(broken(|s| s.zones[0].managed_pages -= 1).contains("zone DMA32 managed"));
        assert!(broken(|s| s.blocks[0].state = "offline".into()).contains("block 32 is offline"));
        assert!(broken(|s| s.cpus_online.push(2)).contains("3 CPUs online"));
    }

    #[test]
    fn what_changes_meanwhile_is_not_compared() {
        let ledger = ledger();
        let quiet = plug_one(&ledger);
        ledger.begin(Resource::Memory);
        assert_eq!(ledger.check(quiet, &guest(2, 2), 32..33, true), Vec::<String>::new());
        ledger.end(Resource::Memory, None);
        let quiet = ledger.before_snapshot();
        assert_eq!(ledger.check(quiet, &guest(9, 2), 32..33, true), Vec::<String>::new());
    }
}

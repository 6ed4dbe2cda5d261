//! Checks that the guest's memory and CPUs match what was plugged, to the page.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hotplug_protocol::{Hello, Snapshot};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::bytes::Bytes;
use crate::device::{Account, DeviceId};
use crate::guest_clock::HostTime;
use crate::limits::limits;
use crate::scenario::{MemoryOnline, Policy};

/// A counter of the guest that does not have the expected value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// When the guest's snapshot showed it.
    pub at: HostTime,
    /// The operation that it was seen after, such as `unplug dimm2`.
    pub after: String,
    /// The counter, its value, and the expected value.
    pub what: String,
}

/// A node and a zone of it.
type Zone = (u32, &'static str);

/// The change that an operation has made once it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// No change, or none that is counted here.
    Nothing,
    /// Not known, because the operation never ended or ended half-way.
    Unknown,
    /// Memory blocks, each with its change.
    Blocks(Vec<(u64, Became)>),
    /// The number of online CPUs changed by this.
    Cpus(i64),
    /// A virtio-mem device now provides this much memory.
    Gives(DeviceId, Bytes),
}

/// The change of a memory block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Became {
    /// It was added to this node. The guest's default online state determines whether it comes
    /// online.
    Plugged(u32),
    /// It was removed.
    Gone,
    /// It was brought online in the zone of this policy. Its node is known already.
    Online(Policy),
    /// It was taken offline.
    Offline,
}

/// The memory and CPUs that the guest should have: those that it booted with, and all changes
/// since.
#[derive(Debug)]
pub(super) struct Ledger {
    baseline: Snapshot,
    page_bytes: u64,
    pub(super) block_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The blocks that were plugged, each with its node, and with its zone while it is online.
    blocks: BTreeMap<u64, (u32, Option<&'static str>)>,
    /// The blocks of boot that went offline or came online, and whether they are online.
    of_boot: BTreeMap<u64, bool>,
    /// The zone in which new blocks come online. `None` if they stay offline.
    zone: Option<&'static str>,
    /// The memory that each virtio-mem device provides.
    given: BTreeMap<DeviceId, Bytes>,
    /// When the size of one of them last changed.
    resized: Option<Instant>,
    cpus_online: i64,
    memory: Traffic,
    cpus: Traffic,
}

/// The operations on a account. They show whether a counter can be read without an operation
/// changing it meanwhile.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Traffic {
    in_flight: u32,
    begun: u64,
    /// The effect of an operation is not known, so nothing can be checked any more.
    unknown: bool,
}

impl Ledger {
    pub(super) fn new(baseline: Snapshot, hello: &Hello, arch: &Arch, online: MemoryOnline) -> Self {
        let block_bytes = hello.block_bytes.unwrap_or(arch.block.0);
        let state = State {
            blocks: BTreeMap::new(),
            of_boot: BTreeMap::new(),
            zone: zone(online.policy()),
            given: BTreeMap::new(),
            resized: None,
            cpus_online: 0,
            memory: Traffic::default(),
            cpus: Traffic::default(),
        };
        Self { baseline, page_bytes: hello.page_bytes.max(1), block_bytes, state: Mutex::new(state) }
    }

    /// A ledger that checks nothing, for a guest whose initial state is not known.
    pub(super) fn closed(hello: &Hello, arch: &Arch) -> Self {
        let ledger = Self::new(Snapshot::default(), hello, arch, MemoryOnline::Offline);
        ledger.close();
        ledger
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that an operation is about to change `account`.
    pub(super) fn begin(&self, account: Account) {
        let mut state = self.state();
        let traffic = state.traffic(account);
        traffic.in_flight += 1;
        traffic.begun += 1;
    }

    /// Records that an operation ended, and what it changed.
    pub(super) fn end(&self, account: Account, change: &Change) {
        let mut state = self.state();
        state.traffic(account).in_flight -= 1;
        match change {
            Change::Nothing => {}
            Change::Unknown => state.traffic(account).unknown = true,
            Change::Cpus(more) => state.cpus_online += more,
            Change::Gives(id, bytes) => {
                state.given.insert(id.clone(), *bytes);
                state.resized = Some(Instant::now());
            }
            Change::Blocks(blocks) => {
                for (number, became) in blocks {
                    state.block(*number, *became);
                }
            }
        }
    }

    /// Sets how new blocks come online from now on.
    pub(super) fn set_online(&self, online: MemoryOnline) {
        self.state().zone = zone(online.policy());
    }

    /// Ends all checks.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.memory.unknown = true;
        state.cpus.unknown = true;
    }

    /// The operations at the time of a snapshot that is about to be requested.
    pub(super) fn before_snapshot(&self) -> Quiet {
        let state = self.state();
        Quiet { memory: state.memory, cpus: state.cpus }
    }

    /// Compares a snapshot with the ledger. A account is compared only if it did not change
    /// meanwhile. Of an operation's `own` blocks, those that stay are always compared, because no
    /// other operation changes them. A removed block may be back, because QEMU gives a removed
    /// DIMM's address to the next one (`memory_device_get_free_addr()` in its
    /// hw/mem/memory-device.c).
    pub(super) fn check(&self, quiet: Quiet, now: &Snapshot, own: &[(u64, Became)]) -> Differences {
        let state = self.state();
        let is_still = quiet.memory.is_still(state.memory);
        let lasting = own.iter().filter(|(_, became)| is_still || !matches!(became, Became::Gone));
        let settled = check_blocks(&state, now, lasting.map(|(number, _)| *number));
        let mut differences = Differences { settled, memory: Vec::new() };
        if is_still {
            differences.memory = self.check_memory(now, &state);
        }
        if quiet.cpus.is_still(state.cpus) {
            let should = i64::try_from(self.baseline.cpus_online.len()).unwrap_or(0) + state.cpus_online;
            let is = i64::try_from(now.cpus_online.len()).unwrap_or(0);
            if is != should {
                differences.settled.push(format!("{is} CPUs online, should be {should}"));
            }
        }
        differences
    }

    /// Whether the guest's memory may still lag behind a virtio-mem device, whichever lane resized
    /// it.
    pub(super) fn guest_may_follow(&self) -> bool {
        self.state().resized.is_some_and(|resized| resized.elapsed() < limits().guest_follows)
    }

    fn check_memory(&self, now: &Snapshot, state: &State) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut compare = |what: String, is: u64, was: u64, change: u64| {
            let should = was + change;
            if is != should {
                let off = i128::from(is) - i128::from(should);
                wrong.push(format!("{what} is {is}, should be {should} ({off:+})"));
            }
        };
        let mut online: BTreeMap<Zone, u64> = BTreeMap::new();
        for (node, zone) in state.blocks.values() {
            if let Some(zone) = zone {
                *online.entry((*node, zone)).or_default() += self.block_bytes / self.page_bytes;
            }
        }
        let plugged: u64 = online.values().sum::<u64>() * (self.page_bytes / 1024);
        let given: u64 = state.given.values().map(|bytes| bytes.0 / 1024).sum();
        compare("MemTotal in KiB".into(), now.mem_total_kib, self.baseline.mem_total_kib, plugged + given);
        if given > 0 {
            // The zones of such a device count whole blocks as present, of which only a part is
            // managed.
            return wrong;
        }
        let pages = |snapshot: &Snapshot| -> BTreeMap<(u32, String), (u64, u64)> {
            let key = |z: &hotplug_protocol::Zone| (z.node, z.name.clone());
            snapshot.zones.iter().map(|z| (key(z), (z.present_pages, z.managed_pages))).collect()
        };
        let (was, is) = (pages(&self.baseline), pages(now));
        let added = online.keys().map(|(node, zone)| (*node, (*zone).to_owned()));
        let mut zones: Vec<_> = was.keys().chain(is.keys()).cloned().chain(added).collect();
        zones.sort();
        zones.dedup();
        for key in zones {
            let (node, zone) = &key;
            let change =
                online.iter().find(|((n, z), _)| n == node && z == zone).map_or(0, |(_, pages)| *pages);
            let (present_was, managed_was) = was.get(&key).copied().unwrap_or_default();
            let (present, managed) = is.get(&key).copied().unwrap_or_default();
            compare(format!("node {node} zone {zone} present pages"), present, present_was, change);
            compare(format!("node {node} zone {zone} managed pages"), managed, managed_was, change);
        }
        wrong
    }
}

/// The differences, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Differences in the operation's own blocks and in the online CPUs. Both are final once their
    /// operations have ended.
    pub(super) settled: Vec<String>,
    /// Differences in the memory counters, which may lag behind a virtio-mem device.
    pub(super) memory: Vec<String>,
}

/// The zone of a policy. DIMMs are above 4 GiB, where the kernel's zone is Normal.
fn zone(policy: Option<Policy>) -> Option<&'static str> {
    policy.map(|policy| if policy == Policy::Movable { "Movable" } else { "Normal" })
}

fn check_blocks(state: &State, now: &Snapshot, own: impl Iterator<Item = u64>) -> Vec<String> {
    let states: BTreeMap<u64, &str> = now.blocks.iter().map(|b| (b.number, b.state.as_str())).collect();
    let mut wrong = Vec::new();
    for number in own {
        let plugged = state.blocks.get(&number).map(|(_, zone)| zone.is_some());
        let is_online = plugged.or_else(|| state.of_boot.get(&number).copied());
        let should = is_online.map(|is_online| if is_online { "online" } else { "offline" });
        match (states.get(&number).copied(), should) {
            (is, should) if is == should => {}
            (Some(is), Some(should)) => {
                wrong.push(format!("memory block {number} is {is}, should be {should}"));
            }
            (None, _) => wrong.push(format!("memory block {number} is missing")),
            (Some(is), None) => wrong.push(format!("memory block {number} is {is}, should be gone")),
        }
    }
    wrong
}

impl State {
    fn traffic(&mut self, account: Account) -> &mut Traffic {
        match account {
            Account::Memory => &mut self.memory,
            Account::Cpus => &mut self.cpus,
        }
    }

    fn block(&mut self, number: u64, became: Became) {
        match became {
            Became::Plugged(node) => {
                self.blocks.insert(number, (node, self.zone));
            }
            Became::Gone => {
                self.blocks.remove(&number);
            }
            Became::Online(_) | Became::Offline => {
                let online = match became {
                    Became::Online(policy) => zone(Some(policy)),
                    _ => None,
                };
                if let Some((_, place)) = self.blocks.get_mut(&number) {
                    *place = online;
                } else {
                    // A block that was there at boot. Its zone and the number of its managed pages
                    // are not known.
                    self.memory.unknown = true;
                    self.of_boot.insert(number, online.is_some());
                }
            }
        }
    }
}

/// The operations at the time when a snapshot was requested.
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
            tainted: 0,
        }
    }

    fn ledger(online: MemoryOnline) -> Ledger {
        let hello = Hello { version: 1, release: "6.1".into(), page_bytes: 4096, block_bytes: Some(BLOCK) };
        Ledger::new(guest(0, 2), &hello, crate::arch::Architecture::X86.table(), online)
    }

    fn after(ledger: &Ledger, account: Account, change: &Change) -> Quiet {
        ledger.begin(account);
        ledger.end(account, change);
        ledger.before_snapshot()
    }

    fn seen(ledger: &Ledger, quiet: Quiet, now: &Snapshot, own: &[u64]) -> Vec<String> {
        let own: Vec<(u64, Became)> = own.iter().map(|number| (*number, Became::Plugged(0))).collect();
        let Differences { settled, memory } = ledger.check(quiet, now, &own);
        [settled, memory].concat()
    }

    fn plug_one(ledger: &Ledger) -> Quiet {
        after(ledger, Account::Memory, &Change::Blocks(vec![(32, Became::Plugged(0))]))
    }

    #[test]
    fn what_adds_up_is_silent() {
        let ledger = ledger(MemoryOnline::Movable);
        let quiet = plug_one(&ledger);
        assert_eq!(seen(&ledger, quiet, &guest(1, 2), &[32]), Vec::<String>::new());
        let quiet = after(&ledger, Account::Memory, &Change::Blocks(vec![(32, Became::Gone)]));
        assert_eq!(seen(&ledger, quiet, &guest(0, 2), &[32]), Vec::<String>::new());
    }

    #[test]
    fn a_block_of_boot_goes_and_comes() {
        let ledger = ledger(MemoryOnline::Movable);
        let with_block = |state: &str| {
            let mut now = guest(0, 2);
            now.blocks.push(Block { number: 3, state: state.into() });
            now
        };
        let own = |became| [(3, became)];
        let check = |became, state: &str| {
            let quiet = after(&ledger, Account::Memory, &Change::Blocks(vec![(3, became)]));
            let Differences { settled, memory } = ledger.check(quiet, &with_block(state), &own(became));
            // Its zone is not known, so that its pages cannot be counted.
            assert_eq!(memory, Vec::<String>::new());
            settled
        };
        assert_eq!(check(Became::Offline, "offline"), Vec::<String>::new());
        assert_eq!(check(Became::Online(Policy::Movable), "online"), Vec::<String>::new());
        assert_eq!(check(Became::Offline, "online"), ["memory block 3 is online, should be offline"]);
    }

    #[test]
    fn each_counter_is_watched_by_itself() {
        let ledger = ledger(MemoryOnline::Movable);
        let quiet = plug_one(&ledger);
        let broken = |change: fn(&mut Snapshot)| {
            let mut now = guest(1, 2);
            change(&mut now);
            let wrong = seen(&ledger, quiet, &now, &[32]);
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
    fn blocks_change_zones_and_may_wait_offline() {
        let ledger = ledger(MemoryOnline::Offline);
        let quiet = plug_one(&ledger);
        let mut now = guest(0, 2);
        now.blocks.push(Block { number: 32, state: "offline".into() });
        assert_eq!(seen(&ledger, quiet, &now, &[32]), Vec::<String>::new());
        let online = Change::Blocks(vec![(32, Became::Online(Policy::Kernel))]);
        let quiet = after(&ledger, Account::Memory, &online);
        let mut now = guest(1, 2);
        now.zones[1].name = "Normal".into();
        assert_eq!(seen(&ledger, quiet, &now, &[32]), Vec::<String>::new());
        // The number of pages is right, but the zone is wrong.
        assert_eq!(seen(&ledger, quiet, &guest(1, 2), &[32]).len(), 4);
    }

    #[test]
    fn what_virtio_mem_gives_counts_as_memory() {
        let ledger = ledger(MemoryOnline::Movable);
        let gives = Change::Gives(DeviceId("vmem0".into()), Bytes(6 << 20));
        let quiet = after(&ledger, Account::Memory, &gives);
        let mut now = guest(0, 2);
        now.mem_total_kib += 6 << 10;
        assert_eq!(seen(&ledger, quiet, &now, &[]), Vec::<String>::new());
        assert_eq!(seen(&ledger, quiet, &guest(0, 2), &[]).len(), 1);
    }

    #[test]
    fn only_memory_follows_a_resize_and_for_every_lane() {
        let ledger = ledger(MemoryOnline::Movable);
        let quiet = plug_one(&ledger);
        let mut now = guest(0, 3);
        now.blocks.clear();
        let differences = ledger.check(quiet, &now, &[(32, Became::Plugged(0))]);
        assert_eq!(differences.settled, ["memory block 32 is missing", "3 CPUs online, should be 2"]);
        assert!(!differences.memory.is_empty() && !ledger.guest_may_follow());
        after(&ledger, Account::Memory, &Change::Gives(DeviceId("vmem0".into()), Bytes(0)));
        // The resize counts for all operations, not only for the one that checks.
        assert!(ledger.guest_may_follow());
    }

    #[test]
    fn where_a_dimm_has_gone_another_may_have_come() {
        let ledger = ledger(MemoryOnline::Movable);
        plug_one(&ledger);
        let gone = (32, Became::Gone);
        let quiet = after(&ledger, Account::Memory, &Change::Blocks(vec![gone]));
        // The block is still there, and no other operation is in flight.
        let left = ledger.check(quiet, &guest(1, 2), &[gone]);
        assert_eq!(left.settled, ["memory block 32 is online, should be gone"]);
        // Another DIMM is plugged at the same address. The guest shows it before the ledger has it,
        // or the other way round.
        ledger.begin(Account::Memory);
        let nothing = Differences::default();
        assert_eq!(ledger.check(quiet, &guest(1, 2), &[gone]), nothing);
        ledger.end(Account::Memory, &Change::Blocks(vec![(32, Became::Plugged(0))]));
        assert_eq!(ledger.check(quiet, &guest(0, 2), &[gone]), nothing);
    }

    #[test]
    fn what_changes_meanwhile_is_not_compared() {
        let ledger = ledger(MemoryOnline::Movable);
        let quiet = plug_one(&ledger);
        ledger.begin(Account::Memory);
        assert_eq!(seen(&ledger, quiet, &guest(2, 2), &[32]), Vec::<String>::new());
        ledger.end(Account::Memory, &Change::Unknown);
        let quiet = ledger.before_snapshot();
        assert_eq!(seen(&ledger, quiet, &guest(9, 2), &[32]), Vec::<String>::new());
    }
}

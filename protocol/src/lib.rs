//! What the harness and the agent in its guest say to each other: one JSON object a line, over a virtio-serial port.
//!
//! The host asks with [`Ask`]; the agent answers each with one [`Say::Answer`] of the same `id`, and in between
//! says [`Say::Event`]s of its own. A second port, [`KMSG_PORT`], carries `/dev/kmsg` records as the kernel gave
//! them (Documentation/ABI/testing/dev-kmsg): guest to host only, nothing added, so that a gap in the sequence
//! numbers is visible.
//!
//! Times are microseconds of the guest's `CLOCK_MONOTONIC`.

use serde::{Deserialize, Serialize};

/// Raised by any change that an older peer would misread. The agent is carried inside the harness, so the two
/// differ only when a checkpoint outlived an update; the host then boots anew.
pub const VERSION: u32 = 1;

/// Name of the virtio-serial port for [`Ask`] and [`Say`], as `/sys/class/virtio-ports/*/name` shows it.
pub const AGENT_PORT: &str = "hotplug.agent";

/// Name of the virtio-serial port that carries raw `/dev/kmsg` records.
pub const KMSG_PORT: &str = "hotplug.kmsg";

/// Microseconds of the guest's `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuestTime(pub u64);

/// One request of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Chosen by the host, repeated in the answer.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What the host may ask of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Who are you? Answered with [`Answer::Hello`].
    Hello,
    /// The machine as the guest sees it now: [`Answer::Snapshot`].
    Snapshot,
    /// Contents of a file (sysfs, procfs, debugfs): [`Answer::Contents`] or [`Answer::Failed`].
    Read {
        /// Absolute path in the guest.
        path: String,
    },
    /// One `write(2)` of `data` to a file, as sysfs wants it: [`Answer::Done`] or [`Answer::Failed`].
    Write {
        /// Absolute path in the guest.
        path: String,
        /// What is written, in one call.
        data: String,
    },
    /// Start loads beside those that run: [`Answer::Done`] once all of them are running, or [`Answer::Failed`].
    StartLoad {
        /// The loads; each runs in processes of its own, so that an oops in one does not end the agent.
        loads: Vec<Load>,
    },
    /// End all loads and wait for them: [`Answer::LoadEnded`].
    StopLoad,
    /// Send every kernel record printed so far: [`Answer::Drained`] with the newest sequence number sent.
    Drain,
}

/// Work that keeps the guest busy while devices come and go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Load {
    /// What it does.
    pub kind: LoadKind,
    /// How many processes do it, at least one.
    pub workers: u32,
}

/// What a load does, in an endless loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadKind {
    /// Maps 4 MiB of anonymous memory, touches every page, unmaps it.
    AnonymousMemory,
    /// Writes 1 MiB to a file in tmpfs, reads it back, removes it: page cache and shmem.
    PageCache,
    /// Forks a child that exits at once, and waits for it.
    Fork,
}

/// One line of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Say {
    /// The answer to the request with this `id`.
    Answer {
        /// The request's.
        id: u64,
        /// When the agent had it ready.
        at: GuestTime,
        /// What came of it.
        answer: Answer,
    },
    /// Something happened.
    Event {
        /// When the agent saw it.
        at: GuestTime,
        /// What.
        event: Event,
    },
}

/// What comes of a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::Snapshot`].
    Snapshot(Snapshot),
    /// To [`Request::Read`]. Bytes that are not UTF-8 are replaced.
    Contents(String),
    /// It was done.
    Done,
    /// To [`Request::StopLoad`]: loops completed by each load, in the order they were started.
    LoadEnded(Vec<u64>),
    /// To [`Request::Drain`]: the newest `/dev/kmsg` sequence number sent so far; none when nothing was printed.
    Drained(Option<u64>),
    /// The system call failed.
    Failed {
        /// `errno`, as a number.
        errno: i32,
        /// What was tried, and the error's name.
        what: String,
    },
}

/// What the agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the agent.
    pub version: u32,
    /// `uname -r`.
    pub release: String,
    /// Bytes in a page.
    pub page_bytes: u64,
    /// Bytes in a memory block (`/sys/devices/system/memory/block_size_bytes`); none without memory hotplug.
    pub block_bytes: Option<u64>,
}

/// What happens in the guest without being asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The agent serves requests.
    Ready(Hello),
    /// A kernel uevent of the `cpu` or `memory` subsystem (`lib/kobject_uevent.c`).
    Uevent {
        /// `add`, `remove`, `online`, `offline`, `change`.
        action: String,
        /// Path below `/sys`, such as `/devices/system/cpu/cpu3`.
        devpath: String,
    },
    /// The agent tried to bring a CPU online that had come.
    CpuOnline {
        /// Its logical number.
        cpu: u32,
        /// 0, or what the write to its `online` attribute failed with.
        errno: i32,
    },
    /// Some part of the agent failed; the trial cannot be believed.
    Broken {
        /// Which part, and how.
        what: String,
    },
}

/// The machine as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `MemTotal` of `/proc/meminfo`, KiB.
    pub mem_total_kib: u64,
    /// Zones with memory, as `/proc/zoneinfo` has them, in its order.
    pub zones: Vec<Zone>,
    /// Memory blocks, by number. Empty without memory hotplug.
    pub blocks: Vec<Block>,
    /// `/sys/devices/system/cpu/present`, expanded.
    pub cpus_present: Vec<u32>,
    /// `/sys/devices/system/cpu/online`, expanded.
    pub cpus_online: Vec<u32>,
    /// `debug_locks` of `/proc/lockdep_stats`: whether lockdep still checks. None in a kernel without it.
    pub lockdep_armed: Option<bool>,
    /// `/proc/sys/kernel/tainted`.
    pub tainted: u64,
}

/// One zone of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// NUMA node.
    pub node: u32,
    /// `DMA32`, `Normal`, `Movable`, ...
    pub name: String,
    /// Pages the zone spans less its holes: what hotplug adds and removes.
    pub present_pages: u64,
    /// Pages given to the page allocator.
    pub managed_pages: u64,
}

/// One memory block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Number: physical address divided by the block's size.
    pub number: u64,
    /// `online`, `offline` or `going-offline` (`state_show()` in drivers/base/memory.c).
    pub state: String,
}

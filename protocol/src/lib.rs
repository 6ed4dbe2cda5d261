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
pub const VERSION: u32 = 6;

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
        /// Where to begin, in bytes: a huge file, such as `/proc/kpageflags`, is read at a place.
        #[serde(default)]
        offset: u64,
        /// How many bytes at most; all there are when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
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
    /// How often each line ran of the files that the kernel counts: [`Answer::Counters`].
    Counters,
    /// Send every kernel record printed so far: [`Answer::Drained`] with the newest sequence number sent.
    Drain,
    /// Have the kernel's random numbers begin anew from what it has and `seed`, so that guests restored from one
    /// checkpoint do not all draw the same: [`Answer::Done`] or [`Answer::Failed`].
    Reseed {
        /// 32 bytes, in hexadecimal.
        seed: String,
    },
    /// From now on, begin each [`Request::Write`] on CPU 0 and at the same place between two ticks of the guest's clock, after
    /// it has been idle: how long the kernel takes depends on how soon the next tick comes. [`Answer::Done`].
    Steady,
    /// From now on, have devices interrupt this CPU, and whatever listens run there, and let nobody else of the agent's run
    /// on it: a host that holds other CPUs is then still heard. [`Answer::Done`] or [`Answer::Failed`].
    Listen {
        /// Its number.
        cpu: u32,
    },
    /// Restart the machine at once. No answer is promised; one that comes is [`Answer::Failed`].
    Reboot,
}

/// Work that keeps the guest busy while devices come and go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Load {
    /// What it does.
    pub kind: LoadKind,
    /// How many processes do it, at least one.
    pub workers: u32,
    /// Loops a second of each worker; as fast as it can when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// CPUs that the workers may run on, all of them online at the start; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// Of [`LoadKind::Read`] and [`LoadKind::Write`]: the files, by an absolute path whose components may have `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of [`LoadKind::Write`]: what is written, in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
    /// Of [`LoadKind::ResidentMemory`]: how much each worker keeps, in bytes, 64 MiB when absent. Of
    /// [`LoadKind::AnonymousMemory`]: how much it maps each time, 4 MiB when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Whether each loop is timed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed: bool,
}

/// What a load does, in an endless loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadKind {
    /// Maps anonymous memory, touches every page, unmaps it.
    AnonymousMemory,
    /// Writes 1 MiB to a file in tmpfs, reads it back, removes it: page cache and shmem.
    PageCache,
    /// Forks a child that exits at once, and waits for it.
    Fork,
    /// Reads one of the files at `path`, which stay open: somebody is inside an attribute when it vanishes.
    Read,
    /// Writes one of `data` to one of the files at `path`, which stay open.
    Write,
    /// Splits one mapping into many by protection, merges them, splits it by holes, unmaps it.
    Mmap,
    /// Keeps `bytes` of anonymous memory and writes to each of its pages: what an offline has to migrate.
    ResidentMemory,
    /// Creates files in tmpfs, looks at them, renames and removes them: dentries and inodes.
    Files,
    /// Has the kernel make a slab cache and destroy it, by a mount of 9p that fails.
    KmemCache,
    /// Makes a cgroup, moves into it, changes its cpuset, moves out and removes it.
    Cgroup,
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
    /// To [`Request::Counters`]: all that `/sys/kernel/debug/gcov` has, none in a kernel that counts nothing.
    Counters(Vec<ObjectCounters>),
    /// It was done.
    Done,
    /// To [`Request::StopLoad`]: what each load did, in the order they were started.
    LoadEnded(Vec<LoadEnd>),
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

/// What a load did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadEnd {
    /// Loops completed.
    pub loops: u64,
    /// Of a timed load: completed loops, worker after worker. Of each worker the first 65,536.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<LoopTime>,
    /// Of a timed load: loops that were under way when it was ended, and how long they had been.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<LoopTime>,
}

/// One loop of a timed load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopTime {
    /// When it began.
    pub began: GuestTime,
    /// How long it took.
    pub nanoseconds: u64,
}

/// gcc's counters of one object file, as `/sys/kernel/debug/gcov` has them (kernel/gcov/fs.c).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectCounters {
    /// Below `/sys/kernel/debug/gcov`: where the object was built, with the ending `.gcda`.
    pub path: String,
    /// The file's bytes, in hexadecimal.
    pub gcda: String,
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
    /// A kernel uevent of the `cpu`, `memory` or `nd` subsystem (`lib/kobject_uevent.c`).
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_load_does_not_say_is_not_sent() {
        let line = r#"{"kind":"fork","workers":2}"#;
        let load: Load = serde_json::from_str(line).unwrap();
        assert_eq!((load.rate, load.bytes, load.cpus.len()), (None, None, 0));
        assert_eq!(serde_json::to_string(&load).unwrap(), line);
        serde_json::from_str::<Load>(r#"{"kind":"fork","workers":2,"nice":1}"#).unwrap_err();
    }

    #[test]
    fn a_load_arrives_as_it_was_sent() {
        let load = Load {
            kind: LoadKind::Write,
            workers: 1,
            rate: Some(10),
            cpus: vec![0, 3],
            path: Some("/proc/sys/vm/numa_stat".into()),
            data: vec!["0".into(), "1".into()],
            bytes: None,
            timed: true,
        };
        let line = serde_json::to_string(&Request::StartLoad { loads: vec![load.clone()] }).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), Request::StartLoad { loads: vec![load] });
    }

    #[test]
    fn a_file_is_read_whole_unless_a_place_is_named() {
        let request: Request = serde_json::from_str(r#"{"read":{"path":"/proc/meminfo"}}"#).unwrap();
        assert_eq!(request, Request::Read { path: "/proc/meminfo".into(), offset: 0, length: None });
    }
}

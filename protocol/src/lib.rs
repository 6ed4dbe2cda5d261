//! The protocol between the harness and the agent in its guest: one JSON object a line, over a
//! virtio-serial port or a serial line.
//!
//! The host sends [`Ask`]s. The agent answers each with one [`Say::Answer`] of the same `id`, and
//! sends [`Say::Event`]s on its own in between. A second port, [`KMSG_PORT`], carries `/dev/kmsg`
//! records as the kernel gave them (Documentation/ABI/testing/dev-kmsg), from guest to host only.
//! Nothing is added, so that a gap in the sequence numbers is visible.
//!
//! Times are microseconds of the guest's `CLOCK_MONOTONIC`.

mod program;

pub use program::{Output, PROGRAM_PATH, PROGRAMS, ProgramEnd, ProgramRun, ROOTFS, Ran};

use serde::{Deserialize, Serialize};

/// The version of the protocol. Any change that an older peer would misread increases it. The agent
/// is embedded in the harness, so the two versions differ only if a checkpoint is older than an
/// update of the harness; the host then boots the guest again.
pub const VERSION: u32 = 9;

/// Name of the virtio-serial port for [`Ask`] and [`Say`], as in
/// `/sys/class/virtio-ports/*/name`.
pub const AGENT_PORT: &str = "hotplug.agent";

/// Name of the virtio-serial port that carries raw `/dev/kmsg` records.
pub const KMSG_PORT: &str = "hotplug.kmsg";

/// The variable of the agent's environment that names the serial line for [`Ask`] and [`Say`], such
/// as `ttyS1`. The host puts it on the kernel's command line, which passes it on
/// (Documentation/admin-guide/kernel-parameters.rst). Without it, the ports are those of
/// virtio-serial.
pub const AGENT_LINE: &str = "hotplug_agent";

/// The same for the serial line that carries raw `/dev/kmsg` records.
pub const KMSG_LINE: &str = "hotplug_kmsg";

/// Microseconds of the guest's `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuestTime(pub u64);

/// One request of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Chosen by the host, repeated in the answer.
    pub id: u64,
    /// The request itself.
    pub request: Request,
}

/// A request of the host to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Identify the agent and the guest: [`Answer::Hello`].
    Hello,
    /// Take a snapshot of the machine as the guest sees it: [`Answer::Snapshot`].
    Snapshot,
    /// Read a file (sysfs, procfs, debugfs): [`Answer::Contents`] or [`Answer::Failed`].
    Read {
        /// Absolute path in the guest.
        path: String,
        /// The offset to begin at, in bytes: a huge file, such as `/proc/kpageflags`, is read in
        /// part.
        #[serde(default)]
        offset: u64,
        /// The maximum number of bytes; to the end of the file if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
    },
    /// Write `data` to a file with one `write(2)`, as sysfs requires: [`Answer::Done`] or
    /// [`Answer::Failed`].
    Write {
        /// Absolute path in the guest.
        path: String,
        /// The value, which is written in one call.
        data: String,
    },
    /// Like [`Request::Write`], while the `nth` memory allocation of the write fails
    /// (`/proc/thread-self/fail-nth`, Documentation/fault-injection/fault-injection.rst):
    /// [`Answer::Injected`], or [`Answer::Failed`] if no allocation can fail on purpose.
    WriteFailing {
        /// Absolute path in the guest.
        path: String,
        /// The value, which is written in one call.
        data: String,
        /// The number of the allocation, from 1.
        nth: u32,
    },
    /// Start loads in addition to the running ones: [`Answer::Done`] once all of them run, or
    /// [`Answer::Failed`].
    StartLoad {
        /// The loads. Each runs in processes of its own, so that an oops in one does not end the
        /// agent.
        loads: Vec<Load>,
    },
    /// End all loads and wait for them: [`Answer::LoadEnded`].
    StopLoad,
    /// Run a program of the user to its end: [`Answer::Ran`], or [`Answer::Failed`] if it cannot be
    /// started.
    Run(ProgramRun),
    /// Read how often each line of the instrumented files of the kernel ran: [`Answer::Counters`].
    Counters,
    /// Send every kernel record printed so far: [`Answer::Drained`] with the newest sequence number
    /// sent.
    Drain,
    /// Reseed the kernel's random number generator from its own entropy and `seed`, so that guests
    /// that are restored from one checkpoint do not all draw the same numbers: [`Answer::Done`] or
    /// [`Answer::Failed`].
    Reseed {
        /// 32 bytes, in hexadecimal.
        seed: String,
    },
    /// From now on, begin each [`Request::Write`] on CPU 0 and at the same point between two ticks
    /// of the guest's clock, after the CPU was idle: the time that the kernel takes depends on how
    /// soon the next tick comes. [`Answer::Done`].
    Steady,
    /// From now on, route device interrupts to this CPU, run the listening threads of the agent
    /// there, and keep its other threads off it. The agent then still responds while the host holds
    /// other CPUs. [`Answer::Done`] or [`Answer::Failed`].
    Listen {
        /// The number of the CPU.
        cpu: u32,
    },
    /// Tell what is left of a trial whose loads have ended: [`Answer::Rest`].
    Rest,
    /// Restart the machine at once. An answer arrives only on failure: [`Answer::Failed`].
    Reboot,
}

/// Work that keeps the guest busy during hotplug.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Load {
    /// The work.
    pub kind: LoadKind,
    /// The number of processes, at least one.
    pub workers: u32,
    /// Loops a second of each worker; unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// CPUs that the workers may run on, all of them online at the start; any if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// For [`LoadKind::Read`] and [`LoadKind::Write`]: an absolute path of files, whose components
    /// may contain `*`. For [`LoadKind::BlockIo`]: the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// For [`LoadKind::Write`]: the values that are written, in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
    /// For [`LoadKind::ResidentMemory`]: the memory that each worker keeps, in bytes, 64 MiB if
    /// absent. For [`LoadKind::AnonymousMemory`]: the memory that each loop maps, 4 MiB if absent.
    /// For [`LoadKind::MergedMemory`], [`LoadKind::SwappedMemory`], [`LoadKind::HugeMemory`] and
    /// [`LoadKind::HugetlbMemory`]: the memory that each worker keeps, 16 MiB if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// For [`LoadKind::Program`]: the program that each loop runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramRun>,
    /// For [`LoadKind::Program`]: whether it is a finding if the program does not succeed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_succeed: bool,
    /// Whether each loop is timed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed: bool,
}

/// The folder in the guest that has the modules of a packaged kernel.
pub const MODULES: &str = "/modules";

/// The file in [`MODULES`] that lists them, each after those that it needs.
pub const MODULE_LIST: &str = "list";

/// The work of a load, in an endless loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadKind {
    /// Maps anonymous memory, touches every page, unmaps it.
    AnonymousMemory,
    /// Writes 1 MiB to a file in tmpfs, reads it back, removes it: page cache and shmem.
    PageCache,
    /// Forks a child that exits at once, and waits for it.
    Fork,
    /// Reads one of the files at `path`, which stay open, so that a task is inside an attribute
    /// when it is removed.
    Read,
    /// Writes one of `data` to one of the files at `path`, which stay open.
    Write,
    /// Splits one mapping into many by protection, merges them, splits it by holes, unmaps it.
    Mmap,
    /// Keeps `bytes` of anonymous memory and writes to each of its pages, which an offline has to
    /// migrate.
    ResidentMemory,
    /// Creates files in tmpfs, stats, renames and removes them: dentries and inodes.
    Files,
    /// Makes the kernel create and destroy a slab cache, with a 9p mount that fails.
    KmemCache,
    /// Creates a cgroup, moves into it, changes its cpuset, moves out and removes it.
    Cgroup,
    /// Keeps `bytes` of equal pages, which the kernel merges (KSM), and unmerges one in each loop.
    MergedMemory,
    /// Keeps `bytes` of memory, and swaps it out in each loop, to a zram device.
    SwappedMemory,
    /// Keeps `bytes` of memory in transparent huge pages, and writes to it.
    HugeMemory,
    /// Keeps `bytes` of memory in huge pages of the pool, which it makes larger, and writes to it.
    HugetlbMemory,
    /// Runs without a pause in a cgroup that may run a fifth of the time.
    Throttled,
    /// Isolates the last CPU in a cpuset partition, and gives it back.
    Partition,
    /// Starts timers on each CPU in turn.
    Timers,
    /// Keeps a perf event open on each CPU, and reads them.
    PerfEvents,
    /// Is a task with deadlines (`SCHED_DEADLINE`).
    Deadline,
    /// Creates a virtual machine, and then destroys the one before.
    VirtualMachine,
    /// Writes and reads a block of the device at `path`, past the page cache.
    BlockIo,
    /// Lets worker threads of `io_uring` take eight requests.
    IoUring,
    /// Runs `program` to its end.
    Program,
}

/// One line of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Say {
    /// The answer to the request with this `id`.
    Answer {
        /// The `id` of the request.
        id: u64,
        /// The time at which the answer was ready.
        at: GuestTime,
        /// The result.
        answer: Answer,
    },
    /// An event in the guest.
    Event {
        /// The time at which the agent saw it.
        at: GuestTime,
        /// The event.
        event: AgentEvent,
    },
}

/// The result of a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::Snapshot`].
    Snapshot(Snapshot),
    /// To [`Request::Read`]. Bytes that are not UTF-8 are replaced.
    Contents(String),
    /// To [`Request::Counters`]: all of `/sys/kernel/debug/gcov`; empty for a kernel without
    /// counters.
    Counters(Vec<ObjectCounters>),
    /// To [`Request::WriteFailing`].
    Injected {
        /// 0, or the error of the write.
        errno: i32,
        /// Whether the write had so many allocations that one failed.
        is_injected: bool,
    },
    /// The request was carried out.
    Done,
    /// To [`Request::StopLoad`]: the result of each load, in the order in which they were started.
    LoadEnded(Vec<LoadEnd>),
    /// To [`Request::Run`].
    Ran(Ran),
    /// To [`Request::Rest`].
    Rest(Rest),
    /// To [`Request::Drain`]: the newest `/dev/kmsg` sequence number sent so far; null if the
    /// kernel printed nothing.
    Drained(Option<u64>),
    /// The system call failed.
    Failed {
        /// `errno`, as a number.
        errno: i32,
        /// The attempted action, and the name of the error.
        what: String,
    },
}

/// What a guest has after its loads have ended, apart from what [`Snapshot`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// When it was read.
    pub at: GuestTime,
    /// The number of processes.
    pub processes: u32,
    /// The number of kernel threads.
    pub kernel_threads: u32,
    /// The memory that could be allocated without swapping, in KiB: `MemAvailable` of
    /// `/proc/meminfo`.
    pub available_kib: u64,
}

/// The result of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadEnd {
    /// Loops completed.
    pub loops: u64,
    /// For a program: the loops in which it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
    /// For a timed load: the completed loops, worker after worker, at most the first 65,536 of
    /// each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<LoopTime>,
    /// For a timed load: the loops that were running when it was ended, with the time that they had
    /// taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<LoopTime>,
}

/// The loops of a load in which its program did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Their number.
    pub number: u64,
    /// How the program ended in the last of them, and its last line.
    pub last: String,
}

/// One loop of a timed load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopTime {
    /// The time at which it began.
    pub began: GuestTime,
    /// The time that it took.
    pub nanoseconds: u64,
}

/// gcc's counters of one object file, as `/sys/kernel/debug/gcov` has them (kernel/gcov/fs.c).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectCounters {
    /// The path below `/sys/kernel/debug/gcov`: that of the object file, with the extension
    /// `.gcda`.
    pub path: String,
    /// The file's bytes, in hexadecimal.
    pub gcda: String,
}

/// The identity of the agent and of its guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the agent.
    pub version: u32,
    /// `uname -r`.
    pub release: String,
    /// Bytes in a page.
    pub page_bytes: u64,
    /// Bytes in a memory block (`/sys/devices/system/memory/block_size_bytes`); null without memory
    /// hotplug.
    pub block_bytes: Option<u64>,
}

/// An event in the guest that is not the answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentEvent {
    /// The agent is ready for requests.
    Ready(Hello),
    /// A kernel uevent of the `cpu`, `memory` or `nd` subsystem (`lib/kobject_uevent.c`).
    Uevent {
        /// `add`, `remove`, `online`, `offline`, `change`.
        action: String,
        /// Path below `/sys`, such as `/devices/system/cpu/cpu3`.
        devpath: String,
    },
    /// The agent tried to bring a CPU online that had been plugged.
    CpuOnline {
        /// Its logical number.
        cpu: u32,
        /// 0, or the error of the write to its `online` attribute.
        errno: i32,
    },
    /// A part of the agent failed: the trial is not valid.
    Broken {
        /// The part, and its failure.
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
    /// Pages that the zone spans, without its holes: hotplug adds and removes them.
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
            program: None,
            must_succeed: false,
            timed: true,
        };
        let line = serde_json::to_string(&Request::StartLoad { loads: vec![load.clone()] }).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), Request::StartLoad { loads: vec![load] });
    }

    #[test]
    fn the_last_line_of_an_output_is_found() {
        let output = |start: &str, end: &str| Output { start: start.into(), left_out: 0, end: end.into() };
        assert_eq!(output("", "").last_line(), "");
        assert_eq!(output("one\ntwo\n\n", "").last_line(), "two");
        assert_eq!(output("one\n", "..three\nfour").last_line(), "four");
    }

    #[test]
    fn a_file_is_read_whole_unless_a_place_is_named() {
        let request: Request = serde_json::from_str(r#"{"read":{"path":"/proc/meminfo"}}"#).unwrap();
        assert_eq!(request, Request::Read { path: "/proc/meminfo".into(), offset: 0, length: None });
    }
}

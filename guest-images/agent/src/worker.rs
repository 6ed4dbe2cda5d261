//! `/init load JSON`: one process of a load, in an endless loop until it is killed.
//!
//! The modules of loads have `unsafe` where the load is a system call that no safe call covers.

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hotplug_protocol::{Load, LoadKind};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use crate::attributes::{Readers, Writers};
use crate::block_io::BlockIo;
use crate::cgroup::{Cgroup, Partition, Throttled};
use crate::mapping::{Mapping, PAGE_BYTES, READ_WRITE};
use crate::merged_memory::MergedMemory;
use crate::pace::Pace;
use crate::per_cpu::{Deadline, PerfEvents, Timers};
use crate::program::Runs;
use crate::slab_cache::SlabCache;
use crate::swapped_memory::SwappedMemory;
use crate::timed::Times;
use crate::uring::Uring;
use crate::virtual_machine::VirtualMachine;
use crate::{churn, huge_memory, program, snapshot};

/// Written to standard error when the loop begins. Any other output there is an error.
pub(crate) const STARTED: u8 = b'.';

/// The size of the count in the file: completed loops, in native byte order.
pub(crate) const COUNT_BYTES: NonZeroUsize = NonZeroUsize::new(size_of::<AtomicU64>()).expect("not zero");

const MAPPING_BYTES: NonZeroUsize = NonZeroUsize::new(4 << 20).expect("not zero");
const RESIDENT_BYTES: NonZeroUsize = NonZeroUsize::new(64 << 20).expect("not zero");
const KEPT_BYTES: NonZeroUsize = NonZeroUsize::new(16 << 20).expect("not zero");
const FILE_BYTES: usize = 1 << 20;

/// Set by a signal: the loop is the last one.
static STOP: AtomicBool = AtomicBool::new(false);

/// Whether a load ends after its loop when the agent asks it to (`SIGTERM`), because a fatal signal
/// must not cut the loop off. A task with one gets no per-CPU memory (mm/percpu.c,
/// `mutex_lock_killable`), and 7.3 warns about that when a CPU is isolated
/// (kernel/sched/isolation.c, `housekeeping_update`).
pub(crate) fn ends_after_its_loop(kind: LoadKind) -> bool {
    kind == LoadKind::Partition
}

/// Handles `SIGTERM`: the loop is the last one.
#[expect(unsafe_code, reason = "a signal handler is called at any point")]
fn end_after_the_loop() -> io::Result<()> {
    extern "C" fn stop(_: libc::c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler stores to an atomic variable, which is safe at any point.
    unsafe { sigaction(Signal::SIGTERM, &action)? };
    Ok(())
}

/// Loops until the process is killed. Standard output is the file for the count.
pub(crate) fn run(load: &str) -> io::Result<()> {
    let load: Load = serde_json::from_str(load)?;
    // If memory runs out, the OOM killer must end this process and not the agent.
    std::fs::write("/proc/self/oom_score_adj", "1000")?;
    stay_on(&load.cpus)?;
    let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let done = count(&file)?;
    let mut times = load.timed.then(|| Times::new(&file));
    if ends_after_its_loop(load.kind) {
        end_after_the_loop()?;
    }
    let mut work = prepare(&load, std::process::id())?;
    io::stderr().write_all(&[STARTED])?;
    // If loops are timed, those that a stall prevented are not made up for: they would count as
    // many short ones.
    let mut pace = if load.timed { Pace::without_backlog(load.rate) } else { Pace::new(load.rate) };
    loop {
        pace.wait();
        if STOP.load(Ordering::Relaxed) {
            return Ok(());
        }
        let began = times.as_ref().map(Times::begin).transpose()?;
        let is_done = match work.once() {
            Ok(()) => {
                done.fetch_add(1, Ordering::Relaxed);
                true
            }
            // Memory may run out while DIMMs are removed, and an attribute may refuse: a load is
            // meant to meet these cases. Such a loop does not count.
            Err(error) if work.is_expected(&error) => false,
            Err(error) => return Err(error),
        };
        if let (Some(times), Some(began)) = (&mut times, began) {
            times.end(began, is_done)?;
        }
    }
}

/// A load that is ready to loop.
pub(crate) trait Loop {
    /// One loop.
    fn once(&mut self) -> io::Result<()>;

    /// Whether a loop may fail with this error. Memory may run out while DIMMs are removed.
    fn is_expected(&self, error: &io::Error) -> bool {
        let errno = error.raw_os_error().map(Errno::from_raw);
        matches!(errno, Some(Errno::ENOMEM | Errno::EAGAIN | Errno::ENOSPC))
    }
}

/// The error of a load that cannot start: the kernel may lack an option.
pub(crate) fn lacks(what: &str, option: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::other(format!("{what}, which needs {option}: {error}"))
}

/// A load without state of its own.
struct Plain<F>(F);

impl<F: FnMut() -> io::Result<()>> Loop for Plain<F> {
    fn once(&mut self) -> io::Result<()> {
        (self.0)()
    }
}

/// Prepares a load. Fails if the kernel lacks what it needs.
fn prepare(load: &Load, worker: u32) -> io::Result<Box<dyn Loop>> {
    let path =
        || load.path.as_deref().ok_or_else(|| io::Error::other("a load that reads or writes needs a path"));
    let bytes = |usual: NonZeroUsize| -> io::Result<NonZeroUsize> {
        let Some(bytes) = load.bytes else { return Ok(usual) };
        Ok(usize::try_from(bytes).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?)
    };
    Ok(match load.kind {
        LoadKind::AnonymousMemory => {
            let bytes = bytes(MAPPING_BYTES)?;
            Box::new(Plain(move || Mapping::new(bytes, READ_WRITE).map(|mut new| new.touch())))
        }
        LoadKind::PageCache => {
            let (scratch, mut buffer) = (scratch(worker), vec![0x5a; FILE_BYTES]);
            Box::new(Plain(move || write_read_remove(&scratch, &mut buffer)))
        }
        LoadKind::Fork => Box::new(Plain(fork_and_wait)),
        LoadKind::Read => Box::new(Readers::open(path()?)?),
        LoadKind::Write => Box::new(Writers::open(path()?, &load.data)?),
        LoadKind::Mmap => Box::new(Plain(split_and_merge)),
        LoadKind::ResidentMemory => Box::new(Mapping::new(bytes(RESIDENT_BYTES)?, READ_WRITE)?),
        LoadKind::Files => {
            let folder = churn::folder(worker)?;
            Box::new(Plain(move || churn::once(&folder)))
        }
        LoadKind::KmemCache => Box::new(SlabCache::new(worker)?),
        LoadKind::Cgroup => Box::new(Cgroup::new(worker)?),
        LoadKind::MergedMemory => Box::new(MergedMemory::new(bytes(KEPT_BYTES)?)?),
        LoadKind::SwappedMemory => Box::new(SwappedMemory::new(bytes(KEPT_BYTES)?)?),
        LoadKind::HugeMemory => Box::new(huge_memory::transparent(bytes(KEPT_BYTES)?)?),
        LoadKind::HugetlbMemory => Box::new(huge_memory::of_pool(bytes(KEPT_BYTES)?)?),
        LoadKind::Throttled => Box::new(Throttled::new()?),
        LoadKind::Partition => Box::new(Partition::new()?),
        LoadKind::Timers => Box::new(Timers::new()?),
        LoadKind::PerfEvents => Box::new(PerfEvents::new()?),
        LoadKind::Deadline => Box::new(Deadline::new()?),
        LoadKind::VirtualMachine => Box::new(VirtualMachine::new()?),
        LoadKind::BlockIo => Box::new(BlockIo::open(path()?)?),
        LoadKind::IoUring => Box::new(Uring::new()?),
        LoadKind::Program => Box::new(Runs::new(load.program.as_ref(), worker)?),
    })
}

/// Binds the calling thread to these CPUs; does nothing if there are none. All of them must be
/// online: `sched_setaffinity(2)` would use those that are, and ignore the others.
pub(crate) fn stay_on(cpus: &[u32]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let online = snapshot::cpus("online")?;
    let mut set = CpuSet::new();
    for cpu in cpus {
        if !online.contains(cpu) {
            return Err(io::Error::other(format!("CPU {cpu} is not online")));
        }
        set.set(usize::try_from(*cpu).map_err(io::Error::other)?)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn scratch(worker: u32) -> PathBuf {
    format!("/tmp/page-cache-{worker}").into()
}

/// Removes the leftovers of a killed worker.
pub(crate) fn clean_up(worker: u32) {
    let _ = std::fs::remove_file(scratch(worker));
    program::clean_up(worker);
    churn::clean_up(worker);
    SlabCache::clean_up(worker);
    Cgroup::clean_up(worker);
    Throttled::clean_up();
    Partition::clean_up();
}

/// The count, in a shared mapping of the file: a system call for each loop would be half of a
/// reader's work.
#[expect(unsafe_code, reason = "only a shared mapping is the file's memory")]
fn count(file: &File) -> io::Result<&'static AtomicU64> {
    file.set_len(u64::try_from(COUNT_BYTES.get()).map_err(io::Error::other)?)?;
    // SAFETY: the kernel chooses the place of a new mapping, so it overlaps no memory of this
    // process.
    let start = unsafe { mmap(None, COUNT_BYTES, READ_WRITE, MapFlags::MAP_SHARED, file, 0)? };
    // SAFETY: a mapping is aligned to a page and never unmapped here; the file has the bytes, and
    // no code shortens it. The agent reads them by read(2) only.
    Ok(unsafe { start.cast::<AtomicU64>().as_ref() })
}

/// Splits one area into 128 by protection, merges them again, and punches 32 holes into it
/// (mm/mmap.c: `vma_merge`, `__split_vma`).
fn split_and_merge() -> io::Result<()> {
    const PAGES: usize = 128;
    const BYTES: NonZeroUsize = NonZeroUsize::new(PAGES * PAGE_BYTES).expect("not zero");
    let mut mapping = Mapping::new(BYTES, READ_WRITE)?;
    // This creates page tables and an anon_vma, which the parts then share.
    mapping.touch();
    for page in (1..PAGES).step_by(2) {
        mapping.protect(page, 1, ProtFlags::PROT_READ)?;
    }
    mapping.protect(0, PAGES, READ_WRITE)?;
    for page in (1..PAGES).step_by(4) {
        mapping.punch(page)?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "a fork without exec is the load")]
fn fork_and_wait() -> io::Result<()> {
    // SAFETY: the worker has one thread, so the child may do anything. It only ends.
    match unsafe { fork()? } {
        // SAFETY: _exit(2) takes any status. No destructor and no exit handler of the parent may
        // run here.
        ForkResult::Child => unsafe { libc::_exit(0) },
        ForkResult::Parent { child } => waitpid(child, None).map(drop).map_err(Into::into),
    }
}

fn write_read_remove(path: &Path, buffer: &mut [u8]) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(buffer)?;
    io::Seek::rewind(&mut file)?;
    file.read_exact(buffer)?;
    std::fs::remove_file(path)
}

/// Mixes `seed` into the kernel's entropy and makes its generator take a new key from there, for
/// all CPUs (6.1 drivers/char/random.c, `crng_reseed`: the keys and batches of each CPU then belong
/// to an old generation).
///
/// Writing to `/dev/urandom` would mix but not credit, and a generator that is not ready yet
/// refuses to be reseeded.
#[expect(unsafe_code, reason = "no safe call covers these ioctls")]
pub(crate) fn reseed(seed: [u8; 32]) -> io::Result<()> {
    /// `struct rand_pool_info` (include/uapi/linux/random.h).
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: libc::c_int,
        bytes: libc::c_int,
        seed: [u8; 32],
    }
    /// The request number contains the size of the two numbers before the bytes.
    const RNDADDENTROPY: libc::c_ulong = nix::request_code_write!(b'R', 3, 2 * size_of::<libc::c_int>());
    const RNDRESEEDCRNG: libc::c_ulong = nix::request_code_none!(b'R', 7);
    let device = File::options().write(true).open("/dev/random")?;
    let info = PoolInfo { entropy_bits: 256, bytes: 32, seed };
    // SAFETY: the kernel reads the two numbers and the 32 bytes after them, which outlive the call.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) })?;
    // SAFETY: this one takes no argument.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) })?;
    Ok(())
}

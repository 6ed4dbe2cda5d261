//! `/init load KIND`: one process of a load, in an endless loop until it is killed.
//!
//! The one module with `unsafe`: mapping memory and forking without exec, which are the point of two of the loads.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use hotplug_protocol::LoadKind;
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

/// Said on standard error when the loop begins. Anything else there is an error.
pub(crate) const STARTED: u8 = b'.';

const MAPPING_BYTES: NonZeroUsize = NonZeroUsize::new(4 << 20).expect("not zero");
const FILE_BYTES: usize = 1 << 20;

/// The smallest page there is: a larger one is touched more than once, which does no harm.
const PAGE_BYTES: usize = 4096;

/// Loops until killed. Standard output is the file that the count goes to.
pub(crate) fn run(kind: &str) -> io::Result<Infallible> {
    let kind: LoadKind = serde_json::from_value(kind.into())?;
    // When memory runs out, this is what must go, not the agent.
    std::fs::write("/proc/self/oom_score_adj", "1000")?;
    let count = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let scratch = scratch(std::process::id());
    let mut buffer = vec![0x5a; FILE_BYTES];
    io::stderr().write_all(&[STARTED])?;
    let mut done = 0_u64;
    loop {
        let result = match kind {
            LoadKind::AnonymousMemory => map_touch_unmap(),
            LoadKind::PageCache => write_read_remove(&scratch, &mut buffer),
            LoadKind::Fork => fork_and_wait(),
        };
        match result {
            Ok(()) => {
                done += 1;
                count.write_all_at(&done.to_ne_bytes(), 0)?;
            }
            // Memory may run out while DIMMs go: that is what a load is for. Such a loop does not count.
            Err(error) if is_shortage(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOMEM | Errno::EAGAIN | Errno::ENOSPC))
}

fn scratch(worker: u32) -> PathBuf {
    format!("/tmp/page-cache-{worker}").into()
}

/// Removes what a killed worker left behind.
pub(crate) fn clean_up(worker: u32) {
    let _ = std::fs::remove_file(scratch(worker));
}

#[expect(unsafe_code, reason = "an allocator would keep the pages; only mmap(2) gives new ones each time")]
fn map_touch_unmap() -> io::Result<()> {
    let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    // SAFETY: the kernel chooses the place of a new anonymous mapping, so nothing of ours is in it.
    let start = unsafe { mmap_anonymous(None, MAPPING_BYTES, protection, flags)? };
    for offset in (0..MAPPING_BYTES.get()).step_by(PAGE_BYTES) {
        // SAFETY: the offset is inside the mapping, which is writable and known to nobody else.
        unsafe { start.cast::<u8>().add(offset).write_volatile(1) };
    }
    // SAFETY: exactly the mapping made above, to which no reference was ever made.
    unsafe { munmap(start, MAPPING_BYTES.get())? };
    Ok(())
}

#[expect(unsafe_code, reason = "a fork without exec is the load")]
fn fork_and_wait() -> io::Result<()> {
    // SAFETY: the worker has one thread, so the child may do what it likes; it only ends.
    match unsafe { fork()? } {
        // SAFETY: _exit(2) takes any status. No destructor and no exit handler of the parent's may run here.
        ForkResult::Child => unsafe { libc::_exit(0) },
        ForkResult::Parent { child } => waitpid(child, None).map(drop).map_err(Into::into),
    }
}

fn write_read_remove(path: &PathBuf, buffer: &mut [u8]) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(buffer)?;
    io::Seek::rewind(&mut file)?;
    file.read_exact(buffer)?;
    std::fs::remove_file(path)
}

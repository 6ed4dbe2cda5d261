//! A load of memory that is swapped out and in again: through zswap, if the kernel has it
//! (mm/zswap.c), to a compressed device in memory (drivers/block/zram). Both keep streams for each
//! CPU, which their callbacks of CPU hotplug allocate and free.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::libc;

use crate::mapping::{Mapping, PAGE_BYTES, READ_WRITE};
use crate::serve;
use crate::worker::{Loop, lacks};

const DEVICE: &str = "/dev/zram0";

/// The size of the device, in pages of 4 KiB.
const DEVICE_PAGES: u32 = 32 << 10;

/// Memory whose pages are swapped out in each loop.
#[derive(Debug)]
pub(crate) struct SwappedMemory(Mapping);

impl SwappedMemory {
    pub(crate) fn new(bytes: NonZeroUsize) -> io::Result<Self> {
        swap_on().map_err(lacks("swap on /dev/zram0", "CONFIG_SWAP and CONFIG_ZRAM"))?;
        // A kernel without zswap swaps to the device alone.
        let _ = serve::write("/sys/module/zswap/parameters/enabled", "Y");
        Mapping::new(bytes, READ_WRITE).map(Self)
    }
}

impl Loop for SwappedMemory {
    fn once(&mut self) -> io::Result<()> {
        self.0.touch();
        self.0.advise(libc::MADV_PAGEOUT)
    }
}

/// Swaps to the device, unless another load does already.
#[expect(unsafe_code, reason = "no safe call covers swapon(2)")]
fn swap_on() -> io::Result<()> {
    if std::fs::read_to_string("/proc/swaps")?.contains(DEVICE) {
        return Ok(());
    }
    match serve::write("/sys/block/zram0/disksize", &(u64::from(DEVICE_PAGES) * 4096).to_string()) {
        // Another load has set it, and is about to swap to it.
        Err(error) if serve::errno(&error) == Errno::EBUSY as i32 => return Ok(()),
        other => other?,
    }
    // The first page of a device for swap (include/linux/swap.h, `union swap_header`): after 1 KiB,
    // the version and the last page; at the end, a magic word.
    let mut header = [0; PAGE_BYTES];
    header[1024..1028].copy_from_slice(&1_u32.to_ne_bytes());
    header[1028..1032].copy_from_slice(&(DEVICE_PAGES - 1).to_ne_bytes());
    header[PAGE_BYTES - 10..].copy_from_slice(b"SWAPSPACE2");
    File::options().write(true).open(DEVICE)?.write_all_at(&header, 0)?;
    let path = CString::new(DEVICE)?;
    // SAFETY: the path is a string that outlives the call.
    Errno::result(unsafe { libc::swapon(path.as_ptr(), 0) })?;
    Ok(())
}

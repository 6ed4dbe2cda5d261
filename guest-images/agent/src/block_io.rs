//! A load of requests to a block device, past the page cache. A device with several queues gives
//! each to some CPUs, and drains the queue whose last CPU goes (block/blk-mq.c,
//! `blk_mq_hctx_notify_offline`).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use nix::libc;

use crate::worker::Loop;

/// The blocks that are read and written, in turn.
const BLOCKS: u64 = 256;

/// A block, aligned as direct I/O needs it.
#[repr(align(4096))]
#[derive(Debug)]
struct Block([u8; 4096]);

/// A block device.
#[derive(Debug)]
pub(crate) struct BlockIo {
    device: File,
    block: Box<Block>,
    next: u64,
}

impl BlockIo {
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let device = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
        Ok(Self { device, block: Box::new(Block([0x5a; 4096])), next: 0 })
    }
}

impl Loop for BlockIo {
    fn once(&mut self) -> io::Result<()> {
        self.next = (self.next + 1) % BLOCKS;
        self.device.write_all_at(&self.block.0, self.next * 4096)?;
        self.device.read_exact_at(&mut self.block.0, self.next * 4096)
    }
}

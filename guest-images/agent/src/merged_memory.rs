//! A load of equal pages, which the kernel merges (mm/ksm.c). A merged page has no owner of its own,
//! so a block with one goes offline on a path of its own (`ksm_migrate_page`, and
//! `ksm_memory_callback`, which keeps the merging thread out meanwhile).

use std::io;
use std::num::NonZeroUsize;

use nix::libc;

use crate::mapping::{Mapping, READ_WRITE};
use crate::serve;
use crate::worker::{Loop, lacks};

const KSM: &str = "/sys/kernel/mm/ksm";

/// Memory whose pages are equal, but for the one that the last loop wrote to.
#[derive(Debug)]
pub(crate) struct MergedMemory {
    memory: Mapping,
    next: usize,
}

impl MergedMemory {
    pub(crate) fn new(bytes: NonZeroUsize) -> io::Result<Self> {
        // Enough for some MiB: the thread takes a noticeable part of a CPU under TCG.
        for (file, value) in [("pages_to_scan", "100"), ("sleep_millisecs", "50"), ("run", "1")] {
            let path = format!("{KSM}/{file}");
            serve::write(&path, value).map_err(lacks(&path, "CONFIG_KSM"))?;
        }
        let mut memory = Mapping::new(bytes, READ_WRITE)?;
        memory.touch();
        memory.advise(libc::MADV_MERGEABLE)?;
        Ok(Self { memory, next: 0 })
    }
}

impl Loop for MergedMemory {
    /// Makes one page differ, which gives it a copy of its own, and equal again.
    fn once(&mut self) -> io::Result<()> {
        self.next = (self.next + 1) % self.memory.pages().max(1);
        self.memory.write(self.next, 2);
        self.memory.write(self.next, 1);
        Ok(())
    }
}

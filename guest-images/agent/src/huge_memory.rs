//! A load of huge pages, which a block with some of them must migrate whole, split or dissolve to go
//! offline (`mm/huge_memory.c`, mm/hugetlb.c).

use std::io;
use std::num::NonZeroUsize;

use nix::libc;

use crate::mapping::{Mapping, READ_WRITE};
use crate::serve;
use crate::worker::lacks;

/// The size of the pool of huge pages.
const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// The size of a huge page of x86, in bytes.
const HUGE_BYTES: usize = 2 << 20;

/// Memory in transparent huge pages, as far as the kernel has them.
pub(crate) fn transparent(bytes: NonZeroUsize) -> io::Result<Mapping> {
    // The mapping may begin inside a huge page.
    let memory = Mapping::new(bytes.saturating_add(HUGE_BYTES), READ_WRITE)?;
    memory.advise(libc::MADV_HUGEPAGE).map_err(lacks("huge pages", "CONFIG_TRANSPARENT_HUGEPAGE"))?;
    Ok(memory)
}

/// Memory in pages of the pool, which grows by them.
pub(crate) fn of_pool(bytes: NonZeroUsize) -> io::Result<Mapping> {
    let pages = bytes.get().div_ceil(HUGE_BYTES);
    let text = std::fs::read_to_string(POOL).map_err(lacks(POOL, "CONFIG_HUGETLBFS"))?;
    let there: usize = text.trim().parse().map_err(io::Error::other)?;
    serve::write(POOL, &(there + pages).to_string())?;
    Mapping::of_pool(NonZeroUsize::new(pages * HUGE_BYTES).unwrap_or(bytes))
}

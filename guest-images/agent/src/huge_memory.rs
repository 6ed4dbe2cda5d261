//! A load of huge pages, which a block with some of them must migrate whole, split or dissolve to go
//! offline (`mm/huge_memory.c`, mm/hugetlb.c).

use std::io;
use std::num::NonZeroUsize;

use nix::libc;

use crate::mapping::{Mapping, READ_WRITE};
use crate::serve;
use crate::worker::Loop;

/// The size of the pool of huge pages.
const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// The size of a huge page of x86, in bytes.
const HUGE_BYTES: usize = 2 << 20;

/// Memory in huge pages, as far as the kernel has them.
#[derive(Debug)]
pub(crate) struct HugeMemory(Mapping);

impl HugeMemory {
    /// Transparent huge pages.
    pub(crate) fn transparent(bytes: NonZeroUsize) -> io::Result<Self> {
        // The mapping may begin inside a huge page.
        let memory = Mapping::new(bytes.saturating_add(HUGE_BYTES), READ_WRITE)?;
        memory.advise(libc::MADV_HUGEPAGE).map_err(|error| {
            io::Error::other(format!("huge pages, which need CONFIG_TRANSPARENT_HUGEPAGE: {error}"))
        })?;
        Ok(Self(memory))
    }

    /// Pages of the pool, which grows by them.
    pub(crate) fn of_pool(bytes: NonZeroUsize) -> io::Result<Self> {
        let pages = bytes.get().div_ceil(HUGE_BYTES);
        let text = std::fs::read_to_string(POOL)
            .map_err(|error| io::Error::other(format!("{POOL}, which needs CONFIG_HUGETLBFS: {error}")))?;
        let there: usize = text.trim().parse().map_err(io::Error::other)?;
        serve::write(POOL, &(there + pages).to_string())?;
        let bytes = NonZeroUsize::new(pages * HUGE_BYTES).unwrap_or(bytes);
        Mapping::of_pool(bytes).map(Self)
    }
}

impl Loop for HugeMemory {
    fn once(&mut self) -> io::Result<()> {
        self.0.touch();
        Ok(())
    }
}

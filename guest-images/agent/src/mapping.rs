//! Mapped memory, as loads use it.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::worker::Loop;

/// The smallest page size. A larger page is touched more than once, which does no harm.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The protection of memory that is read and written.
pub(crate) const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// A private anonymous mapping, which is unmapped when dropped. An allocator would keep the pages.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<c_void>,
    bytes: NonZeroUsize,
}

impl Mapping {
    #[expect(unsafe_code, reason = "only mmap(2) gives new pages each time")]
    pub(crate) fn new(bytes: NonZeroUsize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses the place of a new anonymous mapping, so it overlaps no memory
        // of this process.
        let start = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE)? };
        Ok(Self { start, bytes })
    }

    /// Huge pages of the pool (`/proc/sys/vm/nr_hugepages`) in such a mapping. `bytes` is a multiple
    /// of their size.
    #[expect(unsafe_code, reason = "only mmap(2) gives such pages")]
    pub(crate) fn of_pool(bytes: NonZeroUsize) -> io::Result<Self> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB;
        // SAFETY: the kernel chooses the place of a new anonymous mapping, so it overlaps no memory
        // of this process.
        let start = unsafe { mmap_anonymous(None, bytes, READ_WRITE, flags)? };
        Ok(Self { start, bytes })
    }

    /// Tells the kernel how the memory is used (`MADV_...` of madvise(2)). Only for advice that
    /// keeps the content.
    #[expect(unsafe_code, reason = "the mapping is known by its address alone")]
    pub(crate) fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: exactly the pages of this mapping.
        Errno::result(unsafe { libc::madvise(self.start.as_ptr(), self.bytes.get(), advice) })?;
        Ok(())
    }

    /// Writes a byte to the beginning of a page. Only for a mapping that is writable everywhere.
    #[expect(unsafe_code, reason = "the mapping is known by its address alone")]
    pub(crate) fn write(&mut self, page: usize, byte: u8) {
        // SAFETY: the page is inside the mapping, which is writable. No other code has its address.
        unsafe { self.page(page).cast::<u8>().write_volatile(byte) };
    }

    /// The number of its pages.
    pub(crate) fn pages(&self) -> usize {
        self.bytes.get() / PAGE_BYTES
    }

    /// Writes to each page. Only for a mapping that is writable everywhere.
    #[expect(unsafe_code, reason = "the mapping is known by its address alone")]
    pub(crate) fn touch(&mut self) {
        for offset in (0..self.bytes.get()).step_by(PAGE_BYTES) {
            // SAFETY: the offset is inside the mapping, which is writable. No other code has its
            // address.
            unsafe { self.start.cast::<u8>().add(offset).write_volatile(1) };
        }
    }

    /// The address of a page.
    #[expect(unsafe_code, reason = "the mapping is known by its address alone")]
    fn page(&self, number: usize) -> NonNull<c_void> {
        assert!(number < self.bytes.get() / PAGE_BYTES, "no such page");
        // SAFETY: the page is inside the mapping.
        unsafe { self.start.byte_add(number * PAGE_BYTES) }
    }

    #[expect(unsafe_code, reason = "the protection of mapped memory is the load")]
    pub(crate) fn protect(&mut self, page: usize, pages: usize, protection: ProtFlags) -> io::Result<()> {
        self.page(page + pages - 1);
        // SAFETY: the pages are inside the mapping, to which no reference was ever made.
        unsafe { mprotect(self.page(page), pages * PAGE_BYTES, protection) }.map_err(Into::into)
    }

    /// Unmaps a page, and leaves a hole.
    #[expect(unsafe_code, reason = "holes in mapped memory are the load")]
    pub(crate) fn punch(&mut self, page: usize) -> io::Result<()> {
        // SAFETY: the page is inside the mapping, to which no reference was ever made. Nothing maps
        // memory between now and the end of the mapping, so that its end unmaps no other memory.
        unsafe { munmap(self.page(page), PAGE_BYTES) }.map_err(Into::into)
    }
}

impl Loop for Mapping {
    /// Writes to each page. The pages stay, so an offline has to migrate them.
    fn once(&mut self) -> io::Result<()> {
        self.touch();
        Ok(())
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "the counterpart of mmap(2)")]
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made above, to which no reference was ever made.
        let _ = unsafe { munmap(self.start, self.bytes.get()) };
    }
}

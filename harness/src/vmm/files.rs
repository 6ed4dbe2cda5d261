//! The files that QEMU inherits: open files with fixed numbers, never paths.
//!
//! A guest's sockets, images and memory have no name in any file system. So nothing is left behind
//! however the harness ends, no other process can open them, QEMU can run as a user without access
//! to any folder, and every trial has the same command line. If QEMU needs a path, it opens the
//! file below `/proc/self/fd`, where each open file description has an offset of its own. That checks
//! the permissions again, so KVM's device is in a set of descriptors (`-add-fd`), which QEMU duplicates.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

use crate::bytes::Bytes;
use crate::{Error, Result};

/// The files that a QEMU inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherited {
    /// The monitor's socket.
    Qmp,
    /// The serial console's socket.
    Serial,
    /// The socket for requests to the agent.
    Agent,
    /// The socket for kernel records.
    Kmsg,
    /// The bzImage.
    Kernel,
    /// The initramfs.
    Initrd,
    /// The guest's memory. It is mapped shared while a checkpoint is made, and privately by each
    /// guest that is restored from it.
    Memory,
    /// The state of the machine, without its memory.
    State,
    /// The memory of DIMMs that are backed by a file.
    DimmFile,
    /// The file to which QEMU writes a requested part of a guest's memory.
    Probe,
    /// The gdbstub's socket.
    Gdb,
    /// KVM's device, which the user that QEMU runs as may not open.
    Kvm,
}

impl Inherited {
    /// The number of its file descriptor in QEMU.
    pub fn number(self) -> RawFd {
        // These numbers are above those that a process opens by itself, so that a list of QEMU's
        // files is easy to read.
        20 + self as RawFd
    }

    /// Its path in QEMU.
    pub fn path(self) -> String {
        format!("/proc/self/fd/{}", self.number())
    }
}

/// A file in memory that QEMU writes, such as a guest's memory or a machine's state.
/// [`Scratch::seal`] turns it into a [`Sealed`] file.
#[derive(Debug)]
pub struct Scratch(File);

impl Scratch {
    /// Creates a file of zeros, which takes no memory yet.
    pub fn new(size: Bytes) -> Result<Self> {
        let file = unnamed("hotplug-memory")?;
        file.set_len(size.0)?;
        Ok(Self(file))
    }

    /// A handle for QEMU.
    pub fn handle(&self) -> Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }

    /// Reads its first `bytes` bytes, which QEMU has just written.
    pub fn read(&self, bytes: usize) -> Result<Vec<u8>> {
        let mut read = vec![0; bytes];
        std::os::unix::fs::FileExt::read_exact_at(&self.0, &mut read, 0)?;
        Ok(read)
    }

    /// Its size.
    pub fn size(&self) -> Result<Bytes> {
        Ok(Bytes(self.0.metadata()?.len()))
    }

    /// Writes its content to the new file `path`. Its holes stay holes.
    pub fn save(&self, path: &Path) -> Result<()> {
        copy(&reopened(&self.0)?, fs_err::File::create_new(path)?.file(), |_, _| ())
    }

    /// Seals it, so that its content cannot change any more. Fails if a process still has it mapped
    /// for writing.
    pub fn seal(self) -> Result<Sealed> {
        Sealed::seal(self.0)
    }
}

/// A file in memory that cannot change any more, however it is opened (fcntl(2), `F_ADD_SEALS`).
#[derive(Debug, Clone)]
pub struct Sealed(Arc<File>);

impl Sealed {
    /// Creates a sealed file with these contents.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        let mut file = unnamed("hotplug-file")?;
        file.write_all(bytes)?;
        Self::seal(file)
    }

    /// Copies the file at `path`. Its holes stay holes.
    pub fn copy_of(path: &Path) -> Result<Self> {
        Ok(Self::copy_and_hash(path)?.0)
    }

    /// Copies the file at `path`, and computes its [`hash`](Self::hash) in the same pass.
    pub fn copy_and_hash(path: &Path) -> Result<(Self, String)> {
        let from = fs_err::File::open(path)?.into_parts().0;
        let to = unnamed("hotplug-file")?;
        let mut hash = PageHash::of_length(from.metadata()?.len());
        copy(&from, &to, |at, bytes| hash.add(at, bytes))?;
        Ok((Self::seal(to)?, hash.finish()))
    }

    fn seal(file: File) -> Result<Self> {
        let seals =
            SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))
            .map_err(|error| Error::infrastructure(format!("cannot seal a file in memory: {error}")))?;
        Ok(Self(Arc::new(file)))
    }

    /// A handle for QEMU, which opens the file again.
    pub fn handle(&self) -> Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }

    /// Writes it to `path`. Its holes stay holes.
    pub fn save(&self, path: &Path) -> Result<()> {
        copy(&self.reopened()?, fs_err::File::create(path)?.file(), |_, _| ())
    }

    /// BLAKE3 of its length and of its pages that are not all zero, with their offsets. A page of
    /// zeros and a hole have the same hash.
    pub fn hash(&self) -> Result<String> {
        let file = self.reopened()?;
        let mut hash = PageHash::of_length(file.metadata()?.len());
        each_page(&file, |at, bytes| {
            hash.add(at, bytes);
            Ok(())
        })?;
        Ok(hash.finish())
    }

    /// The number of bytes that are not in holes.
    pub fn taken(&self) -> Result<Bytes> {
        use std::os::unix::fs::MetadataExt;
        Ok(Bytes(self.0.metadata()?.blocks() * 512))
    }

    fn reopened(&self) -> Result<File> {
        reopened(&self.0)
    }
}

/// Opens a file again, with an offset of its own.
fn reopened(file: &File) -> Result<File> {
    Ok(fs_err::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into_parts().0)
}

/// The unit of copying and hashing, in bytes.
const PAGE: usize = 4096;

/// A page to compare with. `memcmp` is fast at every optimization level of this crate.
const ZEROS: [u8; PAGE] = [0; PAGE];

/// The hash of a file, computed page by page.
struct PageHash(blake3::Hasher);

impl PageHash {
    fn of_length(bytes: u64) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(&bytes.to_le_bytes());
        Self(hash)
    }

    fn add(&mut self, at: u64, page: &[u8]) {
        self.0.update(&at.to_le_bytes());
        self.0.update(page);
    }

    fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

fn unnamed(name: &str) -> Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = memfd_create(name, flags)
        .map_err(|error| Error::infrastructure(format!("cannot create a file in memory: {error}")))?;
    Ok(file.into())
}

/// Copies the data of a file, without holes and without pages of zeros: most pages that a guest has
/// touched are zero again. `seen` is called for each copied page.
fn copy(from: &File, to: &File, mut seen: impl FnMut(u64, &[u8])) -> Result<()> {
    use std::os::unix::fs::FileExt;
    to.set_len(from.metadata()?.len())?;
    each_page(from, |at, bytes| {
        seen(at, bytes);
        to.write_all_at(bytes, at)
    })
}

/// Calls `with` for each page of data that is not all zero.
fn each_page(file: &File, mut with: impl FnMut(u64, &[u8]) -> std::io::Result<()>) -> Result<()> {
    let mut page = vec![0; PAGE];
    let end = file.metadata()?.len();
    let seek = |at: u64, to| match lseek(file.as_fd(), at.cast_signed(), to) {
        Ok(place) => Ok(place.cast_unsigned()),
        // There is no data after this offset.
        Err(nix::errno::Errno::ENXIO) => Ok(end),
        Err(error) => Err(std::io::Error::from(error)),
    };
    let mut at = 0;
    while at < end {
        // Extents begin and end at page boundaries, except at the end of the file.
        let start = seek(at, Whence::SeekData)?;
        at = seek(start, Whence::SeekHole)?;
        let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
        reader.seek(SeekFrom::Start(start))?;
        let mut place = start;
        while place < at {
            let length = usize::try_from(at - place).unwrap_or(PAGE).min(PAGE);
            let bytes = &mut page[..length];
            reader.read_exact(bytes)?;
            if *bytes != ZEROS[..length] {
                with(place, bytes)?;
            }
            place += length as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_stay_holes_and_contents_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ram");
        let memory = Scratch::new(Bytes(64 * Bytes::MIB)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&memory.0, b"guest", 5 * Bytes::MIB + 7).unwrap();
        let sealed = memory.seal().unwrap();
        sealed.save(&path).unwrap();
        assert!(sealed.taken().unwrap() <= Bytes(Bytes::MIB));
        let copy = Sealed::copy_of(&path).unwrap();
        assert_eq!(copy.hash().unwrap(), sealed.hash().unwrap());
        assert_eq!(Sealed::copy_and_hash(&path).unwrap().1, sealed.hash().unwrap());
        assert!(copy.taken().unwrap() <= Bytes(Bytes::MIB));
        assert_ne!(Sealed::of(b"guest").unwrap().hash().unwrap(), copy.hash().unwrap());
    }

    #[test]
    fn what_is_sealed_cannot_be_written() {
        let sealed = Sealed::of(b"kernel").unwrap();
        let path = format!("/proc/self/fd/{}", sealed.0.as_raw_fd());
        let mut opened = File::options().read(true).write(true).open(path).unwrap();
        assert_eq!(opened.write(b"x").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        let mut text = String::new();
        opened.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kernel");
    }
}

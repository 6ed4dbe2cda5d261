//! Packs the guest's initramfs: the agent as `/init`, the console's device node, and mount points.
//!
//! It is a gzip'd newc archive (Linux's
//! Documentation/driver-api/early-userspace/buffer-format.rst). The same agent gives the same
//! bytes, because the archive has no times and no inode numbers, and root owns all files. Further
//! archives, such as those of a kernel's modules, can follow it: each has a length that is a
//! multiple of 4 bytes, which the kernel requires where one archive ends and the next begins.

use std::io::Write;
use std::sync::OnceLock;

use cpio::newc::{Builder, ModeFileType, trailer};
use flate2::{Compression, write::GzEncoder};

use crate::arch::{Architecture, CrossTools};
use crate::{Error, Result};

/// The guest's agent for x86-64, a static ELF binary that `build.rs` builds.
pub const AGENT: &[u8] = include_bytes!(env!("HOTPLUG_AGENT"));

/// The same for POWER. Empty if the machine that built this binary could not build it.
const AGENT_OF_POWER: &[u8] = include_bytes!(env!("HOTPLUG_AGENT_PPC64LE"));

/// The commands after which `make` builds an agent with these tools, too.
pub(crate) fn how_to_have(with: &CrossTools) -> String {
    let CrossTools { gcc_package, library_package, rust_target, .. } = with;
    format!(
        "apt-get install {gcc_package} {library_package}; rustup target add {rust_target}; then build hotplug again"
    )
}

/// Mount points for the kernel and the agent.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// Major and minor number of the console's character device (Linux's
/// Documentation/admin-guide/devices.txt). The kernel opens it for init before init can mount
/// devtmpfs.
const CONSOLE: (u32, u32) = (5, 1);

/// The bytes of an initramfs whose `/init` is the harness's built-in agent for this architecture. It
/// is packed once per process. Fails with a user error if this binary has no such agent.
pub fn initramfs(arch: Architecture) -> Result<&'static [u8]> {
    static X86: OnceLock<Vec<u8>> = OnceLock::new();
    static POWER: OnceLock<Vec<u8>> = OnceLock::new();
    let (place, agent) = match arch {
        Architecture::X86 => (&X86, AGENT),
        Architecture::Power => (&POWER, AGENT_OF_POWER),
    };
    if agent.is_empty() {
        let error = Error::user(format!("this hotplug was built without an agent for guests of {arch}"));
        return Err(match arch.table().cross {
            Some(cross) => error.help(how_to_have(cross)),
            None => error,
        });
    }
    if let Some(packed) = place.get() {
        return Ok(packed);
    }
    let packed = pack(agent)?;
    Ok(place.get_or_init(|| packed))
}

/// The bytes of an initramfs whose `/init` is `agent`.
pub fn pack(agent: &[u8]) -> Result<Vec<u8>> {
    let whole = |error| Error::infrastructure(format!("cannot pack the initramfs: {error}"));
    let archive = archive(agent).map_err(whole)?;
    // The header's time is 0 unless set.
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&archive).map_err(whole)?;
    gzip.finish().map(aligned).map_err(whole)
}

/// A file of a further archive.
#[derive(Debug)]
pub(crate) struct Item {
    /// The path, without a leading slash.
    pub(crate) path: String,
    pub(crate) kind: Kind,
}

/// The kind of a file, and what it has.
#[derive(Debug)]
pub(crate) enum Kind {
    Folder,
    File {
        permissions: u32,
        bytes: Vec<u8>,
    },
    /// A symbolic link to this path.
    Link(String),
}

/// The bytes of an archive of these files, which can follow the initramfs. A folder comes before its
/// files.
pub(crate) fn archive_of(items: impl Iterator<Item = Item>) -> Result<Vec<u8>> {
    let pack = || -> std::io::Result<Vec<u8>> {
        let mut archive = Vec::new();
        for Item { path, kind } in items {
            match kind {
                Kind::Folder => {
                    entry(&path, ModeFileType::Directory, 0o755).write(&mut archive, 0).finish()?;
                }
                Kind::File { permissions, bytes } => file(&mut archive, &path, permissions, &bytes)?,
                Kind::Link(to) => {
                    let size = u32::try_from(to.len()).map_err(std::io::Error::other)?;
                    let mut writer = entry(&path, ModeFileType::Symlink, 0o777).write(&mut archive, size);
                    writer.write_all(to.as_bytes())?;
                    writer.finish()?;
                }
            }
        }
        trailer(&mut archive)?;
        Ok(aligned(archive))
    };
    pack().map_err(|error| Error::infrastructure(format!("cannot pack files for the guest: {error}")))
}

/// Adds zeros up to a multiple of 4 bytes.
fn aligned(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive
}

fn archive(agent: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = Vec::with_capacity(agent.len() + 4096);
    for name in DIRECTORIES {
        entry(name, ModeFileType::Directory, 0o755).write(&mut archive, 0).finish()?;
    }
    let (major, minor) = CONSOLE;
    let console = entry("dev/console", ModeFileType::Char, 0o600).rdev_major(major).rdev_minor(minor);
    console.write(&mut archive, 0).finish()?;
    file(&mut archive, "init", 0o755, agent)?;
    trailer(&mut archive)?;
    Ok(archive)
}

fn file(archive: &mut Vec<u8>, name: &str, permissions: u32, bytes: &[u8]) -> std::io::Result<()> {
    let size = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    let mut writer = entry(name, ModeFileType::Regular, permissions).write(archive, size);
    writer.write_all(bytes)?;
    writer.finish().map(drop)
}

fn entry(name: &str, kind: ModeFileType, permissions: u32) -> Builder {
    Builder::new(name).mode(permissions).set_mode_file_type(kind)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Name, mode in octal, device and contents.
    type Entry = (String, String, (u32, u32), Vec<u8>);

    fn entries(mut rest: &[u8]) -> Vec<Entry> {
        let mut all = Vec::new();
        loop {
            let mut reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return all;
            }
            let entry = reader.entry();
            let device = (entry.rdev_major(), entry.rdev_minor());
            let (name, mode) = (entry.name().to_owned(), format!("{:o}", entry.mode()));
            let mut contents = Vec::new();
            reader.read_to_end(&mut contents).unwrap();
            all.push((name, mode, device, contents));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn the_archive_has_what_the_agent_needs() {
        let entry = |name: &str, mode: &str, device, contents: &[u8]| {
            (name.to_owned(), mode.to_owned(), device, contents.to_vec())
        };
        // S_IFDIR is 040000, S_IFCHR 020000, S_IFREG 0100000 (inode(7)).
        assert_eq!(
            entries(&archive(b"agent").unwrap()),
            [
                entry("dev", "40755", (0, 0), b""),
                entry("proc", "40755", (0, 0), b""),
                entry("run", "40755", (0, 0), b""),
                entry("sys", "40755", (0, 0), b""),
                entry("tmp", "40755", (0, 0), b""),
                entry("dev/console", "20600", (5, 1), b""),
                entry("init", "100755", (0, 0), b"agent"),
            ]
        );
    }

    #[test]
    fn init_comes_back_whole() {
        let packed = pack(AGENT).unwrap();
        let mut archive = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut archive).unwrap();
        let init = entries(&archive).into_iter().find(|(name, ..)| name == "init").unwrap();
        assert!(init.3 == AGENT);
    }

    #[test]
    fn further_files_can_follow() {
        let packed = pack(b"agent").unwrap();
        let item = |path: &str, kind| Item { path: path.into(), kind };
        let items = [
            item("modules", Kind::Folder),
            item("modules/a", Kind::Link("one.ko".into())),
            item("modules/one.ko", Kind::File { permissions: 0o644, bytes: b"ELF".to_vec() }),
        ];
        let more = archive_of(items.into_iter()).unwrap();
        assert_eq!((packed.len() % 4, more.len() % 4), (0, 0));
        let found = entries(&more).into_iter().map(|(name, mode, _, contents)| (name, mode, contents));
        let expected = [
            ("modules", "40755", ""),
            ("modules/a", "120777", "one.ko"),
            ("modules/one.ko", "100644", "ELF"),
        ];
        let expected =
            expected.map(|(name, mode, text)| (name.to_owned(), mode.to_owned(), text.as_bytes().to_vec()));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_same_agent_gives_the_same_bytes() {
        assert!(pack(AGENT).unwrap() == pack(AGENT).unwrap());
    }

    #[test]
    fn the_agent_is_static_and_small() {
        assert_eq!(AGENT.get(..4), Some(b"\x7fELF".as_slice()));
        // elf(5): the u64 at offset 32 is the offset of the program headers, and the u16 at 56 is
        // their number. Each has 56 bytes.
        let headers = usize::from(AGENT[32]) | usize::from(AGENT[33]) << 8;
        let types = (0..usize::from(AGENT[56])).map(|header| AGENT[headers + 56 * header]);
        // PT_INTERP (3) names a dynamic linker, and the guest has none.
        assert!(types.into_iter().all(|kind| kind != 3));
        assert!(
            initramfs(Architecture::X86).unwrap().len() < 1 << 20,
            "more than 1 MiB to unpack at each boot"
        );
    }
}

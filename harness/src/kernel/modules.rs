//! The modules of a packaged kernel that a guest needs, in the order in which they can be loaded.
//!
//! A package has no modules.dep: depmod(8) makes it when the package is installed. Each module
//! names those that it needs itself (`depends=` in its section `.modinfo`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hotplug_protocol::{MODULE_LIST, MODULES};
use object::{Object, ObjectSection};
use tokio_util::sync::CancellationToken;
use walkdir::WalkDir;

use crate::image::{Item, Kind, archive_of};
use crate::{Error, Result};

use super::command::{Tool, capture};

/// Name of the archive beside a packaged kernel's image. Its files are those of the guest's
/// `/modules`.
pub(super) const ARCHIVE: &str = "modules.cpio";

/// Modules that guests load, by the option that builds them. The channels to the host come first.
const LOADED: [(&str, &[&str]); 12] = [
    ("VIRTIO_PCI", &["virtio_pci"]),
    ("VIRTIO_CONSOLE", &["virtio_console"]),
    ("VIRTIO_MEM", &["virtio_mem"]),
    ("VIRTIO_BALLOON", &["virtio_balloon"]),
    ("ACPI_NFIT", &["nfit"]),
    ("BLK_DEV_PMEM", &["nd_pmem"]),
    ("X86_PMEM_LEGACY", &["nd_e820"]),
    ("ZRAM", &["zram"]),
    ("BLK_DEV_NULL_BLK", &["null_blk"]),
    ("9P_FS", &["9p", "9pnet_fd"]),
    ("MEMORY_NOTIFIER_ERROR_INJECT", &["memory_notifier_error_inject"]),
    // One of them fits the processor.
    ("KVM", &["kvm_amd", "kvm_intel"]),
];

/// Whether guests load the modules that this option builds.
pub(super) fn is_loaded(option: &str) -> bool {
    LOADED.iter().any(|(name, _)| *name == option)
}

/// Modules, decompressed, each after those that it needs.
#[derive(Debug, Default)]
pub(super) struct Modules(Vec<(String, Vec<u8>)>);

impl Modules {
    /// Reads the modules of [`LOADED`] below `folder`, and those that they need. One that is not
    /// there is built into the kernel, or the kernel lacks it.
    ///
    /// Fails with a user error if one is damaged or was built for another kernel than `release`.
    pub(super) async fn of(folder: &Path, release: &str, cancel: &CancellationToken) -> Result<Self> {
        let files = files(folder);
        let mut reading = Reading { files: &files, release, seen: BTreeSet::new(), done: Vec::new() };
        for name in LOADED.iter().flat_map(|(_, names)| *names) {
            reading.add(name, cancel).await?;
        }
        Ok(Self(reading.done))
    }

    /// Whether `name` is one of them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| other == name)
    }

    /// The archive that follows the guest's initramfs. None if there are no modules.
    pub(super) fn archive(&self) -> Result<Option<Vec<u8>>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let folder = MODULES.trim_start_matches('/');
        let item = |name: &str, bytes: &[u8]| Item {
            path: format!("{folder}/{name}"),
            kind: Kind::File { permissions: 0o644, bytes: bytes.to_vec() },
        };
        let names: Vec<String> = self.0.iter().map(|(name, _)| format!("{name}.ko")).collect();
        let modules = names.iter().zip(&self.0).map(|(name, (_, bytes))| item(name, bytes));
        let folder = Item { path: folder.into(), kind: Kind::Folder };
        let list = item(MODULE_LIST, names.join("\n").as_bytes());
        archive_of([folder, list].into_iter().chain(modules)).map(Some)
    }
}

/// The files of all modules, by name. A name has underscores where that of its file may have dashes.
pub(super) fn files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let all = WalkDir::new(folder).into_iter().flatten().map(walkdir::DirEntry::into_path);
    all.filter_map(|path| {
        let file = path.file_name()?.to_str()?;
        let (name, end) = file.split_once(".ko")?;
        ["", ".xz", ".gz", ".zst"].contains(&end).then(|| (name.replace('-', "_"), path.clone()))
    })
    .collect()
}

struct Reading<'a> {
    files: &'a BTreeMap<String, PathBuf>,
    release: &'a str,
    seen: BTreeSet<String>,
    done: Vec<(String, Vec<u8>)>,
}

impl Reading<'_> {
    /// Reads a module after those that it needs.
    async fn add(&mut self, name: &str, cancel: &CancellationToken) -> Result<()> {
        let Some(path) = self.files.get(name) else { return Ok(()) };
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let bytes = decompressed(path, cancel).await?;
        let wrong = |what: String| Error::user(format!("the module {} {what}", path.display()));
        let about = About::of(&bytes).ok_or_else(|| wrong("is damaged".into()))?;
        if about.release != self.release {
            return Err(wrong(format!(
                "was built for {}, but the kernel is {}",
                about.release, self.release
            )));
        }
        for needed in &about.depends {
            Box::pin(self.add(needed, cancel)).await?;
        }
        self.done.push((name.to_owned(), bytes));
        Ok(())
    }
}

/// What a module says about itself.
#[derive(Debug, PartialEq, Eq)]
struct About {
    /// The release of its kernel: the first word of `vermagic`.
    release: String,
    /// The modules that it needs.
    depends: Vec<String>,
}

impl About {
    fn of(module: &[u8]) -> Option<Self> {
        let file = object::File::parse(module).ok()?;
        let section = file.section_by_name(".modinfo")?;
        Self::parse(section.data().ok()?)
    }

    /// Parses `key=value` texts, each of which ends with a zero byte (include/linux/module.h,
    /// `MODULE_INFO`).
    fn parse(modinfo: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(modinfo);
        let value = |key: &str| text.split('\0').find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let depends = value("depends").unwrap_or_default().split(',').filter(|name| !name.is_empty());
        Some(Self {
            release: value("vermagic")?.split(' ').next()?.to_owned(),
            depends: depends.map(|name| name.replace('-', "_")).collect(),
        })
    }
}

/// A module as the kernel loads it. Not every kernel can decompress one itself.
async fn decompressed(path: &Path, cancel: &CancellationToken) -> Result<Vec<u8>> {
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    let program = match end {
        "xz" => "xz",
        "gz" => "gzip",
        "zst" => "zstd",
        _ => return Ok(fs_err::read(path)?),
    };
    let tool = Tool::new(program, Path::new("/")).arg("-dc").arg(fs_err::canonicalize(path)?);
    capture(tool, cancel).await?.ok(|said| {
        Error::user(format!("cannot decompress the module {}", path.display()))
            .detail(said)
            .help(format!("look whether {program} is installed, and whether the file is whole"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_its_kernel_and_what_it_needs() {
        let about = |text: &str| About::parse(text.as_bytes());
        let found =
            about("license=GPL\0depends=virtio,virtio-ring\0vermagic=6.1.0-57-amd64 SMP mod_unload \0");
        let expected =
            About { release: "6.1.0-57-amd64".into(), depends: vec!["virtio".into(), "virtio_ring".into()] };
        assert_eq!(found, Some(expected));
        assert_eq!(about("depends=\0vermagic=6.1 x\0").unwrap().depends, [""; 0]);
        assert_eq!(about("depends=virtio\0"), None);
        assert_eq!(About::of(b"\x7fELF and so on"), None);
    }

    #[test]
    fn files_are_found_by_the_name_of_their_module() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a/9pnet_fd.ko", "memory-notifier-error-inject.ko.xz", "modules.order", "x.ko.sig"] {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "").unwrap();
        }
        let names: Vec<_> = files(folder.path()).into_keys().collect();
        assert_eq!(names, ["9pnet_fd", "memory_notifier_error_inject"]);
    }
}

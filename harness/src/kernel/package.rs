//! Kernels of distributions: a package, or a folder with what a package contains. The image, its
//! configuration, its symbols and the modules that a guest needs are kept in the cache, like those
//! of a kernel that was built here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use walkdir::WalkDir;

use crate::arch::Architecture;
use crate::{Error, Result};

use super::artifacts::{self, Built, Kernel, KernelId, Record};
use super::cache::Cache;
use super::config::{self, options};
use super::modules::{self, Modules};
use super::source::blocking;
use super::{deb, image};

/// Part of the id of every packaged kernel. It must change with every change to what is kept of a
/// package.
const KEEPER: &str = "hotplug packaged kernel 1";

/// Options without which no memory or CPU can be plugged into a guest.
const REQUIRED: [&str; 4] = ["MEMORY_HOTPLUG", "MEMORY_HOTREMOVE", "ACPI_HOTPLUG_MEMORY", "HOTPLUG_CPU"];

/// A kernel of a distribution, as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// A Debian package with a kernel, or a folder with its files.
    pub path: PathBuf,
    /// Its vmlinux with debug information, or the package that has it.
    pub symbols: Option<PathBuf>,
}

/// The files of a kernel, wherever they were found.
#[derive(Debug)]
struct Files {
    image: PathBuf,
    arch: Architecture,
    release: String,
    config: Option<PathBuf>,
    vmlinux: Option<PathBuf>,
    /// The folder with the modules of this release.
    modules: Option<PathBuf>,
}

impl Package {
    /// The id of the kernel: a hash of the package, or of the folder's files that are used, and of
    /// its symbols.
    pub(super) async fn id(&self) -> Result<KernelId> {
        if !self.path.exists() {
            return Err(Error::user(format!("no such package: {}", self.name()))
                .help("give the path of a package, or of a folder with a kernel"));
        }
        let mut parts = vec![self.symbols.clone()];
        if self.path.is_dir() {
            let Files { image, config, vmlinux, modules, .. } = self.find(&self.path)?;
            parts.extend([Some(image), config, vmlinux, modules]);
        } else {
            parts.push(Some(self.path.clone()));
        }
        blocking(move || {
            let mut hasher = blake3::Hasher::new();
            hasher.update(KEEPER.as_bytes());
            for part in parts {
                let hash = part.map(|part| contents(&part)).transpose()?;
                hasher.update(hash.as_ref().map_or([0; 32].as_slice(), |hash| hash.as_bytes()));
            }
            Ok(KernelId::new(hasher.finalize()))
        })
        .await
    }

    /// Finds the kernel in the cache, or unpacks it into the cache.
    ///
    /// Fails with a user error if the package holds no kernel, or one that no guest can use.
    pub(super) async fn kernel(&self, cache: &Cache, cancel: &CancellationToken) -> Result<Kernel> {
        let id = self.id().await?;
        if let Some(kernel) = artifacts::load(cache, &id, Built::Given)? {
            return Ok(kernel);
        }
        let start = Instant::now();
        fs_err::create_dir_all(cache.sources())?;
        // On the same file system, so that the folder can be renamed into place.
        let work = tempfile::Builder::new().prefix("package-").tempdir_in(cache.sources())?;
        let unpacked = work.path().join("files");
        fs_err::create_dir_all(&unpacked)?;
        let root = if self.path.is_dir() {
            self.path.clone()
        } else {
            let wrong = |said: &str| self.wrong("cannot be unpacked").detail(said);
            deb::unpack(&self.path, &unpacked, None, &wrong, cancel).await?;
            unpacked
        };
        let mut files = self.find(&root)?;
        if let Some(symbols) = &self.symbols {
            files.vmlinux = Some(symbols_in(symbols, &work.path().join("symbols"), cancel).await?);
        }
        let config = files.config.as_ref().map(fs_err::read_to_string).transpose()?;
        let found = match &files.modules {
            Some(folder) => Modules::of(folder, &files.release, cancel).await?,
            None => Modules::default(),
        };
        if let Some(config) = &config {
            self.check(&options(config), &found)?;
        }

        let arch = files.arch;
        let folder = work.path().join("kernel");
        fs_err::create_dir_all(&folder)?;
        fs_err::copy(&files.image, folder.join(arch.table().image))?;
        for (file, name) in [(&files.config, "config"), (&files.vmlinux, "vmlinux")] {
            if let Some(file) = file {
                fs_err::copy(file, folder.join(name))?;
            }
        }
        if let Some(archive) = found.archive()? {
            fs_err::write(folder.join(modules::ARCHIVE), archive)?;
        }
        let image_hash = blake3::hash(&fs_err::read(folder.join(arch.table().image))?);
        let record = Record {
            id: id.clone(),
            arch,
            release: files.release,
            source: self.name(),
            content: format!("package-{}", id.as_str()),
            patches: Vec::new(),
            left_out: Vec::new(),
            basis: None,
            lacks: config.as_deref().map_or_else(Vec::new, config::missing_checkers),
            compiler: String::new(),
            linker: String::new(),
            built_at: jiff::Timestamp::now(),
            seconds: start.elapsed().as_secs_f64(),
            incremental: false,
            compiled: 0,
            image_hash: image_hash.to_hex().to_string(),
        };
        artifacts::install(cache, &folder, &record)?;
        artifacts::load(cache, &id, Built::Given)?.ok_or_else(|| {
            Error::infrastructure(format!("the kernel of {} is not in the cache", self.name()))
        })
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn wrong(&self, what: &str) -> Error {
        Error::user(format!("{} {what}", self.name()))
            .help("give a package such as linux-image-6.1.0-57-amd64, or a folder with vmlinuz, config and lib/modules")
    }

    /// Finds the files of the kernel below `root`.
    fn find(&self, root: &Path) -> Result<Files> {
        let all: Vec<PathBuf> = ["", "boot"]
            .iter()
            .flat_map(|folder| fs_err::read_dir(root.join(folder)).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect();
        let named = |starts: &[&str]| {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let of =
                |start: &&str| all.iter().filter(|path| name(path).starts_with(*start)).collect::<Vec<_>>();
            starts.iter().flat_map(of).collect::<Vec<_>>()
        };
        let images = named(&["vmlinuz", "bzImage"]);
        let image = match images.as_slice() {
            [] => {
                return Err(self.wrong(if self.path.is_dir() {
                    "has no kernel: there is no vmlinuz or bzImage in it"
                } else {
                    "has no kernel: there is no /boot/vmlinuz in it. A package such as linux-image-amd64 only names the package that has one"
                }));
            }
            [one] => *one,
            [first, second, ..] => {
                return Err(self.wrong(&format!(
                    "has several kernels: {} and {}",
                    first.display(),
                    second.display()
                )));
            }
        };
        let (arch, release) = image::identify(image).map_err(|error| {
            let file = image.file_name().unwrap_or_default().to_string_lossy();
            self.wrong(&format!("has no {} kernel: its {file} is none", Architecture::X86.table().kernel))
                .detail(error.in_one_line())
        })?;
        let folders: Vec<PathBuf> = ["lib/modules", "usr/lib/modules", "modules"]
            .iter()
            .flat_map(|folder| fs_err::read_dir(root.join(folder)).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect();
        let modules = folders.iter().find(|folder| folder.ends_with(&release));
        if let (None, Some(other)) = (modules, folders.first()) {
            return Err(self.wrong(&format!(
                "has modules of another kernel: the image is {release}, its modules are {}",
                other.file_name().unwrap_or_default().to_string_lossy()
            )));
        }
        let first = |starts: &[&str]| named(starts).first().map(|path| (*path).clone());
        Ok(Files {
            image: image.clone(),
            config: first(&["config", ".config"]),
            // Not vmlinuz.
            vmlinux: first(&["vmlinux"]).filter(|path| path.extension().is_none_or(|end| end != "gz")),
            modules: modules.cloned(),
            arch,
            release,
        })
    }

    /// Checks that hotplug exists in the kernel, and that the agent can reach the host.
    fn check(&self, there: &BTreeMap<&str, &str>, found: &Modules) -> Result<()> {
        let missing: Vec<_> = REQUIRED
            .iter()
            .filter(|name| there.get(*name) != Some(&"y"))
            .map(|name| format!("CONFIG_{name}"))
            .collect();
        if !missing.is_empty() {
            return Err(Error::user(format!("the kernel of {} has no {}", self.name(), missing.join(", ")))
                .help("without these options, a guest can neither plug nor unplug"));
        }
        for (option, module) in [("VIRTIO_PCI", "virtio_pci"), ("VIRTIO_CONSOLE", "virtio_console")] {
            if there.get(option) != Some(&"y") && !found.has(module) {
                return Err(self.wrong(&format!(
                    "cannot reach the host: CONFIG_{option} is not built in, and there is no module {module}"
                )));
            }
        }
        Ok(())
    }
}

/// The vmlinux that the user gave: a file, or a package with `/usr/lib/debug/boot/vmlinux-*`.
async fn symbols_in(symbols: &Path, folder: &Path, cancel: &CancellationToken) -> Result<PathBuf> {
    let wrong = |said: &str| {
        Error::user(format!("{} has no vmlinux", symbols.display()))
            .detail(said)
            .help("give a vmlinux, or a package such as linux-image-6.1.0-57-amd64-dbg")
    };
    if !symbols.is_file() {
        return Err(wrong("no such file"));
    }
    if !deb::is_package(symbols)? {
        return Ok(symbols.to_owned());
    }
    fs_err::create_dir_all(folder)?;
    deb::unpack(symbols, folder, Some("./usr/lib/debug/boot/vmlinux-*"), &wrong, cancel).await?;
    let all = WalkDir::new(folder).into_iter().flatten().map(walkdir::DirEntry::into_path);
    all.into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| wrong("there is no /usr/lib/debug/boot/vmlinux-* in it"))
}

/// A hash of a file, or of the modules in a folder.
fn contents(path: &Path) -> Result<blake3::Hash> {
    let hash = |file: &Path| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs_err::File::open(file).map_err(|error| Error::user(error.to_string()))?)?;
        Ok::<_, Error>(hasher.finalize())
    };
    if !path.is_dir() {
        return hash(path);
    }
    let mut all = blake3::Hasher::new();
    for (name, file) in modules::files(path) {
        all.update(name.as_bytes()).update(&[0]).update(hash(&file)?.as_bytes());
    }
    Ok(all.finalize())
}

#[cfg(test)]
#[path = "package_tests.rs"]
mod tests;

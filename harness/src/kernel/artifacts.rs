//! Finished kernels. Each has a folder in the cache, which is named by a hash of the build's inputs
//! and is never changed.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::arch::Architecture;
use crate::files::remove_tree;
use crate::{Error, Result};

use super::base::Basis;
use super::cache::Cache;
use super::config::options;
use super::gcov::{self, Touched};
use super::worktree::try_lock;
use super::{image, modules};

/// Name of a kernel's record in its folder. The kernel's flock(2) lock is on this file.
pub(super) const RECORD: &str = "kernel.json";

/// A hash of the inputs of a kernel build: source, patches, config, compiler, linker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KernelId(String);

impl KernelId {
    pub(crate) fn new(hash: blake3::Hash) -> Self {
        Self(hash.to_hex()[..32].to_owned())
    }

    /// All 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first six digits, for messages and tables.
    pub fn short(&self) -> &str {
        self.0.get(..6).unwrap_or(&self.0)
    }
}

impl fmt::Display for KernelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.short())
    }
}

/// One patch that a kernel was built with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PatchRecord {
    /// The file that contained the patch.
    pub file: String,
    /// The subject of the patch's mail.
    pub subject: Option<String>,
}

/// The record of a built or unpacked kernel, stored as `kernel.json` in its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The hash of the build's inputs.
    pub id: KernelId,
    /// The architecture.
    #[serde(default, skip_serializing_if = "Architecture::is_default")]
    pub arch: Architecture,
    /// The kernel release, as `uname -r` prints it.
    pub release: String,
    /// The source, as the user named it.
    pub source: String,
    /// A hash of the source's contents: the harness's own, or git's hash of the tree.
    pub content: String,
    /// The patches, in order.
    pub patches: Vec<PatchRecord>,
    /// The options of the config fragments that this source does not define, by name without
    /// `CONFIG_`. The kernel is built without them.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// What became of a configuration that is not the harness's own.
    #[serde(default)]
    pub basis: Option<Basis>,
    /// The options that would print reports and that the kernel does not have, by name without
    /// `CONFIG_`.
    #[serde(default)]
    pub lacks: Vec<String>,
    /// The first line of the compiler's `--version`. Empty for a packaged kernel.
    pub compiler: String,
    /// The first line of the linker's `--version`.
    pub linker: String,
    /// The time at which the build finished.
    pub built_at: jiff::Timestamp,
    /// The duration of the build, in seconds.
    pub seconds: f64,
    /// Whether the build started from the objects of an earlier build.
    pub incremental: bool,
    /// The number of source files compiled.
    pub compiled: u32,
    /// BLAKE3 of the bootable image.
    pub image_hash: String,
}

/// The origin of a kernel in this run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Built {
    /// The kernel was in the cache.
    Cached,
    /// This run built the kernel.
    Now {
        /// The duration of the build, in seconds.
        seconds: f64,
        /// Whether the build started from the objects of an earlier build.
        incremental: bool,
    },
    /// The user gave the image or the package.
    Given,
}

impl fmt::Display for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cached => f.write_str("cached"),
            Self::Given => f.write_str("given"),
            Self::Now { seconds, .. } => {
                let whole = Duration::from_secs_f64(seconds.max(0.0)).as_secs_f64().round();
                if whole < 60.0 {
                    return write!(f, "built in {whole} s");
                }
                write!(f, "built in {} m {:02} s", (whole / 60.0).floor(), whole % 60.0)
            }
        }
    }
}

/// A kernel that can be booted. `prune` does not remove it from the cache while this value exists.
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    /// The hash of the build's inputs. For an image that the user gives, the hash of the image.
    pub id: KernelId,
    /// The bootable image.
    pub image: PathBuf,
    /// BLAKE3 of the bootable image.
    pub image_hash: String,
    /// The architecture.
    pub arch: Architecture,
    /// The kernel release, as `uname -r` prints it.
    pub release: String,
    /// The origin of the kernel in this run.
    pub built: Built,
    /// The ELF file with symbols.
    pub vmlinux: Option<PathBuf>,
    /// Symbols and addresses, as nm(1) lists them.
    pub system_map: Option<PathBuf>,
    /// The final .config.
    pub config: Option<PathBuf>,
    /// An archive of the modules that the guest loads, which follows its initramfs.
    pub modules: Option<PathBuf>,
    /// The record of the build. `None` for an image that the user gives.
    pub record: Option<Record>,
    #[serde(skip)]
    _lease: Option<Arc<Flock<File>>>,
}

/// Two kernels that differ by one change.
#[derive(Debug, Clone, Serialize)]
pub struct KernelPair {
    /// The kernel without the patch.
    pub before: Kernel,
    /// The kernel with the patch.
    pub after: Kernel,
}

impl KernelPair {
    /// Whether both images are identical, bit for bit.
    pub fn same_image(&self) -> bool {
        self.before.image_hash == self.after.image_hash
    }

    /// Whether guests of both sides run the same code: the images are identical, and so are the
    /// modules that the guests load.
    pub fn is_identical(&self) -> Result<bool> {
        let modules = |kernel: &Kernel| kernel.modules.as_ref().map(fs_err::read).transpose();
        Ok(self.same_image() && modules(&self.before)? == modules(&self.after)?)
    }
}

impl Kernel {
    /// Timer ticks per second, `CONFIG_HZ`. `None` if the config is not known.
    pub fn hz(&self) -> Option<u64> {
        let config = fs_err::read_to_string(self.config.as_ref()?).ok()?;
        options(&config).get("HZ")?.parse().ok()
    }

    /// The options of these that it does not have, by name without `CONFIG_`. Those that are modules
    /// count as missing, unless the guest loads them. Empty if the config is not known.
    pub(crate) fn missing_options(&self, needed: &BTreeSet<&'static str>) -> Result<Vec<&'static str>> {
        let Some(config) = self.config.as_ref().filter(|_| !needed.is_empty()) else { return Ok(Vec::new()) };
        let text = fs_err::read_to_string(config)?;
        let there = options(&text);
        let has = |name: &str| match there.get(name) {
            Some(&"m") => self.modules.is_some() && modules::is_loaded(name),
            other => other.is_some(),
        };
        Ok(needed.iter().copied().filter(|name| !has(name)).collect())
    }

    /// For a kernel with gcov counters: the files in which the two sides differ, and a folder. The
    /// folder holds the source of these files and, for those that are counted, gcc's notes
    /// (`.gcno`).
    pub fn touched(&self) -> Option<(Vec<Touched>, PathBuf)> {
        let folder = self.image.parent()?.join(gcov::FOLDER);
        Some((gcov::read(&folder)?, folder))
    }

    /// The options of the config fragments that its source does not define.
    pub fn left_out(&self) -> &[String] {
        self.record.as_ref().map_or(&[], |record| &record.left_out)
    }

    /// Whether the harness built it, and so could build it with another configuration.
    pub fn is_built(&self) -> bool {
        // A packaged kernel has no compiler here.
        self.record.as_ref().is_some_and(|record| !record.compiler.is_empty())
    }

    /// What became of a configuration that is not the harness's own.
    pub fn basis(&self) -> Option<&Basis> {
        self.record.as_ref()?.basis.as_ref()
    }

    /// The options that would print reports and that the kernel does not have, as far as its config
    /// is known.
    pub fn lacks(&self) -> &[String] {
        self.record.as_ref().map_or(&[], |record| &record.lacks)
    }

    /// Makes a kernel of an image that the user gives. The image is used in place. Its vmlinux is
    /// `symbols`, or the one beside it.
    pub(crate) fn given(file: &Path, symbols: Option<&Path>) -> Result<Self> {
        let (arch, release) = image::identify(file)?;
        let vmlinux = match symbols {
            None => image::vmlinux_beside(file)?,
            Some(symbols) if image::is_of(symbols, file)? => Some(fs_err::canonicalize(symbols)?),
            Some(symbols) => {
                let (symbols, file) = (symbols.display(), file.display());
                return Err(Error::user(format!("{symbols} is not the vmlinux of {file}"))
                    .help("give the vmlinux of the same build"));
            }
        };
        let hash = blake3::hash(&fs_err::read(file)?);
        Ok(Self {
            id: KernelId::new(hash),
            image: fs_err::canonicalize(file)?,
            image_hash: hash.to_hex().to_string(),
            arch,
            release,
            built: Built::Given,
            vmlinux,
            system_map: None,
            config: None,
            modules: None,
            record: None,
            _lease: None,
        })
    }

    /// A kernel of which a test needs the configuration only.
    #[cfg(test)]
    pub(super) fn with_config(file: &Path) -> Self {
        Self {
            id: KernelId("0".repeat(32)),
            image: PathBuf::new(),
            image_hash: String::new(),
            arch: Architecture::default(),
            release: String::new(),
            built: Built::Cached,
            vmlinux: None,
            system_map: None,
            config: Some(file.to_owned()),
            modules: None,
            record: None,
            _lease: None,
        }
    }
}

/// Finds the kernel that an earlier run used, in the cache or else at its path. Returns `None` if
/// neither has an image with this hash.
pub fn recall(cache: &Cache, id: &str, image: &Path, image_hash: &str) -> Result<Option<Kernel>> {
    let same = |file: &Path| {
        fs_err::read(file).is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == image_hash)
    };
    // The id comes from a file and becomes part of a path, so it is checked.
    let plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit());
    let cached = if plain { load(cache, &KernelId(id.to_owned()), Built::Cached)? } else { None };
    if let Some(kernel) = cached.filter(|kernel| same(&kernel.image)) {
        return Ok(Some(kernel));
    }
    same(image).then(|| Kernel::given(image, None)).transpose()
}

/// Loads the kernel `id` from the cache. Returns `None` if the cache does not have it.
pub(crate) fn load(cache: &Cache, id: &KernelId, built: Built) -> Result<Option<Kernel>> {
    let folder = cache.kernel(id);
    if !folder.join(RECORD).exists() {
        return Ok(None);
    }
    let Some(lease) = try_lock(&folder.join(RECORD), FlockArg::LockSharedNonblock)? else { return Ok(None) };
    let is_whole = |record: &Record| folder.join(record.arch.table().image).exists();
    let Some(record) = read_record(&folder).filter(is_whole) else {
        tracing::warn!(folder = %folder.display(), "dropping a damaged kernel from the cache");
        drop(lease);
        remove_tree(&folder)?;
        return Ok(None);
    };
    // The record's modification time is the time of the last use, by which `prune` selects.
    lease.set_modified(SystemTime::now())?;
    // A packaged kernel may have some of these only, and a kernel that was built has no modules.
    let there = |name: &str| Some(folder.join(name)).filter(|file| file.exists());
    Ok(Some(Kernel {
        id: id.clone(),
        arch: record.arch,
        image: folder.join(record.arch.table().image),
        image_hash: record.image_hash.clone(),
        release: record.release.clone(),
        built,
        vmlinux: there("vmlinux"),
        system_map: there("System.map"),
        config: there("config"),
        modules: there(modules::ARCHIVE),
        record: Some(record),
        _lease: Some(Arc::new(lease)),
    }))
}

pub(super) fn read_record(folder: &Path) -> Option<Record> {
    serde_json::from_slice(&fs_err::read(folder.join(RECORD)).ok()?).ok()
}

/// Moves the complete folder `new` into the cache.
pub(crate) fn install(cache: &Cache, new: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_vec_pretty(record).map_err(std::io::Error::from)?;
    fs_err::write(new.join(RECORD), text)?;
    for name in [record.arch.table().image, "vmlinux", modules::ARCHIVE, RECORD] {
        match fs_err::File::open(new.join(name)) {
            Ok(file) => file.sync_all()?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let folder = cache.kernel(&record.id);
    match fs_err::rename(new, &folder) {
        // A build in another copy of the same source has already installed this kernel.
        Err(_) if folder.join(RECORD).exists() => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
#[path = "artifacts_tests.rs"]
mod tests;

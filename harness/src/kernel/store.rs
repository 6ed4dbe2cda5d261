//! Finished kernels: one folder each, named by what it was made from, never changed after it is there.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::Result;

use super::cache::Cache;
use super::config::options;
use super::counted::{self, Touched};
use super::image;
use super::tree::{remove_tree, try_lock};

/// Name of a kernel's record in its folder. Its lock is on it too.
pub(super) const RECORD: &str = "kernel.json";

/// What a kernel is made from, as a hash: source, patches, config, compiler, linker.
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

    /// The first six, for people.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchRecord {
    /// The file it came from.
    pub file: String,
    /// Subject of its mail.
    pub subject: Option<String>,
}

/// What is known of a built kernel; `kernel.json` in its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Names it.
    pub id: KernelId,
    /// As `uname -r` says it.
    pub release: String,
    /// The source, as it was asked for.
    pub source: String,
    /// The source's contents: a hash of ours, or git's of the tree.
    pub content: String,
    /// Patches, in order.
    pub patches: Vec<PatchRecord>,
    /// First line of the compiler's `--version`.
    pub compiler: String,
    /// First line of the linker's.
    pub linker: String,
    /// When it was finished.
    pub built_at: jiff::Timestamp,
    /// How long make took, in seconds.
    pub seconds: f64,
    /// Whether objects of an earlier build were there to start from.
    pub incremental: bool,
    /// Source files compiled.
    pub compiled: u32,
    /// BLAKE3 of the bzImage.
    pub image_hash: String,
}

/// Where a kernel came from this time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Built {
    /// It was in the cache.
    Cached,
    /// Built just now.
    Now {
        /// Time make took.
        seconds: f64,
        /// Whether objects of an earlier build were there to start from.
        incremental: bool,
    },
    /// The user gave the image.
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

/// A kernel that can be booted. While it lives, no prune takes it away.
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    /// What it is made from; for a given image, its hash.
    pub id: KernelId,
    /// The bzImage.
    pub image: PathBuf,
    /// BLAKE3 of the bzImage.
    pub image_hash: String,
    /// As `uname -r` says it.
    pub release: String,
    /// Where it came from this time.
    pub built: Built,
    /// The ELF file with symbols.
    pub vmlinux: Option<PathBuf>,
    /// Symbols and addresses, as nm(1) lists them.
    pub system_map: Option<PathBuf>,
    /// The final .config.
    pub config: Option<PathBuf>,
    /// How it was built; `None` for a given image.
    pub record: Option<Record>,
    #[serde(skip)]
    _lease: Option<Arc<Flock<File>>>,
}

/// Two kernels, one change apart.
#[derive(Debug, Clone, Serialize)]
pub struct KernelPair {
    /// Without the patch.
    pub before: Kernel,
    /// With it.
    pub after: Kernel,
}

impl KernelPair {
    /// Whether the patch left the image as it was, bit for bit.
    pub fn same_image(&self) -> bool {
        self.before.image_hash == self.after.image_hash
    }
}

impl Kernel {
    /// Timer ticks a second, `CONFIG_HZ`; none where the config is not known.
    pub fn hz(&self) -> Option<u64> {
        let config = fs_err::read_to_string(self.config.as_ref()?).ok()?;
        options(&config).get("HZ")?.parse().ok()
    }

    /// Of a kernel with counters: the files that its pair differs in, and the folder that has their source and, of those
    /// that are counted, gcc's notes (`.gcno`).
    pub fn touched(&self) -> Option<(Vec<Touched>, PathBuf)> {
        let folder = self.image.parent()?.join(counted::FOLDER);
        Some((counted::read(&folder)?, folder))
    }

    /// An image that the user gives. It is used where it is.
    pub(crate) fn given(file: &Path) -> Result<Self> {
        let release = image::release(file)?;
        let hash = blake3::hash(&fs_err::read(file)?);
        Ok(Self {
            id: KernelId::new(hash),
            image: fs_err::canonicalize(file)?,
            image_hash: hash.to_hex().to_string(),
            release,
            built: Built::Given,
            vmlinux: None,
            system_map: None,
            config: None,
            record: None,
            _lease: None,
        })
    }
}

/// The kernel that an earlier run used: from the cache, or else at its path. None where neither has that image.
pub fn recall(cache: &Cache, id: &str, image: &Path, image_hash: &str) -> Result<Option<Kernel>> {
    let same = |file: &Path| {
        fs_err::read(file).is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == image_hash)
    };
    // It becomes a path, and comes from a file.
    let plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit());
    let cached = if plain { load(cache, &KernelId(id.to_owned()), Built::Cached)? } else { None };
    if let Some(kernel) = cached.filter(|kernel| same(&kernel.image)) {
        return Ok(Some(kernel));
    }
    same(image).then(|| Kernel::given(image)).transpose()
}

/// The kernel called `id`, if it is there.
pub(crate) fn load(cache: &Cache, id: &KernelId, built: Built) -> Result<Option<Kernel>> {
    let folder = cache.kernel(id);
    if !folder.join(RECORD).exists() {
        return Ok(None);
    }
    let Some(lease) = try_lock(&folder.join(RECORD), FlockArg::LockSharedNonblock)? else { return Ok(None) };
    let Some(record) = read_record(&folder).filter(|_| folder.join("bzImage").exists()) else {
        tracing::warn!(folder = %folder.display(), "dropping a damaged kernel from the cache");
        drop(lease);
        remove_tree(&folder)?;
        return Ok(None);
    };
    // The folder's time says when it was used last, which is what pruning goes by.
    lease.set_modified(SystemTime::now())?;
    Ok(Some(Kernel {
        id: id.clone(),
        image: folder.join("bzImage"),
        image_hash: record.image_hash.clone(),
        release: record.release.clone(),
        built,
        vmlinux: Some(folder.join("vmlinux")),
        system_map: Some(folder.join("System.map")),
        config: Some(folder.join("config")),
        record: Some(record),
        _lease: Some(Arc::new(lease)),
    }))
}

pub(super) fn read_record(folder: &Path) -> Option<Record> {
    serde_json::from_slice(&fs_err::read(folder.join(RECORD)).ok()?).ok()
}

/// Puts the complete folder `new` into the cache.
pub(crate) fn install(cache: &Cache, new: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_vec_pretty(record).map_err(std::io::Error::from)?;
    fs_err::write(new.join(RECORD), text)?;
    for name in ["bzImage", "vmlinux", RECORD] {
        fs_err::File::open(new.join(name))?.sync_all()?;
    }
    let folder = cache.kernel(&record.id);
    match fs_err::rename(new, &folder) {
        // The same kernel, from another copy of the same source.
        Err(_) if folder.join(RECORD).exists() => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

//! Lists and prunes the cache.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::FlockArg;
use serde::Serialize;

use crate::bytes::Bytes;
use crate::files::{remove_file, remove_tree};
use crate::{Error, Result};

use super::artifacts::{RECORD, Record, read_record};
use super::cache::Cache;
use super::objects;
use super::worktree::try_lock;

/// The unit of `st_blocks` (stat(3type)).
const BLOCK: u64 = 512;

/// Extension of a folder that is being removed.
const GONE: &str = "gone";

/// Folders of the cache whose sub-folders are removed one by one.
const KINDS: [&str; 4] = ["kernels", "trees", "checkpoints", "lock-orders"];

/// The file on which the user of a tree or a checkpoint holds a lock. For a kernel, it is the
/// record.
const LOCK: &str = "lock";

/// The contents of the cache.
#[derive(Debug, Clone, Serialize)]
pub struct Listing {
    /// The kernels, the most recently used one first.
    pub kernels: Vec<Listed>,
    /// The copies of sources with their objects.
    pub trees: Vec<ListedTree>,
}

/// A kernel in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The record of the build.
    pub record: Record,
    /// The total size of its files, in bytes.
    pub bytes: u64,
    /// The time of the last use.
    pub used: jiff::Timestamp,
}

/// A copy of a source in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct ListedTree {
    /// The name of the tree's folder.
    pub id: String,
    /// The time of the last use.
    pub used: jiff::Timestamp,
    /// The number of object folders: for each config, one for each kept state of the headers.
    pub object_folders: usize,
    /// The total size of the files in these folders, in bytes.
    pub object_bytes: u64,
}

/// The selection of [`prune`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Everything that was not used for at least this long.
    Unused(Duration),
    /// What was not used for longest, until the cache has at most this size.
    To(Bytes),
    /// Everything, whatever the layout version of the cache.
    All,
}

/// The result of [`prune`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pruned {
    /// The folders that were removed.
    pub removed: Vec<PathBuf>,
    /// The folders that were kept because a run uses them.
    pub in_use: Vec<PathBuf>,
    /// The total size of the removed files, in bytes.
    pub bytes: u64,
}

/// Lists the kernels and trees in `cache`.
pub fn list(cache: &Cache) -> Result<Listing> {
    let mut kernels = Vec::new();
    for folder in folders(&cache.kernels())? {
        if let Some(record) = read_record(&folder) {
            kernels.push(Listed { record, bytes: size(&folder), used: timestamp(used(&folder)) });
        }
    }
    kernels.sort_by_key(|kernel| std::cmp::Reverse(kernel.used));
    let mut trees = Vec::new();
    for folder in folders(&cache.trees())? {
        let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let objects = objects::folders(&folder)?;
        let object_bytes = objects.iter().map(|folder| size(folder)).sum();
        let used = timestamp(used(&folder));
        trees.push(ListedTree { id, used, object_folders: objects.len(), object_bytes });
    }
    Ok(Listing { kernels, trees })
}

/// Removes the selected folders from the cache in `root`. Folders that a run uses are kept.
pub fn prune(root: &Path, what: Prune) -> Result<Pruned> {
    if what != Prune::All {
        Cache::open(root)?;
    }
    let mut pruned = Pruned::default();
    let mut all: Vec<(SystemTime, &str, PathBuf)> = Vec::new();
    for kind in KINDS {
        for folder in folders(&root.join(kind))? {
            if folder.extension().is_some_and(|end| end == GONE) {
                // An earlier prune was killed.
                remove_tree(&folder)?;
            } else {
                all.push((used(&folder), kind, folder));
            }
        }
    }
    all.sort();
    let mut left: u64 = sizes(root).iter().map(|(_, bytes)| bytes).sum();
    for (used, kind, folder) in all {
        let is_selected = match what {
            Prune::All => true,
            Prune::Unused(age) => used.elapsed().is_ok_and(|unused| unused >= age),
            Prune::To(most) => left > most.0,
        };
        if is_selected {
            let before = pruned.bytes;
            remove(kind, folder, &mut pruned)?;
            left = left.saturating_sub(pruned.bytes - before);
        }
    }
    if let Prune::To(most) = what
        && left > most.0
    {
        // Packages and logs of builds are quickly fetched or made again.
        for name in ["failed", "sources"] {
            let folder = root.join(name);
            pruned.bytes += size(&folder);
            remove_tree(&folder)?;
        }
    }
    if what == Prune::All {
        remove_tree(&root.join("failed"))?;
        remove_tree(&root.join("sources"))?;
        for kind in KINDS {
            // This fails, as intended, if the folder still holds something that is in use.
            let _ = std::fs::remove_dir(root.join(kind));
        }
        if pruned.in_use.is_empty() {
            remove_file(&root.join("format"))?;
        }
    }
    Ok(pruned)
}

/// Removes a folder, unless a run uses it.
fn remove(kind: &str, folder: PathBuf, pruned: &mut Pruned) -> Result<()> {
    let file = folder.join(if kind == "kernels" { RECORD } else { LOCK });
    match try_lock(&file, FlockArg::LockExclusiveNonblock)? {
        None => pruned.in_use.push(folder),
        Some(lock) => {
            pruned.bytes += size(&folder);
            // The folder is renamed first, so that a kill during the removal leaves no incomplete
            // kernel under its name.
            let gone = folder.with_extension(GONE);
            fs_err::rename(&folder, &gone)?;
            remove_tree(&gone)?;
            drop(lock);
            pruned.removed.push(folder);
        }
    }
    Ok(())
}

/// The size of each part of the cache in `root`, in bytes.
pub fn sizes(root: &Path) -> Vec<(&'static str, u64)> {
    let parts = KINDS.into_iter().chain(["sources", "failed", "accelerators"]);
    parts.map(|part| (part, size(&root.join(part)))).collect()
}

fn folders(of: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs_err::read_dir(of) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::from(error)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn used(folder: &Path) -> SystemTime {
    let time = |name: &str| std::fs::metadata(folder.join(name)).and_then(|meta| meta.modified()).ok();
    [RECORD, "checkpoint.json", LOCK].into_iter().find_map(time).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn timestamp(time: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

fn size(folder: &Path) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten();
    files
        .filter_map(|entry| entry.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        // The memory of a checkpoint is a sparse file.
        .map(|meta| meta.blocks() * BLOCK)
        .sum()
}

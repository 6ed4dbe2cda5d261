//! The folders that make works in.
//!
//! ```text
//! obj/<config>/          where make works: its path is in debug information and in what the kernel's tools were built with
//! obj/<config>-<n>/      objects of another state of the source, set aside
//!   .hotplug-making      while make runs
//!   .hotplug-seen.json   what the folder saw of the files that vary, see `stamps`
//!   .hotplug-files       how many files were compiled here
//! ```
//!
//! One folder can hold any state of the source; `stamps` sees to that. But when a header changes
//! back and forth, nearly everything is compiled at each change. So a state whose headers no folder
//! of this config has seen last gets a copy of the nearest folder. Each side of a comparison finds
//! its own objects again, and so do its control and its counters.

use std::cmp::Reverse;
use std::fs::FileTimes;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use walkdir::WalkDir;

use crate::{Error, Result, files};

use super::source::blocking;
use super::stamps::{States, Varying};
use super::tool;
use super::tree::{Tree, remove_file, remove_tree, work};

/// In an object folder whose make has not ended in order: Kbuild would take a half-written object
/// for a finished one.
const MAKING: &str = ".hotplug-making";

/// What the folder saw last. Its time says when the folder was used last.
const SEEN: &str = ".hotplug-seen.json";

/// A hash of the inputs that the folder's `.config` was made by.
const CONFIGURED: &str = ".hotplug-configured";

/// How many files were compiled in the folder, for the bar of a build that goes on.
const COMPILED: &str = ".hotplug-files";

/// The same of a hotplug that keeps no record of what the folder saw. Where it is, such a one built
/// here last.
const COMPILED_UNRECORDED: &str = ".hotplug-compiled";

/// Folders of one config in one tree: a comparison's two sides, and the series before. Each takes
/// some 0.4 GB.
const MOST: usize = 3;

/// Folder of a tree that holds the object folders.
const ALL: &str = "obj";

/// An object folder that is ready for make.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) folder: PathBuf,
    /// Whether a whole build is there to start from.
    pub(crate) is_whole: bool,
    /// How many files were compiled in it.
    pub(crate) compiled: u32,
}

/// What is on disk of an object folder's past.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    files: States,
    /// A build has ended here, or where the folder was copied from.
    is_whole: bool,
}

/// A folder that may be built in.
#[derive(Debug)]
struct Candidate {
    folder: PathBuf,
    record: Option<Record>,
    used: SystemTime,
}

impl Candidate {
    fn read(folder: PathBuf) -> Self {
        let bytes = fs_err::read(folder.join(SEEN)).ok();
        let used = std::fs::metadata(folder.join(SEEN)).and_then(|meta| meta.modified());
        // Damaged or not there: everything that varies is compiled again, which is right and slow.
        let record = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let record = record.filter(|_| !folder.join(COMPILED_UNRECORDED).exists());
        Self { folder, record, used: used.unwrap_or(SystemTime::UNIX_EPOCH) }
    }

    fn is_whole(&self) -> bool {
        self.folder.join("vmlinux").exists() || self.record.as_ref().is_some_and(|record| record.is_whole)
    }

    /// How far its headers are from the source's. Objects of a build that never ended, or of which
    /// nobody knows what they were built from, are not worth keeping for another state: they are as
    /// near as can be.
    fn distance(&self, varying: &Varying) -> usize {
        match &self.record {
            Some(record) if self.is_whole() => varying.wide_differences(&record.files),
            _ => 0,
        }
    }
}

/// Readies a folder for a make with `config` in `tree`'s source as it is now: the right objects are
/// in place, and the source's files have the times that those objects were made with. `copying` is
/// told before objects are copied.
pub(crate) async fn ready(
    tree: &Tree,
    config: &str,
    copying: impl FnOnce(),
    cancel: &CancellationToken,
) -> Result<Objects> {
    let folder = tree.dir().join(ALL).join(config);
    let (source, varied) = (tree.source(), tree.varied()?);
    let varying = blocking(move || Varying::read(&source, varied)).await?;
    let candidates = candidates(tree.dir(), config)?;
    let order = |one: &&Candidate| (one.distance(&varying), !one.is_whole(), Reverse(one.used));
    let nearest = candidates.iter().min_by_key(order);
    // Asked before the folders change their names.
    let is_whole = nearest.is_some_and(Candidate::is_whole);
    match nearest {
        Some(nearest) if nearest.distance(&varying) == 0 => take(&nearest.folder, &folder)?,
        Some(nearest) => {
            copying();
            make_room(tree.dir(), &candidates, nearest)?;
            take(&copied(tree, nearest, cancel).await?, &folder)?;
        }
        None => fs_err::create_dir_all(&folder)?,
    }
    let compiled = compiled(&folder);
    let record = nearest.and_then(|nearest| nearest.record.as_ref()).map(|record| &record.files);
    let files = varying.wanted(record);
    let record = Record { files, is_whole };
    // On disk before the first file has its time, and long before make: whatever make leaves,
    // however it ends, is then newer than the record says, or older and compiled again.
    files::write_json_compact(&folder.join(SEEN), &record)?;
    varying.set_times(&record.files)?;
    count(&folder, compiled)?;
    remove_file(&folder.join(COMPILED_UNRECORDED))?;
    Ok(Objects { folder, is_whole, compiled })
}

/// A copy of `nearest`, which is whole or is not there.
async fn copied(tree: &Tree, nearest: &Candidate, cancel: &CancellationToken) -> Result<PathBuf> {
    let copy = tree.work("objects")?;
    let (from, to, stop) = (nearest.folder.clone(), copy.clone(), cancel.clone());
    let result = blocking(move || copy_objects(&from, &to, &stop)).await;
    if result.is_err() {
        remove_tree(&copy)?;
    }
    result.map(|()| copy)
}

/// Writes down how many files were compiled in `folder`.
pub(crate) fn count(folder: &Path, compiled: u32) -> Result<()> {
    Ok(fs_err::write(folder.join(COMPILED), compiled.to_string())?)
}

fn compiled(folder: &Path) -> u32 {
    let read = |name| std::fs::read_to_string(folder.join(name)).ok()?.parse().ok();
    [COMPILED_UNRECORDED, COMPILED].into_iter().find_map(read).unwrap_or(0)
}

/// Marks `objects` as being made in. Call [`made`] once make has ended in order.
pub(crate) fn making(objects: &Path) -> Result<()> {
    fs_err::create_dir_all(objects)?;
    fs_err::write(objects.join(MAKING), "")?;
    Ok(())
}

/// Whether the folder's `.config` was made by the same inputs ([`configured`]).
pub(crate) fn is_configured(objects: &Path, by: &str) -> bool {
    let told = fs_err::read_to_string(objects.join(CONFIGURED));
    told.is_ok_and(|told| told == by) && objects.join(".config").is_file()
}

/// Notes by which inputs the folder's `.config` was made.
pub(crate) fn configured(objects: &Path, by: &str) -> Result<()> {
    Ok(files::write_whole(&objects.join(CONFIGURED), by.as_bytes())?)
}

/// Takes the mark off.
pub(crate) fn made(objects: &Path) -> Result<()> {
    remove_file(&objects.join(MAKING))
}

/// Drops, in the tree `dir`, the folders whose make was killed.
pub(super) fn recover(dir: &Path) -> Result<()> {
    for folder in folders(dir)? {
        if folder.join(MAKING).exists() {
            tracing::info!(folder = %folder.display(), "dropping objects of a killed build");
            remove(dir, &folder)?;
        }
    }
    Ok(())
}

/// The object folders of the tree `dir`.
pub(super) fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs_err::read_dir(dir.join(ALL)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn candidates(dir: &Path, config: &str) -> Result<Vec<Candidate>> {
    let is_ours = |folder: &PathBuf| {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.split('-').next() == Some(config)
    };
    Ok(folders(dir)?.into_iter().filter(is_ours).map(Candidate::read).collect())
}

/// Puts `objects` where make works, and sets aside what is there. A run that is killed in between
/// leaves all of them under names that the next run finds.
fn take(objects: &Path, place: &Path) -> Result<()> {
    if objects == place {
        return Ok(());
    }
    if place.exists() {
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let aside = |number: u32| place.with_file_name(format!("{name}-{number}"));
        let mut number = 1;
        while aside(number).exists() {
            number += 1;
        }
        fs_err::rename(place, aside(number))?;
    }
    Ok(fs_err::rename(objects, place)?)
}

/// Removes what was used least lately, except `wanted`, until one more folder may come.
fn make_room(dir: &Path, candidates: &[Candidate], wanted: &Candidate) -> Result<()> {
    let mut others: Vec<&Candidate> =
        candidates.iter().filter(|other| other.folder != wanted.folder).collect();
    others.sort_by_key(|other| other.used);
    for old in others.into_iter().take((candidates.len() + 1).saturating_sub(MOST)) {
        tracing::info!(folder = %old.folder.display(), "dropping objects that were not used lately");
        remove(dir, &old.folder)?;
    }
    Ok(())
}

/// Out of sight first, so that a kill half-way leaves no half folder under its name.
fn remove(dir: &Path, folder: &Path) -> Result<()> {
    let gone = work(dir, "objects")?;
    // rename(2) replaces an empty folder.
    fs_err::rename(folder, &gone)?;
    remove_tree(&gone)
}

/// Copies an object folder, with the times that make goes by. On file systems that can, the copies
/// share their blocks (`std::fs::copy` calls `copy_file_range(2)`). They must not be hard links:
/// kbuild writes its `.cmd` files, objtool the objects, and sorttable the vmlinux in place, and
/// would so change the other side's.
fn copy_objects(from: &Path, to: &Path, cancel: &CancellationToken) -> Result<()> {
    for entry in WalkDir::new(from).min_depth(1) {
        if cancel.is_cancelled() {
            return Err(Error::interrupted());
        }
        let entry = entry.map_err(std::io::Error::from)?;
        let path = entry.path().strip_prefix(from).unwrap_or(entry.path());
        if is_linked_anew(path) {
            continue;
        }
        let copy = to.join(path);
        let kind = entry.file_type();
        let copied = if kind.is_dir() {
            fs_err::create_dir(&copy)
        } else if kind.is_symlink() {
            fs_err::read_link(entry.path()).and_then(|target| std::os::unix::fs::symlink(target, &copy))
        } else {
            copy_file(entry.path(), &copy)
        };
        copied.map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => tool::disk_full(error),
            _ => Error::from(error),
        })?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    fs_err::copy(from, to)?;
    let modified = fs_err::metadata(from)?.modified()?;
    fs_err::File::open(to)?.file().set_times(FileTimes::new().set_modified(modified))
}

/// What every build links anew: half of a folder's bytes.
fn is_linked_anew(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let top = path.components().count() == 1;
    top && (name == "vmlinux" || name == "vmlinux.o" || name.starts_with(".tmp_vmlinux"))
        || path.starts_with("arch/x86/boot/compressed") && name.starts_with("vmlinux")
        || path == Path::new("arch/x86/boot/bzImage")
        || path == Path::new("arch/x86/boot/vmlinux.bin")
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;

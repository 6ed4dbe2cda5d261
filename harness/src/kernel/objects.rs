//! The object folders of a tree, in which make builds.
//!
//! ```text
//! obj/<config>/             the folder in which make builds. Its path is in the debug information
//!                           and in the build commands of the kernel's tools
//! obj/<config>-<n>/         objects of another state of the source, set aside
//!   .hotplug-making         exists while make runs
//!   .hotplug-seen.json      the varying files as the folder last saw them, see `stamps`
//!   .hotplug-configured     a hash of the inputs of the folder's .config
//!   .hotplug-plain-config   the configuration without the harness's fragments
//!   .hotplug-files          the number of files compiled here
//! ```
//!
//! With the times that `stamps` sets, one folder could build any state of the source. But when a
//! header changes back and forth, nearly every file is compiled at each change. So if no folder of
//! this config last saw the headers of a state, that state gets a copy of the nearest folder. Each
//! side of a comparison then finds its own objects again, and so do its control and its coverage
//! kernels.

use std::cmp::Reverse;
use std::fs::FileTimes;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use walkdir::WalkDir;

use crate::arch::Architecture;
use crate::files::{remove_file, remove_tree};
use crate::{Error, Result, files};

use super::command;
use super::source::blocking;
use super::stamps::{States, Varying};
use super::worktree::{Tree, work};

/// Marks an object folder in which make has not ended in order. Kbuild would treat a partially
/// written object there as complete.
const MAKING: &str = ".hotplug-making";

/// The record of the file states that the folder last saw. Its modification time is the time of the
/// folder's last use.
const SEEN: &str = ".hotplug-seen.json";

/// Holds a hash of the inputs from which the folder's `.config` was made.
const CONFIGURED: &str = ".hotplug-configured";

/// The configuration that the base alone gave, without the fragments.
const PLAIN: &str = ".hotplug-plain-config";

/// Holds the number of files compiled in the folder, for the progress bar of a resumed build.
const COMPILED: &str = ".hotplug-files";

/// The same number, written by a version of hotplug that keeps no record in [`SEEN`]. If the file
/// exists, such a version built here last.
const COMPILED_UNRECORDED: &str = ".hotplug-compiled";

/// Maximum number of folders of one config in one tree: two for a comparison's sides, and one for
/// the series before. Each takes about 0.4 GB.
const MOST: usize = 3;

/// Name of the folder in a tree that holds the object folders.
const ALL: &str = "obj";

/// An object folder that is ready for make.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) folder: PathBuf,
    /// Whether the folder holds a complete build to start from.
    pub(crate) is_whole: bool,
    /// The number of files compiled in the folder.
    pub(crate) compiled: u32,
}

/// The record of an object folder's last use, as stored on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    files: States,
    /// A build was completed in this folder, or in the folder from which it was copied.
    is_whole: bool,
}

/// An object folder that can be used for a build.
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
        // Without a readable record, every varying file is compiled again, which is correct but
        // slow.
        let record = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let record = record.filter(|_| !folder.join(COMPILED_UNRECORDED).exists());
        Self { folder, record, used: used.unwrap_or(SystemTime::UNIX_EPOCH) }
    }

    fn is_whole(&self) -> bool {
        self.folder.join("vmlinux").exists() || self.record.as_ref().is_some_and(|record| record.is_whole)
    }

    /// The number of wide files, such as headers, that differ between the folder's record and the
    /// source. The distance is 0 for a folder whose build never completed or that has no record.
    /// Its objects are not worth keeping for another state.
    fn distance(&self, varying: &Varying) -> usize {
        match &self.record {
            Some(record) if self.is_whole() => varying.wide_differences(&record.files),
            _ => 0,
        }
    }
}

/// Prepares an object folder for a make with `config` and the current source of `tree`. The
/// matching objects are moved into place, and the source's files get the times with which those
/// objects were made. `copying` is called before objects are copied.
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
    // This is evaluated before the folders are renamed.
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
    // The record is on disk before the first file gets its time, and long before make starts.
    // However make ends, an object that it leaves is newer than the times in the record, or it is
    // older and is compiled again.
    files::write_json_compact(&folder.join(SEEN), &record)?;
    varying.set_times(&record.files)?;
    count(&folder, compiled)?;
    remove_file(&folder.join(COMPILED_UNRECORDED))?;
    Ok(Objects { folder, is_whole, compiled })
}

/// Copies `nearest`. An incomplete copy is removed.
async fn copied(tree: &Tree, nearest: &Candidate, cancel: &CancellationToken) -> Result<PathBuf> {
    let copy = tree.work("objects")?;
    let (from, to, stop) = (nearest.folder.clone(), copy.clone(), cancel.clone());
    let result = blocking(move || copy_objects(&from, &to, &stop)).await;
    if result.is_err() {
        remove_tree(&copy)?;
    }
    result.map(|()| copy)
}

/// Records the number of files compiled in `folder`.
pub(crate) fn count(folder: &Path, compiled: u32) -> Result<()> {
    Ok(fs_err::write(folder.join(COMPILED), compiled.to_string())?)
}

fn compiled(folder: &Path) -> u32 {
    let read = |name| std::fs::read_to_string(folder.join(name)).ok()?.parse().ok();
    [COMPILED_UNRECORDED, COMPILED].into_iter().find_map(read).unwrap_or(0)
}

/// Marks `objects` as a folder in which make runs. Call [`made`] after make has ended in order.
pub(crate) fn making(objects: &Path) -> Result<()> {
    fs_err::create_dir_all(objects)?;
    fs_err::write(objects.join(MAKING), "")?;
    Ok(())
}

/// Whether the folder's `.config` was made from the inputs with the hash `by` ([`configured`]).
pub(crate) fn is_configured(objects: &Path, by: &str) -> bool {
    let told = fs_err::read_to_string(objects.join(CONFIGURED));
    told.is_ok_and(|told| told == by) && objects.join(".config").is_file()
}

/// Records the hash of the inputs from which the folder's `.config` was made.
pub(crate) fn configured(objects: &Path, by: &str) -> Result<()> {
    Ok(files::write_whole(&objects.join(CONFIGURED), by.as_bytes())?)
}

/// Keeps the configuration that the base alone gave.
pub(super) fn keep_plain_config(objects: &Path, text: &str) -> Result<()> {
    Ok(files::write_whole(&objects.join(PLAIN), text.as_bytes())?)
}

/// The configuration that the base alone gave. Empty if an older version of hotplug configured the
/// folder.
pub(super) fn plain_config(objects: &Path) -> String {
    fs_err::read_to_string(objects.join(PLAIN)).unwrap_or_default()
}

/// Removes the mark that [`making`] set.
pub(crate) fn made(objects: &Path) -> Result<()> {
    remove_file(&objects.join(MAKING))
}

/// Removes the folders in the tree `dir` whose make was killed.
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

/// Moves `objects` to `place`, the folder in which make builds. A folder that is already there is
/// renamed. If the run is killed in between, the next run finds all folders under their new names.
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

/// Removes the least recently used folders, except `wanted`, until there is room for one more.
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

/// Removes a folder. It is renamed first, so that a kill during the removal leaves no incomplete
/// folder under its name.
fn remove(dir: &Path, folder: &Path) -> Result<()> {
    let gone = work(dir, "objects")?;
    // rename(2) replaces an empty folder.
    fs_err::rename(folder, &gone)?;
    remove_tree(&gone)
}

/// Copies an object folder with its modification times, which make compares. If the file system
/// supports it, the copies share their blocks (`std::fs::copy` calls `copy_file_range(2)`). Hard
/// links would not work: kbuild writes its `.cmd` files in place, objtool the objects, and
/// sorttable the vmlinux, and so they would change the other side's files.
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
            std::io::ErrorKind::StorageFull => command::disk_full(error),
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

/// Whether every build links this file again. These files are half of a folder's bytes.
fn is_linked_anew(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let top = path.components().count() == 1;
    top && (name == "vmlinux" || name == "vmlinux.o" || name.starts_with(".tmp_vmlinux"))
        || path.ends_with(Path::new("boot/compressed").join(&*name)) && name.starts_with("vmlinux")
        || Architecture::ALL
            .iter()
            .flat_map(|arch| arch.table().linked)
            .any(|linked| path == Path::new(linked))
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;

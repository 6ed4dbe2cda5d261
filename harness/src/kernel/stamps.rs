//! The modification times that make compares, kept for each object folder separately.
//!
//! Make compiles an object again if it is older than its source. Patches are applied to one copy of
//! a source and reverted, and several object folders are built from that copy. A file's time on
//! disk can be correct for only one of them. So every folder keeps a record of each file's content
//! and time as it last saw them. Before make starts in a folder, each file gets the time that the
//! folder's record has for its content. A content that is not in the record gets the current time.
//!
//! A time is correct if every object in the folder that is newer than this time was made from this
//! content. An older object, left by a make that was killed or that failed, is then compiled again.

use std::collections::BTreeMap;
use std::fs::FileTimes;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::Result;

use super::manifest;

/// A file of a source: its content, and the modification time that make compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    content: String,
    modified: SystemTime,
    /// Whether it is a symbolic link. Make reads the time of a link's target, so the link's own
    /// time is not set.
    is_link: bool,
}

/// Files by their paths relative to the source. `None` means that the file does not exist, which is
/// also a state.
pub(crate) type States = BTreeMap<String, Option<State>>;

impl State {
    /// Reads the state of `file`, which may be absent.
    pub(crate) fn read(file: &Path) -> Result<Option<Self>> {
        let meta = match fs_err::symlink_metadata(file) {
            Ok(meta) => meta,
            // A parent folder in the path may be a file in this revision.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let is_link = meta.is_symlink();
        let content = match meta.file_type() {
            kind if kind.is_file() => manifest::hash(&fs_err::read(file)?),
            kind if kind.is_symlink() => manifest::hash(fs_err::read_link(file)?.as_os_str().as_bytes()),
            _ => return Ok(None),
        };
        Ok(Some(Self { content, modified: meta.modified()?, is_link }))
    }

    /// Whether the content is the same. The time is ignored.
    fn is_same_file(&self, other: &Self) -> bool {
        self.content == other.content && self.is_link == other.is_link
    }
}

/// Whether the content is the same, or both are absent.
fn same(one: Option<&State>, other: Option<&State>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_same_file(other),
        (None, None) => true,
        _ => false,
    }
}

/// One varying file of a source.
#[derive(Debug)]
struct File {
    path: String,
    /// The state before the file first varied.
    original: Option<State>,
    now: Option<State>,
}

/// The varying files of a source.
#[derive(Debug)]
pub(crate) struct Varying {
    source: PathBuf,
    files: Vec<File>,
}

impl File {
    /// The state in which a folder last saw the file. A file without an entry in the record had not
    /// varied by then, so the folder saw its original state.
    fn seen<'a>(&'a self, record: &'a States) -> Option<&'a State> {
        record.get(&self.path).unwrap_or(&self.original).as_ref()
    }
}

impl Varying {
    /// Reads the files of `varied`, which are in `source`.
    pub(crate) fn read(source: &Path, varied: States) -> Result<Self> {
        let read = |(path, original): (String, Option<State>)| {
            let now = State::read(&source.join(&path))?;
            Ok(File { path, original, now })
        };
        let files = varied.into_iter().map(read).collect::<Result<_>>()?;
        Ok(Self { source: source.to_owned(), files })
    }

    /// The states for the next build in a folder: the current contents, with the times that the
    /// folder's record has for them. `record` is `None` for a folder without a record.
    pub(crate) fn wanted(&self, record: Option<&States>) -> States {
        // The file system's clock ticks every few milliseconds. This clock is finer, so no object
        // has the same time.
        let time = SystemTime::now();
        let wanted = |file: &File| {
            let state = file.now.as_ref()?;
            let known = record.and_then(|record| file.seen(record)).filter(|known| known.is_same_file(state));
            Some(known.cloned().unwrap_or_else(|| State { modified: time, ..state.clone() }))
        };
        self.files.iter().map(|file| (file.path.clone(), wanted(file))).collect()
    }

    /// Gives the files the times of `wanted`.
    pub(crate) fn set_times(&self, wanted: &States) -> Result<()> {
        for File { path, now, .. } in &self.files {
            let (Some(now), Some(Some(wanted))) = (now, wanted.get(path)) else { continue };
            if !now.is_link && now.modified != wanted.modified {
                let file = fs_err::File::open(self.source.join(path))?;
                file.file().set_times(FileTimes::new().set_modified(wanted.modified))?;
            }
        }
        Ok(())
    }

    /// The number of wide files ([`is_wide`]) that differ from the states that the folder of
    /// `record` last saw.
    pub(crate) fn wide_differences(&self, record: &States) -> usize {
        let differs = |file: &&File| is_wide(&file.path) && !same(file.now.as_ref(), file.seen(record));
        self.files.iter().filter(differs).count()
    }
}

/// Whether a change of this file may recompile more than its own object. This applies to headers,
/// makefiles, Kconfig files and programs that the build runs.
fn is_wide(path: &str) -> bool {
    let starts = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    if starts(&["Documentation/", "tools/testing/"]) || ["MAINTAINERS", "CREDITS"].contains(&path) {
        return false;
    }
    let end = Path::new(path).extension().and_then(|end| end.to_str()).unwrap_or_default();
    // objtool and fixdep process every object.
    starts(&["scripts/", "tools/"]) || !["c", "S", "rst"].contains(&end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_makefiles_and_the_builds_own_programs_are_wide() {
        for path in [
            "include/linux/mm.h",
            "mm/Kconfig",
            "mm/Makefile",
            "scripts/basic/fixdep.c",
            "tools/objtool/check.c",
        ] {
            assert!(is_wide(path), "{path}");
        }
        for path in
            ["mm/memory.c", "arch/x86/entry/entry_64.S", "Documentation/conf.py", "MAINTAINERS", "README.rst"]
        {
            assert!(!is_wide(path), "{path}");
        }
    }

    #[test]
    fn an_absent_file_is_a_state() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.h");
        let varying = |original: &States| Varying::read(folder.path(), original.clone()).unwrap();
        let absent = States::from([("a.h".to_owned(), None)]);
        assert_eq!(varying(&absent).wanted(None), absent);
        assert_eq!(varying(&absent).wide_differences(&States::new()), 0);
        fs_err::write(&file, "a").unwrap();
        assert_eq!(State::read(&file.join("below")).unwrap(), None, "a file stands where its folder was");
        let there = varying(&absent).wanted(None);
        assert_eq!(varying(&absent).wide_differences(&States::new()), 1);
        assert_eq!(varying(&absent).wide_differences(&there), 0);
        fs_err::remove_file(&file).unwrap();
        assert_eq!(varying(&absent).wide_differences(&there), 1);
    }

    #[test]
    fn a_link_keeps_its_time_and_is_known_by_what_it_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("l.h");
        std::os::unix::fs::symlink("nowhere.h", &link).unwrap();
        let original = States::from([("l.h".to_owned(), State::read(&link).unwrap())]);
        let varying = Varying::read(folder.path(), original.clone()).unwrap();
        varying.set_times(&varying.wanted(None)).unwrap();
        assert_eq!(State::read(&link).unwrap(), original["l.h"]);
        fs_err::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("elsewhere.h", &link).unwrap();
        assert_eq!(Varying::read(folder.path(), original).unwrap().wide_differences(&States::new()), 1);
    }
}

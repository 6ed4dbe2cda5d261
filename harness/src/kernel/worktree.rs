//! A tree: the harness's copy of a source, and the objects built from it. One run at a time may use
//! a tree. The run may be killed at any instant.
//!
//! ```text
//! trees/<id>/
//!   lock            flock(2), which the kernel releases when the run dies
//!   state.json      the name of the contents of src/; null while they change
//!   varied.json     the original state of every file of src/ that ever changed, see `stamps`
//!   manifest.json   for a folder: the manifest of src/
//!   index           for a repository: git's index of src/
//!   src/            the source
//!   undo/           while a patch is applied: the original files
//!   obj/            the object folders, see `objects`
//!   work/           temporary files of the current use of the tree
//! ```

use std::collections::btree_map::Entry;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::files::{remove_file, remove_tree};
use crate::{Error, Result, files};

use super::apply::{Contents, Overlay};
use super::cache::Cache;
use super::objects;
use super::stamps::{State as FileState, States};

/// Interval between attempts to take a busy lock. A blocking flock(2) could not be cancelled.
const RETRY: Duration = Duration::from_millis(100);

/// Name of the file that lists the files that varied.
const VARIED: &str = "varied.json";

/// A tree whose lock this run holds.
#[derive(Debug)]
pub(crate) struct Tree {
    dir: PathBuf,
    lock: Flock<File>,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    content: Option<String>,
}

/// One file of the undo journal.
#[derive(Debug, Serialize, Deserialize)]
struct Undo {
    path: String,
    /// The number of the original file in the journal, and whether it is executable. `None` if
    /// there was no file.
    was: Option<(usize, bool)>,
}

/// Takes the lock on `file`. Returns `None` if the lock is busy or the file was removed in the
/// meantime.
pub(crate) fn try_lock(file: &Path, how: FlockArg) -> Result<Option<Flock<File>>> {
    let open = match fs_err::OpenOptions::new().create(true).append(true).read(true).open(file) {
        Ok(open) => open.into_parts().0,
        // A prune has just removed the folder.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let lock = match Flock::lock(open, how) {
        Ok(lock) => lock,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => {
            return Err(Error::infrastructure(format!("cannot lock {}: {error}", file.display())));
        }
    };
    // A prune may have removed the file between the two calls.
    let same = std::fs::metadata(file)
        .is_ok_and(|there| lock.metadata().is_ok_and(|ours| ours.ino() == there.ino()));
    Ok(same.then_some(lock))
}

impl Tree {
    /// Waits for the lock and repairs the state that a killed run left. Calls `waiting` once if the
    /// lock is busy.
    pub(crate) async fn acquire(
        cache: &Cache,
        id: &str,
        waiting: impl FnOnce(PathBuf),
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let dir = cache.trees().join(id);
        let mut waiting = Some(waiting);
        loop {
            fs_err::create_dir_all(&dir)?;
            if let Some(lock) = try_lock(&dir.join("lock"), FlockArg::LockExclusiveNonblock)? {
                // The lock's modification time is the time of the last use, by which `prune`
                // selects.
                lock.set_modified(SystemTime::now())?;
                let this = Self { dir, lock };
                let this = super::source::blocking(move || this.recover().map(|()| this)).await?;
                return Ok(this);
            }
            if let Some(waiting) = waiting.take() {
                waiting(dir.clone());
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::interrupted()),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    pub(crate) fn lock(&self) -> &File {
        &self.lock
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.dir.join("src")
    }

    /// Creates an empty folder for this use of the tree.
    pub(crate) fn work(&self, name: &str) -> Result<PathBuf> {
        work(&self.dir, name)
    }

    fn recover(&self) -> Result<()> {
        self.undo()?;
        for name in [WORK, "undo.new", "undo.done"] {
            remove_tree(&self.dir.join(name))?;
        }
        // A killed git leaves its own lock on the index. This run holds the tree's lock, so no live
        // git owns it.
        remove_file(&self.dir.join("index.lock"))?;
        objects::recover(&self.dir)
    }

    /// The name of the contents of `src/`. `None` if there are none, or if a run was killed while
    /// they changed.
    pub(crate) fn content(&self) -> Option<String> {
        let bytes = fs_err::read(self.dir.join("state.json")).ok()?;
        serde_json::from_slice::<State>(&bytes).ok()?.content
    }

    /// Records the name of the contents of `src/`. Must be called with `None` before they are
    /// changed.
    pub(crate) fn set_content(&self, content: Option<String>) -> Result<()> {
        files::write_json_compact(&self.dir.join("state.json"), &State { content })
    }

    /// The original state of every file of `src/` that ever changed.
    pub(crate) fn varied(&self) -> Result<States> {
        match fs_err::read(self.dir.join(VARIED)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(json),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(States::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Records that these files of `src/` are about to change.
    pub(crate) fn vary(&self, paths: impl IntoIterator<Item = String>) -> Result<()> {
        let mut varied = self.varied()?;
        let known = varied.len();
        for path in paths {
            if let Entry::Vacant(entry) = varied.entry(path) {
                let state = FileState::read(&self.source().join(entry.key()))?;
                entry.insert(state);
            }
        }
        if varied.len() == known {
            return Ok(());
        }
        files::write_json_compact(&self.dir.join(VARIED), &varied)
    }

    /// Applies a patch. The journal is complete before the first file is modified.
    pub(crate) fn apply(&self, overlay: &Overlay) -> Result<()> {
        let (journal, new) = (self.dir.join("undo"), self.dir.join("undo.new"));
        remove_tree(&new)?;
        fs_err::create_dir_all(&new)?;
        self.vary(overlay.changes.iter().map(|change| change.path.clone()))?;
        let mut entries = Vec::new();
        for (number, change) in overlay.changes.iter().enumerate() {
            let was = Contents::read(&self.source().join(&change.path))?;
            let entry = was.as_ref().map(|was| (number, was.executable));
            if let Some(was) = was {
                was.write(&new.join(number.to_string()))?;
            }
            entries.push(Undo { path: change.path.clone(), was: entry });
        }
        files::write_json_compact(&new.join("journal.json"), &entries)?;
        fs_err::rename(&new, &journal)?;
        for change in &overlay.changes {
            let file = self.source().join(&change.path);
            match &change.now {
                Some(contents) => contents.write(&file)?,
                None => remove_file(&file)?,
            }
        }
        Ok(())
    }

    /// Reverts the patch, if one is applied. The files get the current time. Before a build, they
    /// get the times that fit its object folder ([`super::stamps`]).
    pub(crate) fn undo(&self) -> Result<()> {
        let (journal, done) = (self.dir.join("undo"), self.dir.join("undo.done"));
        if !journal.exists() {
            return Ok(());
        }
        let entries: Vec<Undo> =
            serde_json::from_slice(&fs_err::read(journal.join("journal.json"))?).map_err(json)?;
        for Undo { path, was } in entries {
            let file = self.source().join(path);
            match was {
                Some((number, executable)) => {
                    let bytes = fs_err::read(journal.join(number.to_string()))?;
                    Contents { bytes, executable }.write(&file)?;
                }
                None => remove_file(&file)?,
            }
        }
        remove_tree(&done)?;
        fs_err::rename(&journal, &done)?;
        remove_tree(&done)
    }
}

/// The folder of a tree with what one use of it needs.
pub(super) const WORK: &str = "work";

/// Creates an empty folder for this use of the tree in `dir`. The next use of the tree removes it.
pub(crate) fn work(dir: &Path, name: &str) -> Result<PathBuf> {
    let folder = dir.join(WORK).join(name);
    remove_tree(&folder)?;
    fs_err::create_dir_all(&folder)?;
    Ok(folder)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(super) fn json(error: serde_json::Error) -> Error {
    Error::infrastructure(format!("the kernel cache is damaged: {error}")).help("hotplug kernel prune --all")
}

#[cfg(test)]
#[path = "worktree_tests.rs"]
mod tests;

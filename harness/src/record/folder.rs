//! The folder of a run, which only one process at a time writes to.

use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use super::unfinished;
use crate::files::write_json;
use crate::{Error, Result};

/// The folder of one run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held by the process that writes to the folder, and released at its end, however it ends.
    _lock: Flock<std::fs::File>,
}

impl RunFolder {
    /// Creates `results/<id>`. The id consists of the time and `what`, and is made unique if two
    /// runs start in the same second.
    pub fn create(results: &Path, what: &str) -> Result<Self> {
        let folder = Self::bare(results, what)?;
        unfinished::has_folder(results)?;
        fs_err::create_dir(folder.trials())?;
        Ok(folder)
    }

    /// Creates it without a folder for trials.
    pub fn bare(results: &Path, what: &str) -> Result<Self> {
        fs_err::create_dir_all(results)?;
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S");
        let plain = plain_name(what, 40);
        for attempt in 1..1000 {
            let suffix = if attempt == 1 { String::new() } else { format!("-{attempt}") };
            let path = results.join(format!("{now}-{plain}{suffix}"));
            match fs_err::create_dir(&path) {
                Ok(()) => return Self::lock(path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::infrastructure(format!("{} has no free name for a run", results.display())))
    }

    /// Opens the folder of a run that ended, in order to continue it.
    pub fn reopen(path: &Path) -> Result<Self> {
        Self::lock(path.to_owned())
    }

    fn lock(path: PathBuf) -> Result<Self> {
        let folder = fs_err::File::open(&path)?.into_parts().0;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(Error::user(format!(
                "the run in {} is in use by another hotplug process",
                path.display()
            ))
            .help("wait for its end, or end it first")),
            Err((_, error)) => Err(Error::infrastructure(format!("cannot lock {}: {error}", path.display()))),
        }
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the folder, which is the run's id.
    pub fn id(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The folder of the checkpoints' evidence.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The folder of the trials.
    pub fn trials(&self) -> PathBuf {
        self.path.join("trials")
    }

    /// Writes a JSON file into the folder, whole or not at all.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_json(&self.path.join(name), value)
    }
}

/// `name` reduced to characters that any file system accepts, and to at most `most` of them.
pub fn plain_name(name: &str, most: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' };
    name.chars().map(plain).take(most).collect()
}

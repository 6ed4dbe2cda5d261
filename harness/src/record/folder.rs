//! A run's folder, which one process at a time writes into.

use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use crate::files::write_json;
use crate::{Error, Result};

/// The folder of one run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held by whoever writes into it, until that process ends, however it does.
    _lock: Flock<std::fs::File>,
}

impl RunFolder {
    /// Makes `results/<id>`; the id is the time and `what`, and is made unique where two runs start in one second.
    pub fn create(results: &Path, what: &str) -> Result<Self> {
        let folder = Self::bare(results, what)?;
        fs_err::create_dir(folder.trials())?;
        Ok(folder)
    }

    /// The same without trials of its own.
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

    /// The folder of a run that ended, to go on in it.
    pub fn reopen(path: &Path) -> Result<Self> {
        Self::lock(path.to_owned())
    }

    fn lock(path: PathBuf) -> Result<Self> {
        let folder = fs_err::File::open(&path)?.into_parts().0;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(Error::user(format!(
                "the run in {} goes on: another hotplug writes there",
                path.display()
            ))
            .help("wait for it, or end it first")),
            Err((_, error)) => Err(Error::infrastructure(format!("cannot lock {}: {error}", path.display()))),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name.
    pub fn id(&self) -> String {
        self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Where the evidence of checkpoints is.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Where the trials are.
    pub fn trials(&self) -> PathBuf {
        self.path.join("trials")
    }

    /// Writes a JSON file of it, whole or not at all.
    pub fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_json(&self.path.join(name), value)
    }
}

/// `name` with nothing but what a file's name may have everywhere, and at most so many characters.
pub fn plain_name(name: &str, most: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' };
    name.chars().map(plain).take(most).collect()
}

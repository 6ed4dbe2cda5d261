//! What one piece of work came to.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::compare::Judge;
use crate::files::write_json_compact;
use crate::record::Run;
use crate::trial::Repeated;
use crate::{Error, Result};

/// `shard.json`: all that the merged verdict is made of, so that it does not grow with the number of trials.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shard {
    /// The plan's id.
    pub plan: String,
    /// The piece's.
    pub id: String,
    /// What was run.
    pub run: Run,
    /// What was judged.
    pub judge: Judge,
    /// Trials that were tried again and do not count.
    pub repeated: Vec<Repeated>,
    /// Seconds of trials.
    pub seconds: f64,
}

impl Shard {
    /// Where a plan's shard is.
    pub fn folder(plan: &Path, id: &str) -> PathBuf {
        plan.join("shards").join(id)
    }

    /// Its file.
    pub fn file(folder: &Path) -> PathBuf {
        folder.join("shard.json")
    }

    /// What was run of the one in that folder, without what was judged; none where there is none that is whole.
    pub fn run(folder: &Path) -> Option<Run> {
        /// As much of it.
        #[derive(Deserialize)]
        struct Begin {
            run: Run,
        }
        let bytes = fs_err::read(Self::file(folder)).ok()?;
        serde_json::from_slice::<Begin>(&bytes).ok().map(|begin| begin.run)
    }

    /// Reads one; none where it was not run, or not to its end.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let file = Self::file(folder);
        let bytes = match fs_err::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::user(format!("{} is torn: {error}", file.display())))
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json_compact(&Self::file(folder), self)
    }
}

//! The result of one piece of work.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::compare::Judge;
use crate::files::write_json_compact;
use crate::record::Run;
use crate::trial::Repeated;
use crate::{Error, Result};

/// `shard.json`: all that the merged verdict needs. Its size does not grow with the number of
/// trials.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shard {
    /// The plan's id.
    pub plan: String,
    /// The piece's id.
    pub id: String,
    /// The run.
    pub run: Run,
    /// The judgement so far.
    pub judge: Judge,
    /// Trials that were tried again and do not count.
    pub repeated: Vec<Repeated>,
    /// Seconds of trials.
    pub seconds: f64,
}

impl Shard {
    /// The folder of a plan's shard.
    pub fn folder(plan: &Path, id: &str) -> PathBuf {
        plan.join("shards").join(id)
    }

    /// The file of a shard.
    pub fn file(folder: &Path) -> PathBuf {
        folder.join("shard.json")
    }

    /// The run of the shard in `folder`, without its judgement. None if there is no complete shard.
    pub fn run(folder: &Path) -> Option<Run> {
        /// The part of the file that is needed.
        #[derive(Deserialize)]
        struct Begin {
            run: Run,
        }
        let bytes = fs_err::read(Self::file(folder)).ok()?;
        serde_json::from_slice::<Begin>(&bytes).ok().map(|begin| begin.run)
    }

    /// Reads the shard in `folder`. None if it was not run to its end.
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

    /// Writes the shard, whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json_compact(&Self::file(folder), self)
    }
}

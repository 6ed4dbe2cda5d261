//! What is asked for: two kernels.

use std::path::PathBuf;

use crate::Result;

use super::config::Config;
use super::source::Source;

/// Where one kernel of a pair comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A bzImage somebody else built.
    Ready(PathBuf),
    /// To be built.
    Build {
        /// From this source,
        source: Source,
        /// with the patches in these files and folders, in order.
        patches: Vec<PathBuf>,
    },
}

/// What is between before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing: both sides are one kernel.
    Nothing,
    /// Patch files, mboxes, folders of a series, in order.
    Patches(Vec<PathBuf>),
    /// Another revision of the same repository.
    Revision(String),
}

/// A pair, and the config both sides are built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairRequest {
    /// The kernel without the patch.
    pub before: Wanted,
    /// The kernel with it.
    pub after: Wanted,
    /// Options for the sides that are built.
    pub config: Config,
    /// Compilations at once; `None`: as many as there are processors for us.
    pub jobs: Option<usize>,
}

impl PairRequest {
    /// `source` as it is, and `source` with `change`; the default config.
    pub fn new(source: Source, change: Change) -> Result<Self> {
        let (after, patches) = match change {
            Change::Nothing => (source.clone(), Vec::new()),
            Change::Patches(patches) => (source.clone(), patches),
            Change::Revision(revision) => (source.at(&revision)?, Vec::new()),
        };
        let before = Wanted::Build { source, patches: Vec::new() };
        let after = Wanted::Build { source: after, patches };
        Ok(Self { before, after, config: Config::default(), jobs: None })
    }
}

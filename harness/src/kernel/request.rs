//! The request for a pair of kernels.

use std::path::PathBuf;

use crate::Result;

use super::config::Config;
use super::package::Package;
use super::source::Source;

/// The origin of one kernel of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A bzImage that the user gives.
    Ready {
        /// The bzImage.
        image: PathBuf,
        /// Its vmlinux. `None` means the one beside it, if there is one.
        symbols: Option<PathBuf>,
    },
    /// A distribution's kernel.
    Packaged(Package),
    /// A kernel to build.
    Build {
        /// The source.
        source: Source,
        /// The patches to apply: files and folders, in order.
        patches: Vec<PathBuf>,
    },
}

/// The change between the before kernel and the after kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// No change: both sides are the same kernel.
    Nothing,
    /// Patches: files, mboxes and folders of a series, in order.
    Patches(Vec<PathBuf>),
    /// Another revision of the same repository for the after kernel.
    Revision(String),
}

/// A pair of kernels, and the config with which both sides are built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairRequest {
    /// The kernel without the patch.
    pub before: Wanted,
    /// The kernel with the patch.
    pub after: Wanted,
    /// The config for the sides that are built.
    pub config: Config,
    /// Number of parallel compilations. `None` means the number of processors that the harness may
    /// use.
    pub jobs: Option<usize>,
}

impl PairRequest {
    /// Requests `source` for the before kernel and `source` with `change` for the after kernel,
    /// with the default config. Fails with a user error if `change` is a revision and the source is
    /// not a repository.
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

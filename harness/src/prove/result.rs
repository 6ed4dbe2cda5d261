//! `prove.json`.

use serde::{Deserialize, Serialize};

use super::{EntryResult, Totals};
use crate::record::Head;

/// A proof: whether known bugs were found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProveResult {
    /// Who did it, and where.
    #[serde(flatten)]
    pub head: Head,
    /// The unmodified kernel's source.
    pub source: String,
    /// Its `uname -r`.
    pub release: String,
    /// The exit status that goes with it.
    pub exit_status: u8,
    /// All entries together.
    pub totals: Totals,
    /// The entries, in the order they were tried. Those of a proof that was interrupted are the ones that ended.
    pub entries: Vec<EntryResult>,
    /// From its beginning to its end, seconds.
    pub seconds: f64,
}

//! `prove.json`.

use serde::{Deserialize, Serialize};

use super::{EntryResult, Totals};
use crate::record::Head;

/// The result of a proof: whether known bugs were found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProveResult {
    /// The command, the version and the machine.
    #[serde(flatten)]
    pub head: Head,
    /// The unmodified kernel's source.
    pub source: String,
    /// `uname -r` of the unmodified kernel.
    pub release: String,
    /// The exit status of the command.
    pub exit_status: u8,
    /// The seconds of trials that each entry of a blind proof had at most. Null for a proof with the
    /// scenarios of the entries' cards.
    #[serde(default)]
    pub blind: Option<f64>,
    /// All entries together.
    pub totals: Totals,
    /// The entries, in the order in which they were tried. If the proof was interrupted, only those
    /// that ended.
    pub entries: Vec<EntryResult>,
    /// The duration of the whole proof, in seconds.
    pub seconds: f64,
}

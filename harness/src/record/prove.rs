//! `prove.json`.

use serde::{Deserialize, Serialize};

use super::Host;
use crate::prove::{EntryResult, Totals};

/// A proof: whether known bugs were found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProveResult {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// Version of the harness.
    pub hotplug: String,
    /// When it began, in UTC.
    pub started: jiff::Timestamp,
    /// The command, as it was given.
    pub command: Vec<String>,
    /// The machine it ran on.
    pub host: Host,
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

//! What `hotplug shrink` found, and on which way.

use hotplug_statistics::interval;
use serde::{Deserialize, Serialize};

use crate::compare::Count;
use crate::record::Run;

/// `shrink.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShrinkResult {
    /// [`crate::record::SCHEMA`].
    pub schema: u32,
    /// The exit status that goes with it.
    pub exit_status: u8,
    /// The recorded trial's folder.
    pub trial: String,
    /// The report's signature, a short hash.
    pub signature: String,
    /// The report in one line.
    pub title: String,
    /// How often the recorded schedule gave it again.
    pub original: Count,
    /// What the rule says.
    pub rule: String,
    /// Every candidate, in the order in which they were tried.
    pub steps: Vec<Tried>,
    /// The size of the recorded trial, and of what is left.
    pub sizes: [String; 2],
    /// How often what is left gave it, in trials of its own.
    pub shrunk: Option<Count>,
    /// Trials that were run.
    pub trials: u32,
    /// Seconds that they took, boots for checkpoints included.
    pub trials_seconds: f64,
    /// What was run.
    pub run: Run,
}

/// A candidate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tried {
    /// Its trials are `trials/<name>-replay-000` and so on.
    pub name: String,
    /// What of it is less, such as `loads 2 -> 1`.
    pub what: String,
    /// Whether it was taken.
    pub taken: bool,
    /// How often it gave the report before that was decided.
    pub again: Count,
}

/// Such as `7 of 10 (35 % to 93 %)`, with the exact 95 % interval.
pub fn rate(again: Count) -> String {
    let (low, high) = interval(again.seen, again.trials);
    format!("{} of {} ({:.0} % to {:.0} %)", again.seen, again.trials, low * 100.0, high * 100.0)
}

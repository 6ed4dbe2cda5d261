//! The result of `hotplug shrink`, with the steps of the search.

use hotplug_statistics::interval;
use serde::{Deserialize, Serialize};

use crate::compare::Count;
use crate::record::Run;

/// `shrink.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShrinkResult {
    /// [`crate::record::SCHEMA`].
    pub schema: u32,
    /// The exit status of the command.
    pub exit_status: u8,
    /// The recorded trial's folder.
    pub trial: String,
    /// The report's signature, a short hash.
    pub signature: String,
    /// The report in one line.
    pub title: String,
    /// How often the recorded schedule showed the report again.
    pub original: Count,
    /// The rule that decided about candidates, in words.
    pub rule: String,
    /// Every candidate, in the order in which they were tried.
    pub steps: Vec<CandidateResult>,
    /// The size of the recorded trial, and that of the result.
    pub sizes: [String; 2],
    /// How often the result showed the report, in separate trials.
    pub shrunk: Option<Count>,
    /// The number of trials that were run.
    pub trials: u32,
    /// Seconds that the trials took, including boots for checkpoints.
    pub trials_seconds: f64,
    /// The run.
    pub run: Run,
}

/// A candidate, and its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CandidateResult {
    /// The candidate's name. Its trials are `trials/<name>-replay-000` and so on.
    pub name: String,
    /// What is smaller in it, such as `loads 2 -> 1`.
    pub what: String,
    /// Whether the candidate was taken.
    pub taken: bool,
    /// How often the candidate showed the report before the decision.
    pub again: Count,
}

/// A rate in words, such as `7 of 10 (35 % to 93 %)`, with the exact 95 % interval.
pub fn rate(again: Count) -> String {
    let (low, high) = interval(again.seen, again.trials);
    format!("{} of {} ({:.0} % to {:.0} %)", again.seen, again.trials, low * 100.0, high * 100.0)
}

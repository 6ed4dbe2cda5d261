//! Which lines of a patch ran. gcov(1) turns gcc's counters, read from a guest, into counts of
//! lines and functions.

mod changed;
mod counters;
mod gcov;

pub use changed::{ChangedLines, changed};
pub use counters::{Counters, Objects};
pub use gcov::{Function, LineCounts, line_counts};

use std::collections::BTreeMap;

use hotplug_side::Side;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of the file that a counted trial writes to its folder.
pub const FILE: &str = "coverage.json";

/// The counters of one trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialCounters {
    /// The reason why nothing was counted. `None` if the lines were counted.
    pub none: Option<String>,
    /// Counts from before the trial's first operation: the boot, and the agent's start.
    pub boot: Objects,
    /// Later counts, by the operations that were in progress. Counts from between operations, when
    /// only load ran, have no operations.
    pub during: Vec<During>,
}

/// Counts from the time in which a set of operations was in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct During {
    /// The kinds of the operations, such as `unplug dimm`, sorted.
    pub operations: Vec<String>,
    /// The counters.
    pub objects: Objects,
}

impl TrialCounters {
    /// Adds counts from the time in which `operations` were in progress.
    pub fn add(&mut self, operations: Vec<String>, objects: Objects) {
        if objects.is_zero() {
            return;
        }
        match self.during.iter_mut().find(|known| known.operations == operations) {
            Some(known) => known.objects.add(&objects),
            None => self.during.push(During { operations, objects }),
        }
    }

    /// Adds the counts of another trial.
    pub fn merge(&mut self, other: Self) {
        self.boot.add(&other.boot);
        for During { operations, objects } in other.during {
            self.add(operations, objects);
        }
    }
}

/// The contents of a trial's `coverage.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The trial's kernel.
    pub side: Side,
    /// The trial's number.
    pub number: u32,
    /// The trial's counters.
    pub counters: TrialCounters,
    /// The trial panicked or hung, so that the counts since the last reading are lost.
    #[serde(default)]
    pub is_cut: bool,
}

/// How often a line or a function ran, and in which operations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Executed {
    /// The count in all counted trials of its side and in their boots. gcc updates the counters
    /// atomically where possible (`-fprofile-update=prefer-atomic`).
    pub times: u64,
    /// The part of `times` that was counted during boot.
    pub boot: u64,
    /// The part of `times` that was counted while an operation of this kind was in progress.
    /// Several operations may be in progress at once.
    pub during: BTreeMap<String, u64>,
    /// It may have run: in a counted trial that panicked or hung, whose last counts are lost, or while
    /// the counters were read, which then contradict each other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unknown: bool,
}

//! Which lines ran: gcc's counters out of a guest -> counts of lines and functions, by gcov(1) -> what of a patch ran.

mod changed;
mod counters;
mod gcov;

pub use changed::{Changed, changed};
pub use counters::{Counters, Objects};
pub use gcov::{Function, LineCounts, line_counts};

use std::collections::BTreeMap;

use hotplug_side::Side;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of the file that a counted trial leaves in its folder.
pub const FILE: &str = "coverage.json";

/// What was counted in one trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialCounters {
    /// Why nothing was counted.
    pub none: Option<String>,
    /// Counted before its first operation: boot, and the agent's start.
    pub boot: Objects,
    /// Counted since, by the operations that were under way. What ran between operations, under load alone, has none.
    pub during: Vec<During>,
}

/// What was counted while some operations were under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct During {
    /// Their kinds, such as `unplug dimm`, sorted.
    pub operations: Vec<String>,
    /// What was counted.
    pub objects: Objects,
}

impl TrialCounters {
    /// Adds what was counted while `operations` were under way.
    pub fn add(&mut self, operations: Vec<String>, objects: Objects) {
        if objects.is_zero() {
            return;
        }
        match self.during.iter_mut().find(|known| known.operations == operations) {
            Some(known) => known.objects.add(&objects),
            None => self.during.push(During { operations, objects }),
        }
    }

    /// Adds what another trial counted.
    pub fn merge(&mut self, other: Self) {
        self.boot.add(&other.boot);
        for During { operations, objects } in other.during {
            self.add(operations, objects);
        }
    }
}

/// `coverage.json` of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Which kernel.
    pub side: Side,
    /// The trial's number.
    pub number: u32,
    /// What was counted.
    pub counters: TrialCounters,
}

/// How often something ran, and in which operations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ran {
    /// In all counted trials of its side and in their boots. gcc updates the counters atomically where it can
    /// (`-fprofile-update=prefer-atomic`).
    pub times: u64,
    /// Of these, in the boot.
    pub boot: u64,
    /// Of these, while an operation of this kind was under way; several may have been.
    pub during: BTreeMap<String, u64>,
}

//! A kernel that does not boot is an outcome of its own: no statistics over trials are needed to
//! tell it from one that does.

use hotplug_side::{Side, Sides};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::trial::TrialRecord;

/// The number of trials of a side that must have failed to boot. A guest that hung at boot was tried
/// again in each of them.
const ENOUGH: u32 = 2;

/// The boots of one side's trials, those from checkpoints included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boots {
    /// Trials whose guest accepted requests.
    good: u32,
    /// Trials whose guest never did, and that had done nothing to it.
    failed: u32,
}

impl Boots {
    /// Adds a trial that infrastructure did not spoil.
    pub(super) fn add(&mut self, record: &TrialRecord) {
        if record.ready.is_some() {
            self.good += 1;
        } else if record.operations.is_empty() {
            self.failed += 1;
        }
    }

    pub(super) fn merge(&mut self, later: Self) {
        self.good += later.good;
        self.failed += later.failed;
    }

    fn never(self) -> bool {
        self.good == 0 && self.failed >= ENOUGH
    }
}

/// A kernel that does not boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoBoot {
    /// The side; null if neither kernel boots.
    pub side: Option<Side>,
    /// The trials that failed to boot, on that side or on both.
    pub boots: u32,
    /// The last lines of the console of one of them.
    pub console: Vec<String>,
}

impl NoBoot {
    /// Whether a kernel does not boot in any trial.
    pub(super) fn of(boots: &Sides<Boots>) -> Option<Self> {
        let (before, after) = (boots.before, boots.after);
        let (side, boots) = match (before.never(), after.never()) {
            (true, true) => (None, before.failed + after.failed),
            (true, false) if after.good > 0 => (Some(Side::Before), before.failed),
            (false, true) if before.good > 0 => (Some(Side::After), after.failed),
            _ => return None,
        };
        Some(Self { side, boots, console: Vec::new() })
    }

    /// The side whose console shows it.
    pub fn shown_by(&self) -> Side {
        self.side.unwrap_or(Side::After)
    }
}

impl std::fmt::Display for NoBoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.side {
            Some(side) => write!(f, "the {side} kernel does not boot"),
            None => f.write_str("neither kernel boots"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_boots_of_one_side_decide_if_the_other_side_boots() {
        let told = |(good, failed): (u32, u32), (good_after, failed_after): (u32, u32)| {
            let boots = Sides {
                before: Boots { good, failed },
                after: Boots { good: good_after, failed: failed_after },
            };
            NoBoot::of(&boots).map(|told| told.to_string())
        };
        assert_eq!(told((1, 0), (0, 2)).as_deref(), Some("the after kernel does not boot"));
        assert_eq!(told((0, 3), (2, 0)).as_deref(), Some("the before kernel does not boot"));
        assert_eq!(told((0, 2), (0, 2)).as_deref(), Some("neither kernel boots"));
        for (before, after) in [((1, 0), (0, 1)), ((0, 0), (0, 2)), ((5, 0), (1, 4)), ((0, 2), (0, 1))] {
            assert_eq!(told(before, after), None, "{before:?} {after:?}");
        }
    }
}

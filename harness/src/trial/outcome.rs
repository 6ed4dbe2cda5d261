//! What can come of an operation and of a trial: closed sets, because a verdict is made of them.

use hotplug_kreport::Report;
use hotplug_side::Side;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mismatch, OperationRecord};
use crate::guest_clock::HostTime;
use crate::qemu::Ended;
use crate::rendezvous::Hold;
use crate::scenario::{Schedule, Seed};

/// What came of a trial. Of several that hold, the first in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrialOutcome {
    /// QEMU, the host or the harness failed. Says nothing about the kernel.
    Infrastructure,
    /// The kernel panicked.
    Panicked,
    /// The guest stopped answering, or an operation never ended.
    Hung,
    /// The kernel printed a report.
    Reported,
    /// Memory or CPUs do not add up.
    AccountingMismatch,
    /// Nothing was printed, but lockdep was off at the end, or records were lost: nothing can be said.
    Blind,
    /// Watched to the end, and nothing wrong.
    Clean,
}

impl std::fmt::Display for TrialOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Infrastructure => "infrastructure",
            Self::Panicked => "panicked",
            Self::Hung => "hung",
            Self::Reported => "reported",
            Self::AccountingMismatch => "accounting mismatch",
            Self::Blind => "blind",
            Self::Clean => "clean",
        })
    }
}

/// Whether lockdep was checking. None: not asked, or a kernel without lockdep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// When the lanes began.
    pub start: Option<bool>,
    /// When they had ended.
    pub end: Option<bool>,
}

/// Everything known about one trial; `trial.json` in its folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrialRecord {
    /// Which kernel.
    pub side: Side,
    /// Name of its folder below `trials/`.
    pub folder: String,
    /// Number within the side, from 0. Both sides' trials of a number share a seed.
    pub number: u32,
    /// What the schedule was drawn from.
    pub seed: Seed,
    /// The schedule itself.
    pub schedule: Schedule,
    /// What came of it.
    pub outcome: TrialOutcome,
    /// The outcome in words.
    pub why: String,
    /// Whether lockdep was checking.
    pub armed: Armed,
    /// Kernel records that never reached the host.
    pub lost_records: u64,
    /// When a worker took it up. Its QEMU, whose start is the clock's zero, may have been started ahead of need.
    pub taken: HostTime,
    /// When the guest was booted or restored, and its agent there to be asked; none when it never was.
    pub ready: Option<HostTime>,
    /// When its QEMU had ended.
    pub ended: HostTime,
    /// Every operation, in the order of their beginning.
    pub operations: Vec<OperationRecord>,
    /// Where memory or CPUs did not add up.
    pub mismatches: Vec<Mismatch>,
    /// Loops of each load.
    pub load_loops: Vec<u64>,
    /// Kernel reports, one for each signature.
    pub reports: Vec<Seen>,
    /// How QEMU ended, where it was not we who ended it.
    pub qemu: Option<Ended>,
    /// What was held, in the order of the holds' beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
}

impl TrialRecord {
    /// Watched from boot to the last question, every kernel record received: what it did not show did not happen.
    pub fn watched_to_the_end(&self) -> bool {
        let cut = [TrialOutcome::Infrastructure, TrialOutcome::Panicked, TrialOutcome::Hung];
        !cut.contains(&self.outcome) && self.lost_records == 0
    }

    /// It says nothing about the kernel and is worth another try: infrastructure failed, or the guest hung before it
    /// was ready.
    pub fn is_spoilt(&self) -> bool {
        self.outcome == TrialOutcome::Infrastructure
            || self.outcome == TrialOutcome::Hung && self.ready.is_none()
    }

    /// Lockdep was checking all the time.
    pub fn armed_to_the_end(&self) -> bool {
        self.armed.start == Some(true) && self.armed.end == Some(true)
    }
}

/// A kernel report and how often its signature came in one trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// The first of them.
    pub first: Report,
    /// When the first was printed, by the host's clock; none where that is not known.
    #[serde(default)]
    pub at: Option<HostTime>,
    /// How many.
    pub times: u64,
    /// What was in flight when the first was printed, such as `unplug dimm0, dimm1`.
    pub during: String,
}

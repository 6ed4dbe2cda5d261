//! The outcomes of trials and the record of a trial. The outcomes are a closed set, because a
//! verdict is made of them.

use hotplug_kreport::Report;
use hotplug_side::Side;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::standing::Unrestored;
use super::vmcore::Vmcore;
use super::{Mismatch, OperationRecord, StaleBreakpoint, TrialPlan};
use crate::event_log::OperationOutcome;
use crate::guest_clock::HostTime;
use crate::rendezvous::Hold;
use crate::scenario::{Expect, Schedule, Seed};
use crate::vmm::Ended;

/// The outcome of a trial. If several apply, the first in this order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrialOutcome {
    /// QEMU, the host or the harness failed. The trial says nothing about the kernel.
    Infrastructure,
    /// The kernel panicked.
    Panicked,
    /// The guest stopped answering, or an operation never ended.
    Hung,
    /// The kernel printed a report.
    Reported,
    /// The accounting of memory or CPUs is wrong.
    AccountingMismatch,
    /// The kernel printed no report, but lockdep was off at the end or records were lost, so the
    /// trial is no evidence.
    Blind,
    /// The trial was watched to its end, and nothing was wrong.
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

/// Whether lockdep was checking. `None` if it was not queried, or for a kernel without lockdep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// When the lanes began.
    pub start: Option<bool>,
    /// When they had ended.
    pub end: Option<bool>,
}

/// Everything that is known about one trial. It is `trial.json` in the trial's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrialRecord {
    /// The kernel.
    pub side: Side,
    /// The name of its folder below `trials/`.
    pub folder: String,
    /// The name of its scenario. Records of older versions lack it.
    #[serde(default)]
    pub scenario: String,
    /// The number within the side and the scenario, from 0. The trials of both sides with one
    /// number share a seed.
    pub number: u32,
    /// The seed of the schedule.
    pub seed: Seed,
    /// The place of the trial among those that its guest took, from 1.
    #[serde(default = "first_round")]
    pub round: u32,
    /// The folders of the trials that its guest took before, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
    /// Why its guest could not take a further trial, although nothing was wrong with this one: the
    /// guest did not return to its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_over: Option<String>,
    /// A breakpoint that the kernel died of, if it may be the emulator's fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_breakpoint: Option<StaleBreakpoint>,
    /// The schedule.
    pub schedule: Schedule,
    /// The outcome.
    pub outcome: TrialOutcome,
    /// The reason for the outcome, as text.
    pub why: String,
    /// Whether lockdep was checking.
    pub armed: Armed,
    /// Kernel records that never reached the host.
    pub lost_records: u64,
    /// When a worker began it. The clock's zero is the start of its QEMU, which may have been
    /// started ahead of need.
    pub taken: HostTime,
    /// When the guest was booted or restored and its agent accepted requests. `None` if it never
    /// did.
    pub ready: Option<HostTime>,
    /// When its QEMU had exited.
    pub ended: HostTime,
    /// The operations, in the order of their beginning.
    pub operations: Vec<OperationRecord>,
    /// The counters of memory and CPUs that were wrong.
    pub mismatches: Vec<Mismatch>,
    /// The values of the kernel's state that it left changed. Null if they were not looked at, because
    /// the guest's memory and CPUs were not as at the beginning, or because the guest did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrestored: Option<Vec<Unrestored>>,
    /// The number of loops of each load.
    pub load_loops: Vec<u64>,
    /// The loads whose program did not always succeed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_failures: Vec<LoadFailure>,
    /// Kernel reports, one for each signature.
    pub reports: Vec<Seen>,
    /// How QEMU ended, if the harness did not end it.
    pub qemu: Option<Ended>,
    /// The memory of its guest, if the run keeps vmcores and the kernel ended the trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmcore: Option<Vmcore>,
    /// The holds, in the order of their beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
}

impl TrialRecord {
    /// Whether the guest was watched from its boot to the last query, with every kernel record
    /// received. What such a trial did not show did not happen.
    pub fn watched_to_the_end(&self) -> bool {
        !self.is_cut() && self.lost_records == 0
    }

    /// Whether it ended early: what would have followed is not known.
    pub(super) fn is_cut(&self) -> bool {
        let cut = [TrialOutcome::Infrastructure, TrialOutcome::Panicked, TrialOutcome::Hung];
        cut.contains(&self.outcome) || self.is_cut_by_emulator()
    }

    /// Whether a fault of the emulator ended it. What followed says nothing about the kernel.
    pub fn is_cut_by_emulator(&self) -> bool {
        matches!(self.stale_breakpoint, Some(StaleBreakpoint::Emulator { .. }))
    }

    /// Whether the trial says nothing about the kernel and is worth another try: the infrastructure
    /// failed, or the guest hung before it was ready.
    pub fn is_spoilt(&self) -> bool {
        self.outcome == TrialOutcome::Infrastructure
            || self.outcome == TrialOutcome::Hung && self.ready.is_none()
    }

    /// The record of a trial of the history of `plan`, in place of the trial's own, which its guest
    /// did not take.
    pub(super) fn instead_of(self, plan: &TrialPlan) -> Self {
        let why = self.left_over.clone();
        let outcome = match self.outcome {
            TrialOutcome::Clean => TrialOutcome::Infrastructure,
            shown => shown,
        };
        let why = why.map_or(self.why, |why| format!("after {}: {why}", self.folder));
        Self { number: plan.number, outcome, why, ..self }
    }

    /// Whether nothing at all was wrong, so that its guest can take a further trial: it was watched
    /// to its end, every operation ended as expected, and lockdep is as it was.
    pub(super) fn is_spotless(&self) -> bool {
        let as_expected = |operation: &OperationRecord| match operation.expect {
            Expect::Done => operation.outcome == OperationOutcome::Done,
            Expect::Refused => operation.outcome.is_refusal(),
            Expect::Any => operation.outcome == OperationOutcome::Done || operation.outcome.is_refusal(),
        };
        self.outcome == TrialOutcome::Clean
            && self.armed.start == self.armed.end
            && self.load_failures.is_empty()
            && self.operations.iter().all(as_expected)
    }

    /// Whether lockdep was checking all the time.
    pub fn armed_to_the_end(&self) -> bool {
        self.armed.start == Some(true) && self.armed.end == Some(true)
    }
}

/// Records of older versions are of guests that took one trial.
fn first_round() -> u32 {
    1
}

/// A load whose program did not always succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadFailure {
    /// The name of the program.
    pub program: String,
    /// The number of runs in which it did not succeed.
    pub number: u64,
    /// How the last of them ended, and its last line.
    pub last: String,
    /// Whether the scenario says that this is a finding.
    pub must_succeed: bool,
}

/// A kernel report, and how often its signature occurred in one trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// The first report with the signature.
    pub first: Report,
    /// When the first report was printed, by the host's clock. `None` if that is not known.
    #[serde(default)]
    pub at: Option<HostTime>,
    /// The number of reports with the signature.
    pub times: u64,
    /// The operations in flight when the first report was printed, such as `unplug dimm0, dimm1`.
    pub during: String,
}

//! The trials of one scenario: how they ended, and whether their silence is evidence.

use std::collections::BTreeSet;

use hotplug_side::{Side, Sides};
use hotplug_statistics::detectable_rate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::boot::Boots;
use crate::event_log::OperationOutcome;
use crate::scenario::{Expect, Operation};
use crate::trial::{TrialOutcome, TrialRecord};

/// How the trials of one side ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tally {
    /// Trials that are evidence about the kernel.
    pub trials: u32,
    /// The guests that took them. Results of older versions lack it: each trial had its own.
    #[serde(default)]
    pub guests: u32,
    /// Guests that could take no further trial because something was left of the last one, although
    /// nothing was wrong with it.
    #[serde(default)]
    pub not_at_rest: u32,
    /// Of these, trials with lockdep armed from start to end.
    pub armed: u32,
    /// Of these, trials of a kernel that has no lockdep, whose records were read to the end. They
    /// say nothing about what lockdep would report.
    #[serde(default)]
    pub without_lockdep: u32,
    /// Of these, trials after which the values of the kernel's state were compared with those before.
    /// Results of older versions lack it.
    #[serde(default)]
    pub state_compared: u32,
    /// Of these, clean trials.
    pub clean: u32,
    /// Trials that infrastructure spoilt, after all retries. They are not among `trials`.
    pub infrastructure: u32,
    /// Attempts that a fault of the emulator ended: it ran a breakpoint that the kernel had removed.
    /// They are not among `trials`, unless the kernel had reported something before. Results of
    /// older versions lack it.
    #[serde(default)]
    pub emulator_faults: u32,
    /// Operations that ended as done.
    pub operations_done: u32,
    /// Operations that the guest or QEMU refused.
    pub operations_refused: u32,
    /// The rate at which a report would have occurred at least once with probability 0.95, given
    /// the armed trials and those of kernels without lockdep.
    pub detectable_rate: f64,
}

impl Tally {
    /// Adds the trials of another tally.
    pub(super) fn merge(&mut self, other: Self) {
        self.trials += other.trials;
        self.guests += other.guests;
        self.not_at_rest += other.not_at_rest;
        self.armed += other.armed;
        self.without_lockdep += other.without_lockdep;
        self.state_compared += other.state_compared;
        self.clean += other.clean;
        self.infrastructure += other.infrastructure;
        self.emulator_faults += other.emulator_faults;
        self.operations_done += other.operations_done;
        self.operations_refused += other.operations_refused;
        if self.trials > 0 {
            self.detectable_rate = detectable_rate(self.evidence());
        }
    }

    /// Trials whose silence is evidence, as far as their kernel can report at all.
    pub fn evidence(&self) -> u32 {
        self.armed + self.without_lockdep
    }

    /// Whether some guests took several of its trials.
    pub fn shares_guests(&self) -> bool {
        (1..self.trials).contains(&self.guests)
    }

    /// Whether its kernel has no lockdep.
    pub fn lacks_lockdep(&self) -> bool {
        self.without_lockdep > 0
    }

    /// All trials, including those that infrastructure spoilt.
    pub fn all(&self) -> u32 {
        self.trials + self.infrastructure
    }
}

/// The trials of one scenario, and what their silence means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScenarioTally {
    /// The name of the scenario.
    pub scenario: String,
    /// How its trials ended.
    pub trials: Sides<Tally>,
    /// Why the silence of its trials is no evidence: the scenario did not run, its operations never
    /// succeeded, or lockdep was off. Null if it is evidence.
    pub untested: Option<String>,
}

/// What was observed in the trials of one scenario.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stratum {
    pub(super) tally: Sides<Tally>,
    /// The error of the first trial that infrastructure spoilt.
    spoilt: Sides<Option<String>>,
    /// Trials that hung.
    #[serde(default)]
    hung: Sides<u32>,
    /// How its trials booted.
    #[serde(default)]
    pub(super) boots: Sides<Boots>,
    /// Trials of kernels that have lockdep.
    with_lockdep: Sides<u32>,
    /// The kinds of operation that were planned, such as `unplug dimm`, and those that were done at
    /// least once.
    planned: BTreeSet<String>,
    done: Sides<BTreeSet<String>>,
    /// Why the scenario does not run on these kernels or this machine.
    pub(super) left_out: Option<String>,
}

impl Stratum {
    /// Adds a trial that does not count, because it is tried again.
    pub(super) fn add_repeated(&mut self, record: &TrialRecord) {
        self.tally.of_mut(record.side).emulator_faults += u32::from(record.is_cut_by_emulator());
    }

    /// Adds one trial. Returns whether it is evidence about the kernel.
    pub(super) fn add(&mut self, record: &TrialRecord) -> bool {
        self.add_repeated(record);
        let tally = self.tally.of_mut(record.side);
        let batches = record.schedule.lanes.iter().flat_map(|lane| &lane.batches);
        let wanted = batches.filter(|batch| batch.expect == Expect::Done);
        self.planned.extend(wanted.flat_map(|batch| &batch.operations).map(Operation::kind));
        if record.outcome == TrialOutcome::Infrastructure {
            tally.infrastructure += 1;
            self.spoilt.of_mut(record.side).get_or_insert_with(|| record.why.clone());
            return false;
        }
        self.boots.of_mut(record.side).add(record);
        tally.trials += 1;
        tally.guests += u32::from(record.round == 1);
        tally.not_at_rest += u32::from(record.left_over.is_some());
        tally.armed += u32::from(record.armed_to_the_end() && record.watched_to_the_end());
        tally.state_compared += u32::from(record.unrestored.is_some());
        tally.clean += u32::from(record.outcome == TrialOutcome::Clean);
        *self.hung.of_mut(record.side) += u32::from(record.outcome == TrialOutcome::Hung);
        for operation in &record.operations {
            match &operation.outcome {
                OperationOutcome::Done => {
                    tally.operations_done += 1;
                    self.done.of_mut(record.side).insert(operation.operation.kind());
                }
                outcome if outcome.is_refusal() => tally.operations_refused += 1,
                _ => {}
            }
        }
        let has_lockdep = record.armed.start.is_some();
        // A trial that ended before lockdep was asked for is evidence of neither.
        tally.without_lockdep +=
            u32::from(record.ready.is_some() && !has_lockdep && record.watched_to_the_end());
        tally.detectable_rate = detectable_rate(tally.evidence());
        *self.with_lockdep.of_mut(record.side) += u32::from(has_lockdep);
        true
    }

    /// Adds later trials of the same scenario.
    pub(super) fn merge(&mut self, later: Self) {
        for side in Side::BOTH {
            self.tally.of_mut(side).merge(*later.tally.of(side));
            self.boots.of_mut(side).merge(*later.boots.of(side));
            *self.with_lockdep.of_mut(side) += later.with_lockdep.of(side);
            *self.hung.of_mut(side) += later.hung.of(side);
        }
        let Sides { before, after } = later.spoilt;
        self.spoilt.before = self.spoilt.before.take().or(before);
        self.spoilt.after = self.spoilt.after.take().or(after);
        self.planned.extend(later.planned);
        self.done.before.extend(later.done.before);
        self.done.after.extend(later.done.after);
        self.left_out = self.left_out.take().or(later.left_out);
    }

    /// Whether every trial hung, on both sides.
    pub(super) fn always_hangs(&self) -> bool {
        Side::BOTH.into_iter().all(|side| {
            let (trials, hung) = (self.tally.of(side).trials, *self.hung.of(side));
            trials > 0 && hung == trials
        })
    }

    /// Why too few trials of a side are evidence about the kernel.
    pub(super) fn failed(&self, side: Side) -> Option<String> {
        let t = self.tally.of(side);
        let why = self.spoilt.of(side).as_deref().unwrap_or_default();
        (t.trials == 0 || t.infrastructure > t.trials).then(|| {
            let (failed, all) = (t.infrastructure, t.all());
            format!("{failed} of {all} {side} trials failed for reasons outside the kernel: {why}")
        })
    }

    /// An operation that succeeded on the other side, and never on this one.
    pub(super) fn only_elsewhere(&self, side: Side) -> Option<String> {
        let never = self.planned.difference(self.done.of(side));
        let elsewhere = self.done.of(side.other());
        never.into_iter().find(|kind| elsewhere.contains(*kind)).map(|kind| never_succeeded(kind, side))
    }

    /// Why the silence of these sides is no evidence.
    pub(super) fn untested(&self, sides: &[Side]) -> Option<String> {
        if let Some(why) = &self.left_out {
            return Some(why.clone());
        }
        if let Some(side) = sides.iter().find(|side| self.tally.of(**side).all() == 0) {
            return Some(format!("no {side} trial has ended"));
        }
        if let Some(failed) = sides.iter().find_map(|side| self.failed(*side)) {
            return Some(failed);
        }
        for &side in sides {
            // If a kind of operation never succeeded on one side, the absence of its reports means
            // nothing.
            if let Some(never) = self.planned.difference(self.done.of(side)).next() {
                return Some(never_succeeded(never, side));
            }
        }
        for &side in sides {
            let t = self.tally.of(side);
            if t.armed * 2 < t.trials && *self.with_lockdep.of(side) > 0 {
                let (armed, trials) = (t.armed, t.trials);
                return Some(format!(
                    "blind: lockdep stayed armed in only {armed} of {trials} {side} trials"
                ));
            }
        }
        None
    }
}

fn never_succeeded(kind: &str, side: Side) -> String {
    format!("not tested: no {kind} ever succeeded in the {side} trials")
}

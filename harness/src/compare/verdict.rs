//! The verdict: what follows from the findings, and how sure that is.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::exact::detectable_rate;
use super::finding::{Class, Finding, findings};
use crate::kreport::KnownIssues;
use crate::side::Side;
use crate::trial::{Outcome, TrialOutcome, TrialRecord};

/// The four verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Something is new, or likelier than before, beyond chance.
    Regressed,
    /// Something is gone or rarer, beyond chance, and nothing is new.
    Fixed,
    /// Nothing differs, and both sides were really watched.
    Unchanged,
    /// Nobody can tell; the reason says why.
    Inconclusive,
}

impl Verdict {
    /// The exit status of `hotplug compare`.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Unchanged | Self::Fixed => 0,
            Self::Regressed => 1,
            Self::Inconclusive => 3,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Regressed => "REGRESSED",
            Self::Fixed => "FIXED",
            Self::Unchanged => "UNCHANGED",
            Self::Inconclusive => "INCONCLUSIVE",
        })
    }
}

/// How the trials of one side ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Trials that say something about the kernel.
    pub trials: u32,
    /// Of these, with lockdep armed from start to end.
    pub armed: u32,
    /// Of these, clean.
    pub clean: u32,
    /// Trials that infrastructure spoilt, after all retries. Not among `trials`.
    pub infrastructure: u32,
    /// Operations that ended as done.
    pub operations_done: u32,
    /// Operations that the guest refused.
    pub operations_refused: u32,
    /// The rate at which a report would have been seen at least once with probability 0.95, given the armed trials.
    pub detectable_rate: f64,
}

/// One value a side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sides<T> {
    /// Without the patch.
    pub before: T,
    /// With it.
    pub after: T,
}

/// A verdict with its arithmetic.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Judgement {
    /// None where infrastructure failed so often that there is nothing to judge.
    pub verdict: Option<Verdict>,
    /// Why, in one sentence.
    pub reason: String,
    /// Everything that was seen.
    pub findings: Vec<Finding>,
    /// How the trials ended.
    pub tally: Sides<Tally>,
    /// What is to be said of the file of known issues: entries that have expired or that matched nothing.
    pub remarks: Vec<String>,
}

impl Judgement {
    /// The exit status of `hotplug compare`.
    pub fn exit_status(&self) -> u8 {
        self.verdict.map_or(4, Verdict::exit_status)
    }
}

/// Judges the records of a comparison. What is known already is listed and has no say.
pub fn judge(records: &[TrialRecord], known: &mut KnownIssues) -> Judgement {
    let findings = findings(records, known);
    let tally = Sides { before: tally(records, Side::Before), after: tally(records, Side::After) };
    let (verdict, reason) = decide(records, &findings, &tally);
    Judgement { verdict, reason, findings, tally, remarks: known.remarks() }
}

fn decide(records: &[TrialRecord], findings: &[Finding], tally: &Sides<Tally>) -> (Option<Verdict>, String) {
    let sides = [(Side::Before, &tally.before), (Side::After, &tally.after)];
    for (side, t) in sides {
        if t.trials == 0 || t.infrastructure > t.trials {
            let why = records
                .iter()
                .find(|r| r.side == side && r.outcome == TrialOutcome::Infrastructure)
                .map_or("no trial ran".into(), |r| r.why.clone());
            return (
                None,
                format!(
                    "{} of {} {side} trials failed for reasons outside the kernel: {why}",
                    t.infrastructure,
                    t.infrastructure + t.trials
                ),
            );
        }
    }
    let unknown = || findings.iter().filter(|f| f.known.is_none());
    let count = |class: Class| unknown().filter(|f| f.class == class).count();
    let counts =
        format!("{} new, {} fixed, {} common", count(Class::New), count(Class::Fixed), count(Class::Common));
    if findings.iter().any(Finding::is_worse) {
        return (Some(Verdict::Regressed), counts);
    }
    if let Some(f) = unknown().find(|f| f.class == Class::New) {
        let reason =
            format!("seen only after, but {} against {} may be chance: run more trials", f.after, f.before);
        return (Some(Verdict::Inconclusive), reason);
    }
    if let Some(never) = never_done(records) {
        return (Some(Verdict::Inconclusive), format!("not tested: {never}"));
    }
    for (side, t) in sides {
        let without_lockdep = records.iter().filter(|r| r.side == side).all(|r| r.armed.start.is_none());
        if t.armed * 2 < t.trials && !without_lockdep {
            let reason =
                format!("blind: lockdep stayed armed in only {} of {} {side} trials", t.armed, t.trials);
            return (Some(Verdict::Inconclusive), reason);
        }
    }
    if findings.iter().any(Finding::is_better) {
        return (Some(Verdict::Fixed), counts);
    }
    (Some(Verdict::Unchanged), counts)
}

/// A kind of operation that one side never got done: silence about it would mean nothing.
fn never_done(records: &[TrialRecord]) -> Option<String> {
    let wanted: BTreeSet<String> = records
        .iter()
        .flat_map(|r| r.schedule.lanes.iter().flat_map(|l| &l.batches))
        .flat_map(|b| b.devices.iter().map(|d| format!("{} {}", b.verb, d.group())))
        .collect();
    for side in [Side::Before, Side::After] {
        let done: BTreeSet<String> = records
            .iter()
            .filter(|r| r.side == side)
            .flat_map(|r| &r.operations)
            .filter(|o| o.outcome == Outcome::Done)
            .map(|o| format!("{} {}", o.verb, o.device.group()))
            .collect();
        if let Some(never) = wanted.difference(&done).next() {
            return Some(format!("no {never} ever succeeded in the {side} trials"));
        }
    }
    None
}

fn tally(records: &[TrialRecord], side: Side) -> Tally {
    let mut tally = Tally::default();
    for record in records.iter().filter(|r| r.side == side) {
        if record.outcome == TrialOutcome::Infrastructure {
            tally.infrastructure += 1;
            continue;
        }
        tally.trials += 1;
        tally.armed += u32::from(record.armed_to_the_end() && record.watched_to_the_end());
        tally.clean += u32::from(record.outcome == TrialOutcome::Clean);
        for operation in &record.operations {
            tally.operations_done += u32::from(operation.outcome == Outcome::Done);
            tally.operations_refused +=
                u32::from(matches!(operation.outcome, Outcome::RefusedByGuest { .. }));
        }
    }
    tally.detectable_rate = detectable_rate(tally.armed);
    tally
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;

//! The verdict: its derivation from the findings, and its certainty.

use std::collections::BTreeSet;

use hotplug_kreport::{KnownIssues, Report};
use hotplug_side::{Side, Sides};
use hotplug_statistics::{detectable_rate, fisher_two_sided};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::{ALPHA, Class, Count, Evidence, Finding};
use crate::event_log::OperationOutcome;
use crate::rendezvous::Race;
use crate::scenario::{Expect, Operation};
use crate::trial::{TrialOutcome, TrialRecord};

/// The four verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Something is new, or more frequent than before, beyond chance.
    Regressed,
    /// Something is gone or less frequent, beyond chance, and nothing is new.
    Fixed,
    /// Nothing differs, and both sides were observed well enough.
    Unchanged,
    /// The trials do not decide; the reason is given.
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

/// The exit status of several comparisons together. A regression takes precedence, then comparisons
/// that could not be judged.
pub fn worst_exit_status(statuses: impl IntoIterator<Item = u8>) -> u8 {
    let badness = |status: &u8| [0, 3, 4, 1].iter().position(|known| known == status);
    statuses.into_iter().max_by_key(badness).unwrap_or(0)
}

/// How the trials of one side ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tally {
    /// Trials that are evidence about the kernel.
    pub trials: u32,
    /// Of these, trials with lockdep armed from start to end.
    pub armed: u32,
    /// Of these, clean trials.
    pub clean: u32,
    /// Trials that infrastructure spoilt, after all retries. They are not among `trials`.
    pub infrastructure: u32,
    /// Operations that ended as done.
    pub operations_done: u32,
    /// Operations that the guest or QEMU refused.
    pub operations_refused: u32,
    /// The rate at which a report would have occurred at least once with probability 0.95, given
    /// the armed trials.
    pub detectable_rate: f64,
}

impl Tally {
    /// Adds the trials of another tally.
    fn merge(&mut self, other: Self) {
        self.trials += other.trials;
        self.armed += other.armed;
        self.clean += other.clean;
        self.infrastructure += other.infrastructure;
        self.operations_done += other.operations_done;
        self.operations_refused += other.operations_refused;
        if self.trials > 0 {
            self.detectable_rate = detectable_rate(self.armed);
        }
    }

    /// All trials, including those that infrastructure spoilt.
    pub fn all(&self) -> u32 {
        self.trials + self.infrastructure
    }
}

/// A verdict with its statistics.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict; `None` if too many trials failed because of infrastructure.
    pub verdict: Option<Verdict>,
    /// The reason, in one sentence.
    pub reason: String,
    /// All findings.
    pub findings: Vec<Finding>,
    /// How the trials ended.
    pub tally: Sides<Tally>,
    /// Remarks on the file of known issues: entries that have expired, or that matched nothing.
    pub remarks: Vec<String>,
    /// The results of the holds; `None` if the scenario has none.
    pub race: Option<Race>,
}

impl Judgement {
    /// The exit status of `hotplug compare`.
    pub fn exit_status(&self) -> u8 {
        self.verdict.map_or(4, Verdict::exit_status)
    }
}

/// Judges trials as they end. Its size grows with the number of findings, not with the number of
/// trials.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Judge {
    evidence: Evidence,
    tally: Sides<Tally>,
    /// The error of the first trial that infrastructure spoilt.
    spoilt: Sides<Option<String>>,
    /// Trials of kernels that have lockdep.
    with_lockdep: Sides<u32>,
    /// The kinds of operation that were planned, such as `unplug dimm`, and those that were done at
    /// least once.
    planned: BTreeSet<String>,
    done: Sides<BTreeSet<String>>,
    race: Race,
}

impl Judge {
    /// Starts without trials. Findings that `known` lists do not affect the verdict.
    pub fn new(known: KnownIssues) -> Self {
        Self { evidence: Evidence::new(known), ..Self::default() }
    }

    /// Adds one trial. `seconds` is the time from the start of the first trial to the end of this
    /// one.
    pub fn add(&mut self, record: &TrialRecord, seconds: f64) {
        let tally = self.tally.of_mut(record.side);
        let batches = record.schedule.lanes.iter().flat_map(|lane| &lane.batches);
        let wanted = batches.filter(|batch| batch.expect == Expect::Done);
        self.planned.extend(wanted.flat_map(|batch| &batch.operations).map(Operation::kind));
        if record.outcome == TrialOutcome::Infrastructure {
            tally.infrastructure += 1;
            self.spoilt.of_mut(record.side).get_or_insert_with(|| record.why.clone());
            return;
        }
        tally.trials += 1;
        tally.armed += u32::from(record.armed_to_the_end() && record.watched_to_the_end());
        tally.clean += u32::from(record.outcome == TrialOutcome::Clean);
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
        tally.detectable_rate = detectable_rate(tally.armed);
        self.race.add(record.side, &record.folder, &record.holds);
        *self.with_lockdep.of_mut(record.side) += u32::from(record.armed.start.is_some());
        self.evidence.add(record, seconds);
    }

    /// Adds what another judge has taken in: later trials of the same kernels and scenario. The
    /// judgement is then the same as if one judge had taken in all of them.
    pub fn merge(&mut self, later: Self) {
        for side in Side::BOTH {
            self.tally.of_mut(side).merge(*later.tally.of(side));
            *self.with_lockdep.of_mut(side) += later.with_lockdep.of(side);
        }
        let Sides { before, after } = later.spoilt;
        self.spoilt.before = self.spoilt.before.take().or(before);
        self.spoilt.after = self.spoilt.after.take().or(after);
        self.planned.extend(later.planned);
        self.done.before.extend(later.done.before);
        self.done.after.extend(later.done.after);
        self.race.merge(later.race);
        self.evidence.merge(later.evidence);
    }

    /// The first report of each bug that `side` showed first. The vmlinux of that side's kernel can
    /// add lines to them.
    pub fn examples_mut(&mut self, side: Side) -> impl Iterator<Item = &mut Report> {
        self.evidence.examples_mut(side)
    }

    /// The verdict over the trials so far.
    pub fn judgement(&self) -> Judgement {
        let findings = self.evidence.findings();
        let (verdict, reason) = self.decide(&findings);
        let race = Some(&self.race).filter(|race| !race.is_empty()).cloned();
        Judgement { verdict, reason, findings, tally: self.tally, remarks: self.evidence.remarks(), race }
    }

    /// The number of trials of the side that has fewer.
    pub fn trials_seen(&self) -> u32 {
        self.tally.before.all().min(self.tally.after.all())
    }

    /// How the trials so far ended.
    pub fn tally(&self) -> Sides<Tally> {
        self.tally
    }

    /// Whether more trials are futile: since `then`, infrastructure has spoilt three trials of a
    /// side, each after all retries, and left no valid one.
    pub fn is_hopeless(&self, then: &Sides<Tally>) -> bool {
        const MANY: u32 = 3;
        Side::BOTH.into_iter().any(|side| {
            let (then, now) = (then.of(side), self.tally.of(side));
            now.trials == then.trials && now.infrastructure >= then.infrastructure + MANY
        })
    }

    /// Whether there is a finding that is not a known issue.
    pub fn has_findings(&self) -> bool {
        self.evidence.findings().iter().any(|f| f.known.is_none())
    }

    /// The number of trials of both sides with a finding that matches `called`
    /// ([`Finding::is_called`]), and of those that could have shown it. If several findings match,
    /// the most frequent one counts.
    pub fn seen(&self, called: &str) -> Count {
        let all = self.evidence.findings();
        let sum = |f: &Finding| Count {
            seen: f.before.seen + f.after.seen,
            trials: f.before.trials + f.after.trials,
        };
        let most = all.iter().filter(|f| f.is_called(called)).map(sum).max_by_key(|count| count.seen);
        most.unwrap_or(Count { seen: 0, trials: self.tally.before.trials + self.tally.after.trials })
    }

    /// Whether `left` further trials a side can no longer change the verdict. Only a regression is
    /// settled early, because a report that has not been seen yet can change any other verdict,
    /// even in the last trial.
    pub fn is_settled(&self, left: u32) -> bool {
        let findings = self.evidence.findings();
        // Each remaining trial may add one more finding for Holm's correction to divide by.
        let most = f64::from(left * 2)
            + f64::from(
                u32::try_from(findings.iter().filter(|f| f.known.is_none()).count()).unwrap_or(u32::MAX),
            );
        findings.iter().filter(|f| f.is_worse()).any(|f| {
            let worst_before = Count { seen: f.before.seen + left, trials: f.before.trials + left };
            let worst_after = Count { seen: f.after.seen, trials: f.after.trials + left };
            let p = fisher_two_sided(
                worst_before.seen,
                worst_before.trials,
                worst_after.seen,
                worst_after.trials,
            );
            worst_after.rate() > worst_before.rate() && p <= ALPHA / most
        })
    }

    fn decide(&self, findings: &[Finding]) -> (Option<Verdict>, String) {
        for side in Side::BOTH {
            let t = self.tally.of(side);
            if t.all() == 0 {
                // The run ended early, for example because of `--until-report`.
                return (Some(Verdict::Inconclusive), format!("no {side} trial has ended"));
            }
            if t.trials == 0 || t.infrastructure > t.trials {
                let why = self.spoilt.of(side).as_deref().unwrap_or_default();
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
        let counts = format!(
            "{} new, {} fixed, {} common",
            count(Class::New),
            count(Class::Fixed),
            count(Class::Common)
        );
        if findings.iter().any(Finding::is_worse) {
            return (Some(Verdict::Regressed), counts);
        }
        if let Some(f) = unknown().find(|f| f.class == Class::New) {
            let reason = format!(
                "seen only after, but {} against {} may be chance: run more trials",
                f.after, f.before
            );
            return (Some(Verdict::Inconclusive), reason);
        }
        let is_better = findings.iter().any(Finding::is_better);
        // The report that is gone may be what disarmed lockdep or stopped operations before. The
        // after side has no new report that this could have hidden.
        let watched: &[Side] = if is_better { &[Side::After] } else { &Side::BOTH };
        for &side in watched {
            // If a kind of operation never succeeded on one side, the absence of its reports means
            // nothing.
            if let Some(never) = self.planned.difference(self.done.of(side)).next() {
                let reason = format!("not tested: no {never} ever succeeded in the {side} trials");
                return (Some(Verdict::Inconclusive), reason);
            }
        }
        for &side in watched {
            let t = self.tally.of(side);
            if t.armed * 2 < t.trials && *self.with_lockdep.of(side) > 0 {
                let reason =
                    format!("blind: lockdep stayed armed in only {} of {} {side} trials", t.armed, t.trials);
                return (Some(Verdict::Inconclusive), reason);
            }
        }
        if is_better {
            return (Some(Verdict::Fixed), counts);
        }
        (Some(Verdict::Unchanged), counts)
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;

//! What a recorded trial showed, and how often its replays showed it too.

use hotplug_side::Side;
use hotplug_statistics::interval;
use serde::{Deserialize, Serialize};

use super::finding::{Count, Evidence, Finding};
use crate::trial::{TrialOutcome, TrialRecord};

/// One finding of a replayed trial, or one that only its replays showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recurrence {
    /// The recorded trial's folder.
    pub trial: String,
    /// What makes two of them the same: a short hash.
    pub signature: String,
    /// The signature's readable key.
    pub key: String,
    /// The kernel checker's kind, or the harness's own.
    pub kind: String,
    /// One line.
    pub title: String,
    /// Whether the recorded trial showed it.
    pub recorded: bool,
    /// Replays that showed it, of those that could have.
    pub again: Count,
    /// The exact 95 % confidence interval of its rate (Clopper and Pearson).
    pub interval: (f64, f64),
    /// How often it came in the trial that showed it most.
    pub times: u64,
}

/// How often it comes is asked, not when.
const NO_TIME: f64 = 0.0;

/// The replays of one trial, taken in as they come.
#[derive(Debug)]
pub struct Replays {
    trial: String,
    /// The recorded trial counts as before, and its replays as after.
    evidence: Evidence,
}

impl Replays {
    /// Of this recorded trial; none where it showed nothing.
    pub fn of(recorded: &TrialRecord) -> Option<Self> {
        let mut evidence = Evidence::default();
        evidence.add(&TrialRecord { side: Side::Before, ..recorded.clone() }, NO_TIME);
        let silent = evidence.findings().is_empty();
        (!silent).then(|| Self { trial: recorded.folder.clone(), evidence })
    }

    /// Takes in a replay. One that infrastructure spoilt says nothing.
    pub fn add(&mut self, replay: &TrialRecord) {
        if replay.outcome != TrialOutcome::Infrastructure {
            self.evidence.add(&TrialRecord { side: Side::After, ..replay.clone() }, NO_TIME);
        }
    }

    /// All findings: those of the recorded trial first, the more frequent first.
    pub fn recurrences(&self) -> Vec<Recurrence> {
        let mut all: Vec<Recurrence> =
            self.evidence.findings().into_iter().map(|finding| self.recurrence(finding)).collect();
        all.sort_by(|a, b| {
            (b.recorded, b.again.rate())
                .partial_cmp(&(a.recorded, a.again.rate()))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        all
    }

    fn recurrence(&self, finding: Finding) -> Recurrence {
        Recurrence {
            trial: self.trial.clone(),
            signature: finding.signature,
            key: finding.key,
            kind: finding.kind,
            title: finding.title,
            recorded: finding.before.seen > 0,
            again: finding.after,
            interval: interval(finding.after.seen, finding.after.trials),
            times: finding.times,
        }
    }
}

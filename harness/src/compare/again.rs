//! The findings of a recorded trial, and how often its replays showed them again.

use hotplug_side::Side;
use hotplug_statistics::interval;
use serde::{Deserialize, Serialize};

use super::evidence::Evidence;
use super::finding::{Count, Finding};
use crate::trial::{TrialOutcome, TrialRecord};

/// One finding of a replayed trial, or one that only its replays showed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recurrence {
    /// The recorded trial's folder.
    pub trial: String,
    /// Identifies the finding across trials: a short hash.
    pub signature: String,
    /// The signature's readable key.
    pub key: String,
    /// The kernel checker's kind, or the kind of a finding of the harness itself.
    pub kind: String,
    /// A summary of one line.
    pub title: String,
    /// Whether the recorded trial showed it.
    pub recorded: bool,
    /// The number of trials that the guest of each replay took before, as that of the recorded one
    /// did. 0 if the replays ran alone.
    #[serde(default)]
    pub earlier: u32,
    /// The number of replays that showed it, of those that could have.
    pub again: Count,
    /// The exact 95 % confidence interval of its rate in the replays (Clopper and Pearson).
    pub interval: (f64, f64),
    /// The most occurrences in one trial.
    pub times: u64,
}

/// A record without its scenario, because records of older versions lack it.
fn bare(record: &TrialRecord) -> TrialRecord {
    TrialRecord { scenario: String::new(), round: 1, ..record.clone() }
}

/// A replay is asked how often a finding occurs, not when.
const NO_TIME: f64 = 0.0;

/// The replays of one trial, added as they end.
#[derive(Debug)]
pub struct Replays {
    trial: String,
    /// The recorded trial counts as the before side, and its replays as the after side.
    evidence: Evidence,
}

impl Replays {
    /// Starts with the recorded trial; `None` if it showed no finding.
    pub fn of(recorded: &TrialRecord) -> Option<Self> {
        let mut evidence = Evidence::default();
        evidence.add(&TrialRecord { side: Side::Before, ..bare(recorded) }, NO_TIME);
        let silent = evidence.findings().is_empty();
        (!silent).then(|| Self { trial: recorded.folder.clone(), evidence })
    }

    /// Adds a replay. A replay that infrastructure spoilt is no evidence and is ignored.
    pub fn add(&mut self, replay: &TrialRecord) {
        if replay.outcome != TrialOutcome::Infrastructure {
            self.evidence.add(&TrialRecord { side: Side::After, ..bare(replay) }, NO_TIME);
        }
    }

    /// All findings: those of the recorded trial first, then by descending rate.
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
            earlier: 0,
            again: finding.after,
            interval: interval(finding.after.seen, finding.after.trials),
            times: finding.times,
        }
    }
}

//! What the silence of a trial is evidence of.

use serde::{Deserialize, Serialize};

use crate::trial::TrialRecord;

/// The condition under which a trial without a finding is evidence of its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Evident {
    /// None: the harness itself would have detected it.
    Always,
    /// Every kernel record was received.
    WithLog,
    /// Every kernel record was received, and lockdep was armed all the time.
    WithLockdep,
    /// The values of the kernel's state were looked at.
    AtRest,
}

impl Evident {
    /// Whether the trial meets it.
    pub(super) fn is_met_by(self, record: &TrialRecord) -> bool {
        match self {
            Self::Always => true,
            Self::WithLog => record.watched_to_the_end(),
            Self::WithLockdep => record.watched_to_the_end() && record.armed_to_the_end(),
            Self::AtRest => record.unrestored.is_some(),
        }
    }
}

/// The number of trials of one side that meet each condition of [`Evident`].
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Watched {
    trials: u32,
    with_log: u32,
    with_lockdep: u32,
    #[serde(default)]
    at_rest: u32,
}

impl Watched {
    /// That of this trial alone.
    pub(super) fn of_one(record: &TrialRecord) -> Self {
        let counts = |evident: Evident| u32::from(evident.is_met_by(record));
        Self {
            trials: counts(Evident::Always),
            with_log: counts(Evident::WithLog),
            with_lockdep: counts(Evident::WithLockdep),
            at_rest: counts(Evident::AtRest),
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.trials += other.trials;
        self.with_log += other.with_log;
        self.with_lockdep += other.with_lockdep;
        self.at_rest += other.at_rest;
    }

    pub(super) fn of(self, evident: Evident) -> u32 {
        match evident {
            Evident::Always => self.trials,
            Evident::WithLog => self.with_log,
            Evident::WithLockdep => self.with_lockdep,
            Evident::AtRest => self.at_rest,
        }
    }
}

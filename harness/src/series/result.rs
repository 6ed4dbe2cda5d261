//! `series.json`.

use hotplug_side::Sides;
use serde::{Deserialize, Serialize};

use crate::compare::{Count, LockOrderDiff, Tally, Verdict, worst_exit_status};
use crate::record::Head;

/// A series of patches, judged one by one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SeriesResult {
    /// Who did it, and where.
    #[serde(flatten)]
    pub head: Head,
    /// The source below the series.
    pub source: String,
    /// The exit status that goes with it.
    pub exit_status: u8,
    /// The patches, in their order. Those of a series that was interrupted are the ones that were judged.
    pub patches: Vec<Step>,
    /// From its beginning to its end, seconds.
    pub seconds: f64,
}

/// One patch: the kernel with it and all before it, against the last one below that builds and boots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Its place in the series, from 1.
    pub number: usize,
    /// Its subject, or its file's name.
    pub subject: String,
    /// How many patches the other kernel has: one less, unless one of them does not build or boot.
    pub against: usize,
    /// What came of it.
    #[serde(flatten)]
    pub state: State,
}

/// What came of a patch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum State {
    /// There is no kernel: it does not apply, or does not build.
    NoKernel {
        /// The first lines of why.
        why: String,
    },
    /// There was no trial of it.
    NoTrial {
        /// Why.
        why: String,
        /// The run's folder, below the series'.
        run: String,
    },
    /// It was judged.
    Judged(Box<Judged>),
}

/// What a comparison came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Judged {
    /// The run's folder, below the series'.
    pub run: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in one sentence.
    pub reason: String,
    /// How the trials ended.
    pub trials: Sides<Tally>,
    /// Reports that it brought.
    pub new: Vec<Brought>,
    /// Reports that it took away.
    pub fixed: Vec<Brought>,
    /// Dependencies of the lock order that it brought and took away; none where they were not compared.
    pub locks: Option<Changed>,
    /// What it made slower and faster, in short; none where nothing was timed.
    pub latency: Option<Vec<String>>,
    /// The kernel was built now, which took so many seconds.
    pub build_seconds: Option<f64>,
}

/// A report that only one of two kernels shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Brought {
    /// Its signature.
    pub signature: String,
    /// One line.
    pub title: String,
    /// Trials without the patch that showed it, of those that could.
    pub before: Count,
    /// Trials with it.
    pub after: Count,
    /// It is beyond chance.
    pub decided: bool,
}

/// Numbers of dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Only with the patch.
    pub new: usize,
    /// Only without it.
    pub gone: usize,
}

impl Changed {
    /// Of a comparison.
    pub fn of(diff: &LockOrderDiff) -> Option<Self> {
        diff.none.is_none().then_some(Self { new: diff.new.len(), gone: diff.gone.len() })
    }
}

impl Step {
    /// The exit status that it asks for.
    pub fn exit_status(&self) -> u8 {
        match &self.state {
            State::NoKernel { .. } | State::NoTrial { .. } => 1,
            State::Judged(judged) => judged.verdict.exit_status(),
        }
    }
}

impl SeriesResult {
    /// The exit status of all patches: the worst of theirs.
    pub fn exit_status(&self) -> u8 {
        worst_exit_status(self.patches.iter().map(Step::exit_status))
    }
}

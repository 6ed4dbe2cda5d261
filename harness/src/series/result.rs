//! `series.json`.

use hotplug_side::Sides;
use serde::{Deserialize, Serialize};

use crate::compare::{Count, LockOrderDiff, Tally, Verdict, worst_exit_status};
use crate::record::Head;

/// The result of a series of patches that are judged one by one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SeriesResult {
    /// The command, the version and the machine.
    #[serde(flatten)]
    pub head: Head,
    /// The source below the series.
    pub source: String,
    /// The exit status of the command.
    pub exit_status: u8,
    /// The patches, in their order. If the series was interrupted, only those that were judged.
    pub patches: Vec<SeriesStep>,
    /// The duration of the whole series, in seconds.
    pub seconds: f64,
}

/// One patch. The kernel with it and all patches before it is compared with the last earlier kernel
/// that builds and boots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SeriesStep {
    /// The patch's place in the series, from 1.
    pub number: usize,
    /// The patch's subject, or the name of its file.
    pub subject: String,
    /// The number of patches of the other kernel: one less than `number`, unless that kernel does
    /// not build or boot.
    pub against: usize,
    /// The outcome.
    #[serde(flatten)]
    pub state: State,
}

/// The outcome of a patch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum State {
    /// There is no kernel: the patch does not apply, or the kernel does not build.
    NoKernel {
        /// The first lines of the reason.
        why: String,
    },
    /// No trial of the kernel was completed.
    NoTrial {
        /// The reason.
        why: String,
        /// The run's folder, below the series'.
        run: String,
    },
    /// The patch was judged.
    Judged(Box<Judged>),
}

/// The result of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Judged {
    /// The run's folder, below the series'.
    pub run: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The reason of the verdict, in one sentence.
    pub reason: String,
    /// How the trials ended.
    pub trials: Sides<Tally>,
    /// Reports that the patch introduces.
    pub new: Vec<Brought>,
    /// Reports that the patch removes.
    pub fixed: Vec<Brought>,
    /// The numbers of lock order dependencies that the patch adds and removes. None if they were
    /// not compared.
    pub locks: Option<DependencyCounts>,
    /// What the patch makes slower and faster, in short. None if nothing was timed.
    pub latency: Option<Vec<String>>,
    /// The build time of the kernel, in seconds, if it was built now.
    pub build_seconds: Option<f64>,
}

/// A report that only one of two kernels shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Brought {
    /// The report's signature.
    pub signature: String,
    /// The report in one line.
    pub title: String,
    /// Trials without the patch that showed the report, of those that could have shown it.
    pub before: Count,
    /// The same for trials with the patch.
    pub after: Count,
    /// Whether the difference is beyond chance.
    pub decided: bool,
}

/// Numbers of dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyCounts {
    /// Dependencies that exist only with the patch.
    pub new: usize,
    /// Dependencies that exist only without the patch.
    pub gone: usize,
}

impl DependencyCounts {
    /// The numbers of a comparison. None if the lock order was not compared.
    pub fn of(diff: &LockOrderDiff) -> Option<Self> {
        diff.none.is_none().then_some(Self { new: diff.new.len(), gone: diff.gone.len() })
    }
}

impl SeriesStep {
    /// The exit status of this patch.
    pub fn exit_status(&self) -> u8 {
        match &self.state {
            State::NoKernel { .. } | State::NoTrial { .. } => 1,
            State::Judged(judged) => judged.verdict.exit_status(),
        }
    }
}

impl SeriesResult {
    /// The worst exit status of all patches.
    pub fn exit_status(&self) -> u8 {
        worst_exit_status(self.patches.iter().map(SeriesStep::exit_status))
    }
}

//! What a comparison is asked to do. `run.json` keeps it, so that a run can be repeated and continued from it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host::{Accelerator, AcceleratorRequest, Choice};
use crate::kernel::{KernelPair, PairSpec};
use crate::scenario::Sweep;

/// A comparison of two kernels. The default compares the default kernel with itself, in the built-in scenario, with
/// every analysis that the scenario asks for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ComparisonSpec {
    /// The two kernels.
    pub kernels: PairSpec,
    /// The kernels where they are built already: then `kernels` only names them.
    #[serde(skip)]
    pub built: Option<Box<KernelPair>>,
    /// The scenario's file. Null: the built-in `dimm-and-cpu`, or `race` with a sweep.
    pub scenario: Option<PathBuf>,
    /// Pairs of places that are raced in addition to the scenario.
    pub sweep: Option<Sweep>,
    /// Which trials run, and what ends them early.
    pub trials: TrialsSpec,
    /// The analyses beside the judged trials.
    pub analyses: AnalysesSpec,
    /// How trials run, and where their results go.
    pub running: RunningSpec,
}

impl ComparisonSpec {
    /// The same with every path absolute, so that it means the same in another folder.
    #[must_use]
    pub fn absolute(self) -> Self {
        let path = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let running = self.running;
        let running =
            RunningSpec { results: path(running.results), known: running.known.map(path), ..running };
        Self { kernels: self.kernels.absolute(), scenario: self.scenario.map(path), running, ..self }
    }
}

/// Which trials run, and what ends them early.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrialsSpec {
    /// Number of the first trial of each side.
    pub first: u32,
    /// Number behind the last. Null: the scenario's number of trials, or no end with `seconds` or `until_report`.
    pub end: Option<u32>,
    /// No trial begins after so many seconds of trials.
    pub seconds: Option<f64>,
    /// No trial begins after the first finding that is not known.
    pub until_report: bool,
    /// No trial begins after a finding of this name: the begin of a signature, or a part of a title, key or WARN text.
    pub until_seen: Option<String>,
    /// No trial begins once the verdict cannot change.
    pub until_decided: bool,
}

/// Whether an analysis runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// It runs if it needs nothing from the scenario, or if the scenario asks for it.
    #[default]
    Usual,
    /// It runs.
    Always,
    /// It does not run, and the result says that the user refused it.
    Refused,
    /// It does not run, and the result does not mention it.
    Omitted,
}

impl Request {
    /// It does not run.
    pub fn is_off(self) -> bool {
        matches!(self, Self::Refused | Self::Omitted)
    }

    /// Off where the user said `--no-...`.
    pub fn unless(refused: bool) -> Self {
        if refused { Self::Refused } else { Self::Usual }
    }
}

/// The analyses beside the judged trials.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AnalysesSpec {
    /// Bugs planted into the before kernel, and whether they are found.
    pub control: Request,
    /// What differs in the lock order.
    pub lock_order: Request,
    /// Which of the changed lines ran.
    pub coverage: Request,
    /// Which critical sections overlapped.
    pub overlap: Request,
    /// What takes longer or shorter.
    pub latency: Request,
    /// Latency counts the guest's instructions, instead of the time of the wall clock.
    pub exact: bool,
    /// Boots of each kernel that are timed. Null: the scenario's number, or what the clock needs.
    pub boots: Option<u32>,
    /// Kernels whose trials report are timed too.
    pub latency_despite_reports: bool,
}

impl AnalysesSpec {
    /// None: the trials alone.
    pub fn none() -> Self {
        let off = Request::Omitted;
        Self { control: off, lock_order: off, coverage: off, overlap: off, latency: off, ..Self::default() }
    }
}

/// How trials run, and where their results go.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunningSpec {
    /// Each trial boots, instead of starting from a checkpoint.
    pub cold: bool,
    /// Guests at once. Null: one for each processor, fewer where memory is short.
    pub workers: Option<u32>,
    /// What all schedules are drawn from. Null: a random number, which `run.json` keeps.
    pub seed: Option<u64>,
    /// The folder that the run's folder is created in.
    pub results: PathBuf,
    /// A file of known issues.
    pub known: Option<PathBuf>,
    /// The accelerator that the user asked for. With it, the accelerator is probed anew.
    #[serde(skip)]
    pub accelerator: Option<Choice>,
    /// The accelerator that an outer run has found; `accelerator` has no effect then.
    #[serde(skip)]
    pub found: Option<Accelerator>,
}

impl Default for RunningSpec {
    fn default() -> Self {
        Self {
            cold: false,
            workers: None,
            seed: None,
            results: "results".into(),
            known: None,
            accelerator: None,
            found: None,
        }
    }
}

impl RunningSpec {
    /// The accelerator that is asked for.
    pub fn accelerator_request(&self) -> AcceleratorRequest {
        self.found.map_or(AcceleratorRequest::by(self.accelerator), AcceleratorRequest::from)
    }
}

/// A run that goes on: its trials that ended count, and those that were cut off run again.
#[derive(Debug, Clone, Default)]
pub struct ResumeSpec {
    /// The run's folder.
    pub run: PathBuf,
    /// Number behind the last trial of each side. None: the run's own.
    pub trials: Option<u32>,
    /// The analyses beside the judged trials.
    pub analyses: AnalysesSpec,
    /// Guests at once. None: as many as the run had.
    pub workers: Option<u32>,
    /// A file of known issues. None: the run's own.
    pub known: Option<PathBuf>,
}

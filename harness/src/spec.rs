//! The specification of a comparison. `run.json` keeps it, so that a run can be repeated and
//! continued.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::arch::Architecture;
use crate::conclusion::analyses;
use crate::host::{Accelerator, AcceleratorRequest, Choice};
use crate::kernel::{KernelPair, PairSpec};
use crate::scenario::{DEFAULT, Sweep, built_in_for, portfolio};

/// A comparison of two kernels. The default compares the default kernel with itself, in the
/// built-in scenario, with every analysis that the scenario requests.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ComparisonSpec {
    /// The two kernels.
    pub kernels: PairSpec,
    /// The kernels, if they are built already. Then `kernels` only names them.
    #[serde(skip)]
    pub built: Option<Box<KernelPair>>,
    /// Trials run also if the two sides turn out to be the same kernel, bit for bit.
    pub even_if_identical: bool,
    /// The scenarios that its trials run.
    pub scenarios: ScenarioChoice,
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
    /// The same specification with absolute paths, so that it is valid in every folder.
    #[must_use]
    pub fn absolute(self) -> Self {
        let path = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let running = self.running;
        let running =
            RunningSpec { results: path(running.results), known: running.known.map(path), ..running };
        let scenarios = match self.scenarios {
            // The name of a scenario that the binary carries is no path.
            ScenarioChoice::Named(all) => ScenarioChoice::Named(
                all.into_iter().map(|one| if one.exists() { path(one) } else { one }).collect(),
            ),
            other => other,
        };
        Self { kernels: self.kernels.absolute(), scenarios, running, ..self }
    }
}

/// The scenarios of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScenarioChoice {
    /// The portfolio of the architecture ([`portfolio`]), or `race` with a sweep.
    #[default]
    Portfolio,
    /// Every scenario that the binary carries for the architecture.
    All,
    /// These files, or scenarios of these names that the binary carries.
    Named(Vec<PathBuf>),
}

impl ScenarioChoice {
    /// One scenario: this one, or else [`DEFAULT`].
    pub fn one(given: Option<PathBuf>) -> Self {
        Self::Named(vec![given.unwrap_or_else(|| DEFAULT.into())])
    }

    /// The name of the choice, if it is no list.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::Portfolio => Some("portfolio"),
            Self::All => Some("all"),
            Self::Named(_) => None,
        }
    }

    /// The files or names of the scenarios, for guests of this architecture.
    pub fn paths(&self, arch: Architecture) -> Vec<PathBuf> {
        match self {
            Self::Portfolio => portfolio(arch).iter().map(PathBuf::from).collect(),
            Self::All => built_in_for(arch).map(PathBuf::from).collect(),
            Self::Named(paths) => paths.clone(),
        }
    }
}

/// Which trials run, and what ends them early.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrialsSpec {
    /// Number of the first trial of each side.
    pub first: u32,
    /// Number after the last trial of each side, in each scenario. Null: the scenario's number of
    /// trials, or no end with `seconds` or `until_report`.
    pub end: Option<u32>,
    /// No trial begins after this many seconds of trials.
    pub seconds: Option<f64>,
    /// No trial begins after the first finding that is not known.
    pub until_report: bool,
    /// No trial begins after a finding of this name: the beginning of a signature, or a part of a
    /// title, key or WARN text.
    pub until_seen: Option<String>,
    /// No trial begins once a regression is decided.
    pub until_decided: bool,
}

/// Whether an analysis runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnalysisRequest {
    /// It runs if it needs nothing from the scenario, or if the scenario requests it.
    #[default]
    Usual,
    /// It runs.
    Always,
    /// It does not run, and the result records that the user refused it.
    Refused,
    /// It does not run, and the result does not mention it.
    Omitted,
}

impl AnalysisRequest {
    /// Whether the analysis does not run.
    pub fn is_off(self) -> bool {
        matches!(self, Self::Refused | Self::Omitted)
    }

    /// Off if the user gave the option `--no-...`.
    pub fn unless(refused: bool) -> Self {
        if refused { Self::Refused } else { Self::Usual }
    }
}

/// The requests for the analyses, with one field for each of them.
macro_rules! analyses_spec {
    ($($(#[$_doc:meta])* $name:ident: $_analysis:ident => $_type:ty,)*) => {
        /// The analyses beside the judged trials.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default)]
        pub struct AnalysesSpec {
            $(
                /// Whether this analysis runs.
                pub $name: AnalysisRequest,
            )*
            /// Latency counts the guest's instructions, instead of the time of the wall clock.
            pub exact: bool,
            /// Boots of each kernel that are timed. Null: the scenario's number, or what the clock
            /// needs.
            pub boots: Option<u32>,
            /// Kernels whose trials report are timed too.
            pub latency_despite_reports: bool,
            /// The forecasts rest on this run alone, and later runs do not know of it.
            pub without_atlas: bool,
        }

        impl AnalysesSpec {
            /// No analysis: the trials alone.
            pub fn none() -> Self {
                Self { $($name: AnalysisRequest::Omitted,)* ..Self::default() }
            }
        }
    };
}
analyses!(analyses_spec);

/// How trials run, and where their results go.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunningSpec {
    /// Each trial boots, instead of starting from a checkpoint.
    pub cold: bool,
    /// Guests at once. Null: one for each processor, or fewer if memory is short.
    pub workers: Option<u32>,
    /// The most trials that a guest takes, one after the other. Null: as many as leave eight guests
    /// of each side.
    pub rounds: Option<u32>,
    /// The seed of all schedules. Null: a random number, which `run.json` keeps.
    pub seed: Option<u64>,
    /// The folder that the run's folder is created in.
    pub results: PathBuf,
    /// A file of known issues.
    pub known: Option<PathBuf>,
    /// A known issue may become more frequent.
    pub known_may_worsen: bool,
    /// The most vmcores of guests that panicked or hung.
    pub vmcores: u32,
    /// The accelerator that the user asked for. With it, the accelerator is probed anew.
    #[serde(skip)]
    pub accelerator: Option<Choice>,
    /// The accelerator that an outer run has found. With it, `accelerator` has no effect.
    #[serde(skip)]
    pub found: Option<Accelerator>,
}

impl Default for RunningSpec {
    fn default() -> Self {
        Self {
            cold: false,
            workers: None,
            rounds: None,
            seed: None,
            results: "results".into(),
            known: None,
            known_may_worsen: false,
            vmcores: 0,
            accelerator: None,
            found: None,
        }
    }
}

impl RunningSpec {
    /// The most vmcores of the run, if it keeps any.
    pub fn vmcores_asked(&self) -> Option<u32> {
        Some(self.vmcores).filter(|number| *number > 0)
    }

    /// The request for an accelerator.
    pub fn accelerator_request(&self) -> AcceleratorRequest {
        self.found.map_or(AcceleratorRequest::by(self.accelerator), AcceleratorRequest::from)
    }
}

/// A run to resume: its trials that ended count, and those that were cut off run again.
#[derive(Debug, Clone, Default)]
pub struct ResumeSpec {
    /// The run's folder.
    pub run: PathBuf,
    /// Number after the last trial of each side. None: the run's own.
    pub trials: Option<u32>,
    /// The analyses beside the judged trials.
    pub analyses: AnalysesSpec,
    /// Guests at once. None: as many as the run had.
    pub workers: Option<u32>,
    /// A file of known issues. None: the run's own.
    pub known: Option<PathBuf>,
}

//! `bisect.json`.

use serde::{Deserialize, Serialize};

use super::{Bisection, NextStep, Tested};
use crate::record::Head;

/// The result of a bisection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BisectResult {
    /// The command, the version and the machine.
    #[serde(flatten)]
    pub head: Head,
    /// The name of the report that was searched for.
    pub called: String,
    /// The exit status of the command.
    pub exit_status: u8,
    /// The revisions, the good end first, with what is known about each.
    pub revisions: Vec<Revision>,
    /// The tests, in their order.
    pub tests: Vec<Test>,
    /// The answer. Null while the bisection is in progress.
    pub suspected: Option<Suspected>,
    /// The duration of the whole bisection, in seconds.
    pub seconds: f64,
}

/// One revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// The revision's full name, or the file of its patch.
    pub name: String,
    /// The trials of the revision.
    #[serde(flatten)]
    pub tested: Tested,
    /// The probability that the revision introduced the bug. For the good end, that it has the bug
    /// itself.
    pub probability: f64,
}

/// Trials of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// The revision, by its place from the good end.
    pub revision: usize,
    /// The run's folder, below the bisection's.
    pub run: Option<String>,
    /// Why the revision cannot be tried.
    pub cannot: Option<String>,
    /// Trials that showed the report.
    pub hits: u32,
    /// Trials that could have shown the report and did not.
    pub clean: u32,
    /// The title of the report that the name matched.
    pub title: Option<String>,
    /// The signature of that report.
    pub signature: Option<String>,
    /// The build time of the kernel, in seconds, if it was built now.
    pub build_seconds: Option<f64>,
    /// The time until the first trial, mostly for the checkpoint, in seconds.
    pub start_seconds: f64,
    /// The time that the trials took, in seconds.
    pub seconds: f64,
}

/// The answer of a bisection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suspected {
    /// The revisions that may have introduced the bug, the most probable first, by their places
    /// from the good end. It is one revision if the answer is decided, 0 if the good end has the
    /// bug itself, and none if no revision is consistent with the trials.
    pub revisions: Vec<usize>,
    /// Whether the answer has the required probability.
    pub decided: bool,
    /// The probability of all these revisions together.
    pub probability: f64,
    /// The rate at which trials of a revision with the bug show it.
    pub rate: f64,
    /// The title of the report that the name matched.
    pub title: Option<String>,
}

impl Suspected {
    /// The answer after the last step of a bisection. A bisection that cannot continue names the
    /// most probable revisions.
    pub fn of(bisection: &Bisection, step: &NextStep, title: Option<String>) -> Self {
        let weights = bisection.posterior();
        let (revisions, decided) = match step {
            NextStep::Found { revision, .. } => (vec![*revision], true),
            NextStep::GoodIsBad { .. } => (vec![0], true),
            NextStep::OneOf(_) | NextStep::Test { .. } => (bisection.likely(), false),
            NextStep::Contradiction => (Vec::new(), true),
        };
        let probability = revisions.iter().map(|one| weights[*one]).sum();
        Self { revisions, decided, probability, rate: bisection.rate(), title }
    }
}

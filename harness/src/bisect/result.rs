//! `bisect.json`.

use serde::{Deserialize, Serialize};

use super::{Bisection, Step, Tested};
use crate::record::Head;

/// A bisection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BisectResult {
    /// Who did it, and where.
    #[serde(flatten)]
    pub head: Head,
    /// What was looked for.
    pub called: String,
    /// The exit status that goes with it.
    pub exit_status: u8,
    /// Revisions, the good end first, and for each what is known.
    pub revisions: Vec<Revision>,
    /// The tests, in their order.
    pub tests: Vec<Test>,
    /// What came of it; null while it goes on.
    pub suspected: Option<Suspected>,
    /// From its beginning to its end, seconds.
    pub seconds: f64,
}

/// One revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its full name, or its patch's file.
    pub name: String,
    /// What was tried of it.
    #[serde(flatten)]
    pub tested: Tested,
    /// How probable it is that it brought what is looked for; of the good end, that it has it itself.
    pub probability: f64,
}

/// Trials of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// Which revision, by its place from the good end.
    pub revision: usize,
    /// The run's folder, below the bisection's.
    pub run: Option<String>,
    /// Why it cannot be tried.
    pub cannot: Option<String>,
    /// Trials that showed it.
    pub hits: u32,
    /// Trials that would have.
    pub clean: u32,
    /// What the report is called that was taken for it.
    pub title: Option<String>,
    /// Its signature.
    pub signature: Option<String>,
    /// How long the kernel took, if it was built now, seconds.
    pub build_seconds: Option<f64>,
    /// How long it took until the first trial, the checkpoint above all, seconds.
    pub start_seconds: f64,
    /// How long its trials took, seconds.
    pub seconds: f64,
}

/// What a bisection came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suspected {
    /// Revisions that may have brought it, the likeliest first, by their place from the good end: one where it is decided; 0
    /// where the good end has it itself; none where nothing fits.
    pub revisions: Vec<usize>,
    /// It is as sure as was asked for.
    pub decided: bool,
    /// How probable all of them together are.
    pub probability: f64,
    /// How many trials show it, of a revision that has it.
    pub rate: f64,
    /// What the report is called that was taken for it.
    pub title: Option<String>,
}

impl Suspected {
    /// From the last step of a bisection. One that cannot be gone on with names whom it suspects.
    pub fn of(bisection: &Bisection, step: &Step, title: Option<String>) -> Self {
        let weights = bisection.posterior();
        let (revisions, decided) = match step {
            Step::Found { revision, .. } => (vec![*revision], true),
            Step::GoodIsBad { .. } => (vec![0], true),
            Step::OneOf(_) | Step::Test { .. } => (bisection.likely(), false),
            Step::Contradiction => (Vec::new(), true),
        };
        let probability = revisions.iter().map(|one| weights[*one]).sum();
        Self { revisions, decided, probability, rate: bisection.rate(), title }
    }
}

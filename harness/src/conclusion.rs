//! The conclusion of an analysis: its weight in the verdict, and its section of the screen, the
//! mail, the page and the cases. This file contains the list of all analyses.

use std::path::Path;

use maud::Markup;

use crate::compare::{Judgement, Weight};
use crate::text::harmless;
use crate::unavailable::Unavailable;

/// All analyses, in the order in which they run: first those that a verdict of `unchanged` depends
/// on. The given macro receives, for each: the documentation of its field in `result.json`, the
/// field, the type in [`analysis`](crate::analysis) or [`comparison`](crate::comparison) that runs
/// it, and the type of its conclusion.
macro_rules! analyses {
    ($receiver:ident) => {
        $receiver! {
            /// Whether planted bugs were found; null in a control itself, and in a comparison of
            /// `hotplug prove`.
            control: ControlAnalysis => crate::compare::Control,
            /// The differences in lock order; null if it was not compared: in a control, and in a
            /// comparison of `hotplug prove`.
            lock_order: LockOrderAnalysis => crate::compare::LockOrderDiff,
            /// What became of the forecast deadlocks of the after kernel; null if there are none.
            forecasts: ForecastAnalysis => crate::compare::TriedForecasts,
            /// The changed lines that ran; null if they were not counted, and if both sides are one
            /// kernel.
            coverage: CoverageAnalysis => crate::compare::Coverage,
            /// The callbacks of hotplug that ran, and those that silence does not cover; null in a
            /// control, and in a comparison of `hotplug prove`.
            reach: ReachAnalysis => crate::reach::Reach,
            /// The results of the holds; null if the scenario has none.
            race: RaceAnalysis => crate::rendezvous::Race,
            /// The critical sections that overlapped; null if they were not traced.
            overlap: OverlapAnalysis => crate::overlap::Overlap,
            /// The metrics that became slower or faster; null if nothing was timed.
            latency: LatencyAnalysis => crate::latency::Latency,
        }
    };
}
pub(crate) use analyses;

/// The conclusion of an analysis.
pub trait Conclusion {
    /// Its effect on the verdict that the trials gave.
    fn weight(&self, _: &Judgement) -> Weight {
        Weight::Nothing
    }

    /// Its lines on the screen of a comparison. The first begins with a label of ten columns.
    fn screen(&self) -> Vec<String>;

    /// Its lines in a mail, which wraps them.
    fn mail(&self) -> Vec<String> {
        self.screen()
    }

    /// The expectation that a CI system tracks from run to run.
    fn case(&self) -> Option<Case>;

    /// Its section of the page. `run` is the run's folder; the section may read the files of its
    /// trials.
    fn page(&self, run: &Path) -> Markup;
}

/// Defines a struct with one optional field for each analysis.
macro_rules! conclusions {
    ($($(#[$doc:meta])* $name:ident: $_analysis:ident => $type:ty,)*) => {
        /// The conclusions of a comparison so far.
        #[derive(Debug, Default)]
        pub struct Conclusions {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        impl Conclusions {
            /// The available conclusions, in the order of the analyses.
            pub fn all(&self) -> impl Iterator<Item = &dyn Conclusion> {
                [$(self.$name.as_ref().map(|conclusion| conclusion as &dyn Conclusion),)*].into_iter().flatten()
            }
        }
    };
}
analyses!(conclusions);

impl Conclusions {
    /// The judgement of the trials, in which every conclusion weighs.
    pub fn weigh_in(&self, mut judgement: Judgement) -> Judgement {
        for conclusion in self.all() {
            judgement.weigh(conclusion.weight(&judgement));
        }
        judgement
    }

    /// The conclusions of the judged trials alone, before any analysis has run.
    pub fn of_trials(judgement: &Judgement) -> Self {
        Self { race: judgement.race.clone(), ..Self::default() }
    }
}

/// Longest line of a case, in characters.
pub const LONGEST: usize = 400;

/// An expectation and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its name, which stays the same from run to run.
    pub name: String,
    /// The outcome.
    pub outcome: CaseOutcome,
    /// The folder of a trial that shows it, below the run's folder.
    pub trial: Option<String>,
}

impl Case {
    /// Creates a case that no single trial shows.
    pub fn new(name: &str, outcome: CaseOutcome) -> Self {
        Self { name: name.to_owned(), outcome, trial: None }
    }
}

/// The outcome of an expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseOutcome {
    /// The expectation holds.
    Passed,
    /// The expectation does not hold.
    Failed {
        /// The reason, in one line.
        why: String,
        /// Further lines: a call path, or the lines that never ran.
        more: Vec<String>,
    },
    /// The trials do not decide.
    Skipped {
        /// The reason, in one line.
        why: String,
    },
    /// The harness or the machine failed.
    Broken {
        /// The reason, in one line.
        why: String,
    },
}

impl CaseOutcome {
    /// The expectation does not hold.
    pub fn failed(why: impl Into<String>, more: Vec<String>) -> Self {
        Self::Failed { why: why.into(), more }
    }

    /// The same with these words before its reason.
    #[must_use]
    pub fn after(self, words: &str) -> Self {
        let with = |why: String| format!("{words}{why}");
        match self {
            Self::Passed => Self::Passed,
            Self::Failed { why, more } => Self::Failed { why: with(why), more },
            Self::Skipped { why } => Self::Skipped { why: with(why) },
            Self::Broken { why } => Self::Broken { why: with(why) },
        }
    }

    /// The trials do not decide.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped { why: why.into() }
    }

    /// The trials do not decide, because there is no conclusion.
    pub fn unavailable(why: &Unavailable) -> Self {
        Self::skipped(harmless(why, LONGEST))
    }
}

/// Lines of a screen, the first one with its label.
pub fn labelled(label: &str, lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let labels = std::iter::once(label).chain(std::iter::repeat(""));
    labels.zip(lines).map(|(label, line)| format!("{label:<10}{line}")).collect()
}

/// The line of a screen with the reason why there is no conclusion:
/// `coverage not counted: a kernel was given as an image`.
pub(crate) fn unavailable_line(label: &str, not: &str, why: &Unavailable) -> Vec<String> {
    let first = why.lines().next().unwrap_or_default();
    let head = format!("{label:<10}{not}: ");
    vec![format!("{head}{}", harmless(first, 100 - head.len()))]
}

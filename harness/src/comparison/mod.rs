//! The entry point of the library: a comparison of two kernels, from its spec to its verdict.
//!
//! [`prepare`] finds or builds everything that the trials need, or settles the verdict without any.
//! [`run`] runs the trials, judges them and runs the analyses. Events are sent to the listener in
//! [`Env`]; nothing is printed.
//!
//! Both return boxed futures. So the code of all that they await is compiled once, in the library,
//! and not in every crate that calls them.

mod control;
mod deal;
mod forecasts;
mod inputs;
mod masks;
mod prepare;
mod refine;
mod rounds;
mod run;
mod scenarios;
mod settled;

pub use prepare::{Preparation, known_issues, prepare, resume};
pub use run::{Finished, run};
pub(crate) use run::{compare_inner, run_inner};
pub(crate) use scenarios::{asked, contexts, with_places, workers};

pub use crate::analysis::Prepared;
pub use crate::environment::Env;
pub use crate::spec::{
    AnalysesSpec, AnalysisRequest, ComparisonSpec, ResumeSpec, RunningSpec, ScenarioChoice, TrialsSpec,
};

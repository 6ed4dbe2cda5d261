//! The door of the library: a comparison of two kernels, from its spec to its verdict.
//!
//! [`prepare`] finds or builds all that the trials need, [`run`] runs them, judges them and runs the analyses. Events
//! come to the listener in [`Env`]; nothing is printed.

mod control;
mod prepare;
mod refine;
mod run;

pub(crate) use prepare::known_issues;
pub use prepare::{prepare, resume};
pub(crate) use run::run_inner;
pub use run::{Finished, run};

pub use crate::analysis::Prepared;
pub use crate::environment::Env;
pub use crate::spec::{AnalysesSpec, ComparisonSpec, Request, ResumeSpec, RunningSpec, TrialsSpec};

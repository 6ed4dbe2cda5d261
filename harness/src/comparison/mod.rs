//! The door of the library: a comparison of two kernels, from its spec to its verdict.
//!
//! [`prepare`] finds or builds all that the trials need, [`run`] runs them, judges them and runs the analyses. Events
//! come to the listener in [`Env`]; nothing is printed.
//!
//! They return boxed futures, so that the code of all that they wait for is compiled in the library, once, and not in
//! every crate that calls them.

mod control;
mod prepare;
mod refine;
mod run;

pub use prepare::{known_issues, prepare, resume};
pub use run::{Finished, run};
pub(crate) use run::{compare_inner, run_inner};

pub use crate::analysis::Prepared;
pub use crate::environment::Env;
pub use crate::spec::{AnalysesSpec, ComparisonSpec, Request, ResumeSpec, RunningSpec, TrialsSpec};

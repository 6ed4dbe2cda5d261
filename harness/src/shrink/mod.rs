//! Reduces a trial that showed a report to the smallest scenario found that still shows it.

mod candidates;
mod file;
mod machine;
mod oracle;
mod reduce;
mod result;
mod run;
mod sequential_test;
mod size;

pub use reduce::reduce;
pub use result::{CandidateResult, ShrinkResult, rate};
pub use run::{ShrinkSpec, shrink};
pub use sequential_test::{Rule, Word};
pub use size::Size;

//! From a trial that showed a report to the smallest scenario that still shows it.

mod file;
mod machine;
mod oracle;
mod part;
mod plain;
mod reduce;
mod result;
mod rule;
mod run;
mod size;

pub use plain::plain;
pub use reduce::reduce;
pub use result::{ShrinkResult, Tried, rate};
pub use rule::{Rule, Word};
pub use run::{ShrinkSpec, shrink};
pub use size::Size;

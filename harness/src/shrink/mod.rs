//! A trial that showed something -> the smallest scenario that still shows it. Pure: who tries a scenario is the caller's.

mod machine;
mod part;
mod plain;
mod reduce;
mod rule;
mod size;

pub use plain::plain;
pub use reduce::reduce;
pub use rule::{Rule, Word};
pub use size::Size;

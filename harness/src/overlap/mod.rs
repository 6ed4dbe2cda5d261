//! Overlaps: finds the critical sections that two tasks were inside of at once, from the calls that
//! the guests' kernels traced. The module is pure.

mod result;
mod section;

pub use result::{Overlap, Pair, Traced};
pub use section::{Longest, Section, overlaps, sections};

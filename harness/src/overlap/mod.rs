//! What ran at the same time: calls that the guests' kernels traced -> which critical sections two tasks were inside of at once
//! (pure).

mod result;
mod section;

pub use result::{Overlap, Pair, Traced};
pub use section::{Longest, Section, overlaps, sections};

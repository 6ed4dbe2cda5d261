//! Two sets of trials -> what differs -> a verdict that carries its arithmetic. Pure: works from records alone.

mod again;
mod control;
mod coverage;
mod finding;
mod locks;
mod verdict;
mod weight;

pub use again::{Recurrence, Replays};
pub use control::Control;
pub use coverage::{ChangedLine, Coverage, FileCoverage, SideCounts};
pub use finding::{Class, Count, Finding};
pub use locks::{EdgeDiff, Extent, LockOrderDiff, LockOrders};
pub use verdict::{Judge, Judgement, Tally, Verdict, worst_exit_status};
pub use weight::Weight;

//! Two sets of trials -> what differs -> a verdict that carries its arithmetic. Pure: works from records alone.

mod again;
mod control;
mod coverage;
mod exact;
mod finding;
mod locks;
mod verdict;

pub use again::{Recurrence, Replays};
pub use control::Control;
pub use coverage::{ChangedLine, Coverage, FileCoverage, SideCounts};
pub use exact::{
    always_against_never, clean_trials, detectable_rate, fisher_two_sided, interval, probability_of_at_most,
};
pub use finding::{Class, Count, Finding};
pub use locks::{EdgeDiff, Extent, LockOrderDiff, LockOrders};
pub use verdict::{Judge, Judgement, Tally, Verdict, worst_exit_status};

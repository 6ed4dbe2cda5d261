//! Finds the revision that introduced a report, also if only some trials show the report.
//!
//! The model assumes that exactly one revision is the first with the bug: every revision that
//! contains it has the bug, and no other revision has. A trial of a revision with the bug shows it
//! at a rate that is unknown, and the same for all revisions. A trial of a revision without the bug
//! never shows it. So one hit is proof, and silence is evidence by degrees. The knowledge about all
//! revisions is a posterior distribution: [`Bisection::posterior`]. The next test is the one with
//! the most expected information for its cost ([`Bisection::next`]): of a new revision, or once
//! more of one that was silent.
//!
//! The statistics are independent of kernels: revisions are numbers. The `driver` builds and tries
//! them.

mod choice;
mod driver;
mod history;
mod posterior;
mod result;
mod run;
#[cfg(test)]
mod simulation;

pub use choice::{NextStep, Price};
pub use driver::LineupSpec;
pub(crate) use driver::{Lineup, build};
pub use history::RevisionGraph;
pub use posterior::{Bisection, Tested};
pub use result::{BisectResult, Revision, Suspected, Test};
pub use run::{BisectSpec, Bisecting, bisect, step};

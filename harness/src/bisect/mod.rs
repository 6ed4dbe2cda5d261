//! Which revision brought a report, where a trial shows it only now and then.
//!
//! Exactly one revision is taken to be the first that has the bug: every revision that contains it has the bug, and no other
//! one. A trial of a revision with the bug shows it with one rate, which is the same everywhere and is not known; a
//! trial of one without never does. Then one hit is proof, silence is evidence by degrees, and what is known of all
//! revisions at any time is a posterior: [`Bisection::posterior`]. The next test is the one that is expected to tell most for its
//! price ([`Bisection::next`]), be it of a new revision or once more of one that was silent.
//!
//! The statistics know nothing of kernels: revisions are numbers. The `driver` builds and tries them.

mod choice;
mod driver;
mod history;
mod posterior;
mod result;
mod run;
#[cfg(test)]
mod simulation;

pub use choice::{Price, Step};
pub use driver::LineupSpec;
pub(crate) use driver::{Lineup, build};
pub use history::History;
pub use posterior::{Bisection, Tested};
pub use result::{BisectResult, Revision, Suspected, Test};
pub use run::{BisectSpec, Bisecting, bisect, step};

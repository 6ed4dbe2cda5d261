//! A trial: one boot, one schedule of operations, one outcome.

mod accounting;
mod lanes;
mod operation;
mod outcome;
mod run;
mod vm;
mod workers;

pub use accounting::Mismatch;
pub use operation::OperationRecord;
pub use outcome::{Armed, Outcome, Seen, TrialOutcome, TrialRecord};
pub use run::{Setting, TrialPlan};
pub use workers::{Again, Happened, Ran, Repeated, run_all};

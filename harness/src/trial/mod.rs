//! A trial: one restored checkpoint or one boot, one schedule of operations, one outcome.

mod accounting;
pub mod checkpoint;
mod cpus;
mod lanes;
mod operation;
mod outcome;
mod phases;
mod run;
mod vm;
mod waiting;
mod workers;

pub use accounting::Mismatch;
pub use operation::OperationRecord;
pub use outcome::{Armed, Outcome, Seen, TrialOutcome, TrialRecord};
pub use run::{Setting, TrialPlan};
pub use workers::{Again, Happened, Ran, Repeated, Tell, run_all};

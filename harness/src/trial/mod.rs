//! A trial: one restored checkpoint or one boot, one schedule of operations, one outcome.

mod accounting;
pub mod checkpoint;
mod conclude;
mod coverage;
mod cpus;
mod diagnosis;
mod holding;
mod lanes;
mod lead;
mod listening;
mod locks;
mod operation;
mod outcome;
mod past;
mod phases;
mod repeat;
mod run;
mod setting;
mod timing;
mod vm;
mod waiting;
mod workers;

pub use accounting::Mismatch;
pub use operation::OperationRecord;
pub use outcome::{Armed, Seen, TrialOutcome, TrialRecord};
pub use past::{Past, look_back};
pub use repeat::OnDisk;
pub use setting::{Original, Setting, TrialPlan};
pub use timing::{Told, Watched};
pub use workers::{Again, Happened, Ran, Repeated, Tell, plan, run_all};

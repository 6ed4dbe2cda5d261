//! Runs recorded trials again.

mod recorded_run;
mod run;

pub(crate) use recorded_run::RecordedRun;
pub(crate) use run::recorded_trial;
pub use run::{ReplaySpec, replay};

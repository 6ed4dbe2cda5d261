//! Runs recorded trials again.

mod recorded_run;
mod run;
mod shell;

pub(crate) use recorded_run::RecordedRun;
pub(crate) use run::recorded_trial;
pub use run::{ReplaySpec, replay};

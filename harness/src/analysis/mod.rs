//! What a comparison asks beside its judged trials: which kernels an analysis needs, the trials that it runs, and what it
//! concludes. How that weighs in the verdict is decided in [`crate::compare`].

pub(crate) mod coverage;
pub(crate) mod latency;
pub(crate) mod lock_order;
pub(crate) mod overlap;
mod prepared;

pub use prepared::Prepared;

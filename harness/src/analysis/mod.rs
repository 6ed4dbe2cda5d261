//! The analyses of a comparison. They answer questions that the judged trials alone do not. Each
//! analysis is one module: its kernels, the data that its trials collect, its conclusion, and in
//! `section.rs` its output.

pub mod coverage;
pub mod latency;
pub mod lock_order;
pub mod overlap;
mod prepared;
pub mod race;
pub mod reach;

pub(crate) use coverage::CoverageAnalysis;
pub(crate) use latency::{LatencyAnalysis, counts_instructions, fits_exactly};
pub(crate) use lock_order::LockOrderAnalysis;
pub(crate) use overlap::OverlapAnalysis;
pub use prepared::Prepared;
pub(crate) use prepared::ScenarioPart;
pub(crate) use race::RaceAnalysis;
pub(crate) use reach::ReachAnalysis;

use crate::Result;
use crate::compare::Judgement;
use crate::conclusion::{Conclusion, Conclusions};
use crate::environment::Env;
use crate::kernel::Config;
use crate::unavailable::Unavailable;

/// An analysis. A new one needs a module here and a line in
/// [`analyses`](crate::conclusion::analyses).
pub(crate) trait Analysis {
    /// The type of its conclusion.
    type Conclusion: Conclusion;

    /// Its name on the screen, such as `lock order`. The option that disables it is
    /// `--no-lock-order`.
    const NAME: &'static str;

    /// The kernels that its own boots and trials need, in order. It is empty if the analysis reads
    /// only the files of the judged trials.
    fn kernels(prepared: &Prepared) -> Vec<Kernels>;

    /// Whether it needs kernels, boots or trials of its own in this comparison.
    fn takes_time(prepared: &Prepared) -> bool {
        !Self::kernels(prepared).is_empty()
    }

    /// Runs the analysis. `so_far` has the conclusions of the analyses before it. Returns `None` if
    /// it does not apply to this comparison.
    ///
    /// An error is recorded as "not available", unless it is an interruption.
    async fn conclude(
        prepared: &Prepared,
        judgement: &mut Judgement,
        so_far: &Conclusions,
        env: &Env<'_>,
    ) -> Result<Option<Self::Conclusion>>;

    /// The conclusion of an analysis that is not available, for this reason.
    fn unavailable(prepared: &Prepared, why: Unavailable) -> Option<Self::Conclusion>;
}

/// The kernels that an analysis needs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kernels {
    /// The judged kernels.
    Judged,
    /// The judged kernels with another configuration: its description, and the function that
    /// changes it.
    Configured(&'static str, fn(Config) -> Config),
    /// The judged kernels, with counters of executed lines in the files that differ.
    Counted,
}

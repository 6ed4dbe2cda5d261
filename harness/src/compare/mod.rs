//! Compares the trials of two kernels, and derives a verdict with its statistics. The module is
//! pure: it works from records alone.

mod again;
mod boot;
mod control;
mod coverage;
mod early;
mod evidence;
mod failure;
mod finding;
mod foreseen;
mod lock_forecasts;
mod locks;
mod stratum;
mod verdict;
mod watched;
mod weight;

pub use again::{Recurrence, Replays};
pub use boot::NoBoot;
pub use control::Control;
pub use coverage::{ChangedLine, Coverage, FileCoverage, SideCounts};
pub use early::Bet;
pub use finding::{Class, Count, Finding, SeenIn};
pub use foreseen::{ForecastOutcome, TriedForecast, TriedForecasts};
pub use lock_forecasts::Elsewhere;
pub use locks::{EdgeDiff, Extent, LockOrderDiff, LockOrders, OtherRuns, Reversal};
pub use stratum::{ScenarioTally, Tally};
pub(crate) use verdict::lacking;
pub use verdict::{Judge, Judgement, Verdict, worst_exit_status};
pub use weight::Weight;

//! Latency: turns the guests' traces into times of each boot, and judges whether the two kernels
//! differ. The module is pure.

mod judge;
mod lock_stat;
mod metric;
mod phase;
mod result;
mod spread;
mod trace;

pub use judge::{Timed, enough_boots};
pub use lock_stat::{LockTimes, lock_stat};
pub use metric::{FILE, TrialTimes, VictimTimes};
pub use phase::{CameOnline, Course, courses, traced};
pub use result::{Latency, MetricResult, MetricVerdict, PhaseResult, Stall, VictimResult};
pub use spread::{Spread, Times};
pub use trace::{Call, MalformedTrace, calls};

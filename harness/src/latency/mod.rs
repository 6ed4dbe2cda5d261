//! Latency: what the guests' traces say -> what each boot took -> whether the two kernels differ (pure).

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
pub use phase::{CameOnline, Course, TRACED, courses};
pub use result::{Latency, MetricResult, PhaseResult, Stall, Told, VictimResult};
pub use spread::{Spread, Times};
pub use trace::{Call, Odd, calls};

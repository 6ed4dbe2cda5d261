//! The lock order of a kernel: the pairs of locks of which one was taken while the other was held,
//! as lockdep recorded them.
//!
//! It is read from the memory of the stopped guest, not from `/proc/lockdep`. The kernel makes that
//! file by two searches of the whole graph for each class (`l_show` in
//! `kernel/locking/lockdep_proc.c`). This takes seconds under TCG, races with lockdep, and needs a
//! guest that still answers. The file also lacks the call path that made a dependency, and whether
//! a lock was taken for reading.
//!
//! ```text
//! vmlinux ─► Layout: addresses of the arrays, offsets of their members, symbols
//! memory ──► Dump: the bytes of the arrays ─► decode ─► LockOrder         (pure: hostile bytes)
//! all trials' ─► Union: k of n for each dependency ─► compare, forecast    (pure)
//! ```

mod conjecture;
mod decode;
mod forecast;
mod graph;
mod known;
mod layout;
mod union;

pub use conjecture::{Conjecture, conjectures};
pub use decode::{Dump, MalformedDump, read};
pub use forecast::{Danger, Forecast, PathStep, forecast};
pub use graph::{Edge, How, Irq, LockClass, LockOrder, Node, Usage, function_of, passes};
pub use known::Known;
pub use layout::{Layout, LayoutError};
pub use union::{Shown, SideEdge, SideUsage, TrialSet, Union};

use hotplug_side::Side;
use serde::{Deserialize, Serialize};

/// The name of the file in the folder of a trial or of a checkpoint.
pub const FILE: &str = "lock-order.json";

/// The lock order of one guest, and the time of reading it.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// Its lock order.
    pub order: LockOrder,
    /// The time that reading it took, in microseconds, from before the guest was stopped.
    pub microseconds: u64,
}

/// The lock order of one guest: the content of [`FILE`] in the folder of its last trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrialLocks {
    /// The kernel that the trial ran.
    pub side: Side,
    /// The trial's folder.
    pub folder: String,
    /// The reason why a dependency that the trial does not show may have occurred; null if lockdep
    /// recorded all of them.
    pub blind: Option<String>,
    /// Whether the trial began from a checkpoint. `order` then has only what came to that of the
    /// checkpoint.
    pub restored: bool,
    /// The time that reading it took, in microseconds, from before the guest was stopped.
    pub microseconds: u64,
    /// Its lock order; empty if it could not be read.
    pub order: LockOrder,
}

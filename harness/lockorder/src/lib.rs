//! Lock order: which lock a kernel took while it held which other, as its own lockdep has recorded it.
//!
//! It is read out of the stopped guest's memory, not from `/proc/lockdep`: that file is made by two searches of the whole
//! graph a class (`l_show` in kernel/locking/`lockdep_proc.c`), which takes seconds under TCG, races with lockdep, and needs a guest
//! that still answers; and it tells neither the call path that made a dependency nor whether it was taken for reading.
//!
//! ```text
//! vmlinux ─► Layout: where the arrays are, what their members are, what addresses mean
//! memory ──► Dump: their bytes ─► decode ─► LockOrder            (pure: hostile bytes)
//! all trials' ─► Union: k of n for each edge ─► compare, forecast (pure)
//! ```

mod decode;
mod forecast;
mod graph;
mod layout;
mod union;

pub use decode::{Dump, Odd, read};
pub use forecast::{Danger, Forecast, Step, forecast};
pub use graph::{Edge, How, Irq, LockClass, LockOrder, Node, Usage};
pub use layout::{Layout, LayoutError};
pub use union::{Shown, SideEdge, SideUsage, TrialSet, Union};

use hotplug_side::Side;
use serde::{Deserialize, Serialize};

/// Its name in the folder of a trial, and of a checkpoint.
pub const FILE: &str = "lock-order.json";

/// What was read of one guest.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// Its lock order.
    pub order: LockOrder,
    /// How long it took, from before the guest was stopped.
    pub microseconds: u64,
}

/// What one trial shows; [`FILE`] in its folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrialLocks {
    /// Which kernel.
    pub side: Side,
    /// The trial's folder.
    pub folder: String,
    /// Why what it does not show may have been there all the same; null where lockdep saw everything.
    pub blind: Option<String>,
    /// It began from a checkpoint, and `order` is what came to that one's.
    pub restored: bool,
    /// How long it took to read, from before the guest was stopped.
    pub microseconds: u64,
    /// Its lock order; empty where it could not be read.
    pub order: LockOrder,
}

//! Reach: which callbacks of memory and CPU hotplug a kernel has, which of them ran, and which its
//! source has beside them.
//!
//! ```text
//! vmlinux ─► CallbackLayout: addresses of the notifier chains and of the table of CPU states
//! memory  ─► Callbacks: what is registered in a guest          (hostile bytes: bounded, checked)
//! trace   ─► Runs: what was called, and how often
//! patch, lock order ─► LockingChange: the sections whose locks a change affects
//! source, vmlinux   ─► Absent: files that register callbacks and are not in the kernel
//!                      all of it ─► Reach                                         (pure)
//! ```

mod absent;
mod callbacks;
mod change;
mod layout;
mod result;
mod trace;

pub use absent::{Absent, absent};
pub use callbacks::{Callbacks, CpuState, Notifier, walk};
pub use change::LockingChange;
pub use layout::{CallbackLayout, Chain, in_source};
pub use result::{CallbackReach, FILE, Reach, StateReach, TrialCallbacks};
pub use trace::{
    NotifierRuns, PROBE_GROUP, Runs, StepRuns, TraceSetup, function_probe, notifier_probe, runs,
};

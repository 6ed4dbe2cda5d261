//! The guest's three voices: the agent, the kernel's records, the serial console.
//!
//! Whatever a guest says is hostile: lines, files and counts are bounded, and nothing of it is believed to be UTF-8.

mod agent;
mod capped;
mod kmsg;
mod log;
mod serial;

pub(crate) use agent::{LOCK_STAT, LOCKDEP_STATS};
pub(crate) use capped::Capped;
pub(crate) use serial::{TYPED, TYPED_EVERY};

pub use agent::{Agent, AgentError, LockdepStats};
pub use kmsg::Kmsg;
pub use log::kernel_log;
pub use serial::Serial;

//! The three output channels of a guest: the agent, the kernel's log records, and the serial
//! console.
//!
//! All input from a guest is hostile: lines, files and counts are bounded, and bytes are never
//! assumed to be UTF-8.

mod agent;
mod kmsg;
mod log;
mod serial;

pub(crate) use agent::{LOCK_STAT, LOCKDEP_STATS};
pub(crate) use serial::{TYPED, TYPED_EVERY};

pub use agent::{Agent, AgentError, LockdepStats};
pub use kmsg::Kmsg;
pub use log::kernel_log;
pub use serial::Serial;

//! `hotplug`: what a Linux kernel patch does to memory and CPU hotplug, shown under QEMU.
//!
//! One module a stage, in the order data flows; `docs/architecture.md` draws it.

pub mod analysis;
pub mod arch;
pub mod atlas;
pub mod bisect;
pub mod bytes;
mod capped;
pub mod compare;
pub mod comparison;
pub mod conclusion;
pub mod coverage;
pub mod device;
pub mod drawing;
pub mod environment;
pub mod error;
pub mod event_log;
pub mod events;
mod fault;
pub mod files;
pub mod fleet;
pub mod guest;
pub mod guest_clock;
pub mod history;
pub mod host;
pub mod image;
pub mod kernel;
pub mod known_bugs;
pub mod latency;
pub mod limits;
mod output;
pub mod overlap;
pub mod present;
pub mod process;
pub mod program_files;
pub mod prove;
pub mod reach;
pub mod record;
mod release;
pub mod rendezvous;
pub mod replay;
pub mod scan;
pub mod scenario;
pub mod series;
pub mod shrink;
pub mod spec;
pub mod text;
pub mod trial;
pub mod unavailable;
pub mod unpack;
pub mod vmm;

pub use error::{Error, ErrorKind, Result};

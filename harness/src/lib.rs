//! `hotplug`: what a Linux kernel patch does to memory and CPU hotplug, shown under QEMU.
//!
//! One module a stage, in the order data flows; `docs/architecture.md` draws it.

pub mod bisect;
pub mod bytes;
pub mod cli;
mod clocks;
pub mod compare;
pub mod coverage;
pub mod error;
pub mod fleet;
pub mod gdb;
pub mod guest;
pub mod history;
pub mod host;
pub mod image;
pub mod journal;
pub mod kernel;
pub mod kreport;
pub mod latch;
pub mod latency;
pub mod limits;
pub mod lockorder;
pub mod overlap;
pub mod present;
pub mod process;
pub mod prove;
pub mod qemu;
pub mod qmp;
pub mod record;
pub mod rendezvous;
pub mod scenario;
pub mod shrink;
pub mod side;
pub mod trial;
mod vmlinux;

pub use error::{Blame, Error, Result};

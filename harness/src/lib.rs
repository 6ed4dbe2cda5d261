//! `hotplug`: what a Linux kernel patch does to memory and CPU hotplug, shown under QEMU.
//!
//! One module a stage, in the order data flows; `docs/architecture.md` draws it.

pub mod cli;
pub mod error;
pub mod kreport;
pub mod process;

pub use error::{Blame, Error, Result};

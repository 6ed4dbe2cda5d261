//! QMP: one task owns the socket, and all other code uses a handle.
//!
//! The harness has its own transport, because an unknown event must not end the connection, and a
//! late reply must not end the process.

mod client;
pub mod commands;
pub mod hotplug;

pub use client::{MonitorLog, Qmp, QmpError};

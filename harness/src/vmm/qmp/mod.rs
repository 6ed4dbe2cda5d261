//! QMP: one task owns the socket, and everyone else holds a handle.
//!
//! The transport is ours, because an unknown event must not end the connection and a late reply must not end the process.

mod client;
pub mod commands;
pub mod hotplug;

pub use client::{MonitorLog, Qmp, QmpError};

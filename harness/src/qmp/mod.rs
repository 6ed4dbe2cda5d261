//! QMP: one task owns the socket, everyone else holds a handle. Types are the `qapi` crate's; its transport is not
//! used, because there an unknown event ends the connection and a late reply panics.

mod client;
pub mod hotplug;

pub use client::{Qmp, QmpError};

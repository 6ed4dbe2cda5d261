//! Races made on purpose: a task that comes to one place of the kernel is held there until another
//! task comes to a second place.
//!
//! A task is held where it can be interrupted: it is sent into a loop of the kernel's own code, so
//! its CPU still answers interrupts, and grace periods end. Where interrupts are off, and for
//! delays, a vCPU is held instead: QEMU's gdbstub lets only the other vCPUs run ([`crate::vmm::gdb`]).
//! The kernel is not changed. A vmlinux gives the addresses of the places ([`Places`]), and the
//! guest's memory shows which task waits for which lock during a hold ([`Tasks`]).

mod hold;
mod matrix;
mod places;
mod snapshot;
mod tasks;

pub use hold::{Hold, HoldOutcome, Task, Waiting};
pub use matrix::{Cell, MeetingCount, Race};
pub use places::{Loop, Places};
pub use snapshot::{LockSnapshot, TaskLock};
pub use tasks::{Members, Tasks};

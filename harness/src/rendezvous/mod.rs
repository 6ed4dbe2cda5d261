//! Races made on purpose: who comes to one place of the kernel is held there until another comes to a second.
//!
//! What is held is a task where it can be interrupted, by having it go round in a loop of the kernel's own code, so that its
//! CPU still answers interrupts and grace periods end; else, and for delays, it is a vCPU, while QEMU's gdbstub lets the others
//! run ([`crate::gdb`]). The kernel is not changed. A vmlinux says
//! where the places are ([`Places`]), the guest's memory who waits for which lock meanwhile ([`Tasks`]).

mod hold;
mod matrix;
mod places;
mod snapshot;
mod tasks;

pub use hold::{Hold, HoldOutcome, Task, Waiting};
pub use matrix::{Cell, Count, Race};
pub use places::{Loop, Places};
pub use snapshot::{Lock, Snapshot};
pub use tasks::{Members, Tasks};

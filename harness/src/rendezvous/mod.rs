//! Races made on purpose: who comes to one place of the kernel is held there until another comes to a second.
//!
//! What is held is a vCPU: QEMU's gdbstub lets the others run ([`crate::gdb`]), and the kernel is not changed. A vmlinux says
//! where the places are ([`Places`]), the guest's memory who waits for which lock meanwhile ([`Tasks`]).

mod hold;
mod matrix;
mod places;
mod tasks;

pub use hold::{Hold, Outcome, Task, Waiting};
pub use matrix::{Cell, Count, Race};
pub use places::{Held, Places};
pub use tasks::{Members, Snapshot, Tasks, Thread};

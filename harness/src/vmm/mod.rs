//! QEMU: its command line, which a pure function makes, the files that it inherits, its process,
//! its monitor, its typed events, and its gdbstub.

mod command_line;
mod core;
mod event;
mod files;
pub mod gdb;
mod identity;
mod process;
pub mod qmp;
mod sandbox;
mod vcpus;

pub use command_line::{LaunchMode, LaunchOptions, command_line, shell_word, shell_words, with_own_kvm};
pub use event::{AcknowledgedRequest, AcknowledgedSlot, AcknowledgedStatus, Acknowledgement, VmmEvent};
pub use files::{Inherited, Scratch, Sealed};
pub use identity::Identity;
pub use process::{Ended, QemuProcess, Streams};
pub use sandbox::has_sandbox;
pub use vcpus::most_rounds;

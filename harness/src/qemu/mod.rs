//! QEMU: its command line, made by a pure function, the files it is handed, and its process, which tells how it ended.

mod command_line;
mod core;
mod files;
mod identity;
mod machine;
mod sandbox;

pub use command_line::{LaunchMode, LaunchOptions, Platform, command_line, shell_word, shell_words};
pub use files::{Inherited, Scratch, Sealed};
pub use identity::Identity;
pub use machine::{Ended, QemuProcess, Streams};
pub use sandbox::has_sandbox;

//! QEMU: its command line, made by a pure function, and its process, which tells how it ended.

mod command_line;
mod machine;
mod private;
mod sandbox;

pub use command_line::{Boot, Channels, Platform, command_line};
pub use machine::{Ended, Machine, Streams};
pub use private::{Identity, PrivateFolder};
pub use sandbox::has_sandbox;

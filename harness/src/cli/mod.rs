//! The command line: one file a subcommand, each with its options and what it prints.

pub mod kernel;
pub mod scan;
mod scan_out;

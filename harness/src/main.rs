//! The binary: parses the command line, sets up tracing, maps errors to exit codes. All else is in the library.
fn main() {}

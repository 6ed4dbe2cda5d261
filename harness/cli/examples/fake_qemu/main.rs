//! A fake QEMU, for tests only. It runs no guest, and prints what QEMU and a guest would print. So
//! a test can have QEMU or the guest fail at any moment, and a thousand trials take seconds.
//! [`fault`] defines how it fails, and [`script`] how its kernel does.

mod agent;
mod fault;
mod guest;
mod monitor;
mod script;

use std::io::{self, BufRead, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use fault::Fault;
use guest::Guest;
use script::Script;

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake_qemu: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> io::Result<()> {
    let has = |option: &str, value: &str| arguments.windows(2).any(|pair| pair == [option, value]);
    if arguments.iter().any(|word| word == "--version") {
        return writeln!(io::stdout(), "QEMU emulator version 10.0.2 (fake)");
    }
    if has("-monitor", "stdio") {
        let quit = |line: io::Result<String>| line.is_ok_and(|line| line == "quit");
        return if io::stdin().lock().lines().any(quit) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        };
    }
    if has("-serial", "stdio") {
        // The stages that the boot sector of the probe prints.
        io::stdout().write_all(b"RPLD")?;
        io::stdout().flush()?;
        forever()
    }
    let fault = Fault::chosen()?;
    // The file numbers are those of harness/src/qemu/files.rs.
    let [monitor, serial, agent, kmsg] = [20, 21, 22, 23].map(inherited);
    let guest = Arc::new(Guest::new(arguments, fault, Script::read()?, [&monitor, &serial, &agent, &kmsg])?);
    let answering = guest.clone();
    std::thread::spawn(move || agent::serve(&answering, agent));
    monitor::serve(&guest, monitor)?;
    // QEMU does not end when the connection of its monitor closes.
    forever()
}

/// Waits until the process is killed.
fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

#[expect(unsafe_code, reason = "an inherited socket has no name to open it by")]
fn inherited(number: RawFd) -> UnixStream {
    // SAFETY: nothing else in this process uses the number, and each number is taken once.
    unsafe { UnixStream::from_raw_fd(number) }
}

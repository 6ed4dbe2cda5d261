//! The binary: parses the command line, sets up tracing, maps errors to exit codes. All else is in the library.

use std::process::ExitCode;

use clap::Parser;
use hotplug::cli::doctor;
use tokio_util::sync::CancellationToken;

/// Show what a Linux kernel patch does to memory and CPU hotplug.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    Doctor(doctor::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Doctor(args) = Command::parse();
    let cancel = CancellationToken::new();
    let on_interrupt = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_interrupt.cancel();
        }
    });
    match doctor::run(args, cancel).await {
        Ok(status) => status.into(),
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "error: {error}");
            error.exit_status().into()
        }
    }
}

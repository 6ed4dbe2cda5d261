//! The binary: parses the command line, sets up tracing, maps errors to exit codes. All else is in the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hotplug::cli::kernel::{self, KernelCommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Shows what a Linux kernel patch does to memory and CPU hotplug.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build kernel pairs, and look after those that were built.
    #[command(subcommand)]
    Kernel(KernelCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("HOTPLUG_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let cancel = CancellationToken::new();
    match run(&cli, &cancel).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit status still tells.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("hotplug: {error}\n"));
            ExitCode::from(error.exit_status())
        }
    }
}

async fn run(cli: &Cli, cancel: &CancellationToken) -> hotplug::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    match &cli.command {
        Command::Kernel(command) => kernel::run(command, &mut std::io::stdout().lock(), cancel).await,
    }
}

//! The command line: one file a subcommand, each with its options and what it prints.

pub mod compare;
pub mod comparison;
mod control;
mod counted;
pub mod coverage;
pub mod doctor;
mod ground;
pub mod kernel;
mod lock_order;
pub mod locks;
pub mod prove;
pub mod replay;
mod rerun;
pub mod scan;
mod scan_out;
pub mod shrink;
mod shrink_bench;

use std::path::Path;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::kreport::KnownIssues;
use crate::{Error, Result};

/// Shows what a Linux kernel patch does to memory and CPU hotplug.
#[derive(Debug, Parser)]
#[command(name = "hotplug", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot the kernels before and after a patch, plug and unplug, and judge.
    Compare(comparison::CompareArgs),
    /// Say which of the lines and functions that a patch changes ran, how often, and in which operations.
    Coverage(coverage::CoverageArgs),
    /// Say what this machine has and lacks, and mend it.
    Doctor(doctor::Args),
    /// Build kernel pairs, and look after those that were built.
    #[command(subcommand)]
    Kernel(kernel::KernelCommand),
    /// Say what a patch changed in the lock order, and which deadlocks that allows.
    Locks(locks::LocksArgs),
    /// Try known bugs, and say which are found.
    Prove(prove::ProveArgs),
    /// Run recorded trials again, and say how often their findings come again.
    Replay(replay::ReplayArgs),
    /// Read any kernel log and name, sign and explain its reports.
    Scan(scan::ScanArgs),
    /// From a recorded trial, find the smallest scenario that still gives its report.
    Shrink(shrink::ShrinkArgs),
}

/// Runs a command; the exit status on success.
pub async fn run(cli: Cli, cancel: &CancellationToken) -> Result<u8> {
    let mut out = std::io::stdout();
    match cli.command {
        Command::Compare(args) => compare::run(&args, &mut out, cancel).await,
        Command::Coverage(args) => coverage::run(&args, &mut out),
        Command::Doctor(args) => doctor::run(args, cancel.clone()).await,
        Command::Kernel(command) => kernel::run(&command, &mut out, cancel).await.map(|()| 0),
        Command::Locks(args) => locks::run(&args, &mut out),
        Command::Prove(args) => Box::pin(prove::run(&args, &mut out, cancel)).await,
        Command::Replay(args) => replay::run(&args, &mut out, cancel).await,
        Command::Shrink(args) => Box::pin(shrink::run(&args, &mut out, cancel)).await,
        // Reads files only, as fast as it can: nothing to wait for.
        Command::Scan(args) => scan::run(&args, &mut out),
    }
}

/// Reads the file of known issues that `--known` names, if it names one. Today's date decides what has expired.
fn known_issues(file: Option<&Path>) -> Result<KnownIssues> {
    let Some(file) = file else { return Ok(KnownIssues::default()) };
    let text = fs_err::read_to_string(file).map_err(|error| {
        Error::user(format!("cannot read the known issues: {error}")).mend("check the path given to --known")
    })?;
    KnownIssues::parse(&file.display().to_string(), &text, jiff::ZonedDateTime::now().date())
}

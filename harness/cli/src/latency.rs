//! `hotplug latency`: the times of a run's timed functions, boot by boot.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::results::ResultsArgs;
use hotplug::analysis::latency;
use hotplug::{Error, Result};

/// Options of `hotplug latency`.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  hotplug latency last
  hotplug latency diff results/2026-11-26T15-33-29-v1.patch last"
)]
pub struct LatencyArgs {
    /// Folder of a comparison, the beginning of its name below results/, or `last`
    #[arg(value_name = "RESULT", required = true)]
    pub result: Option<PathBuf>,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
    /// The subcommand, if one is given.
    #[command(subcommand)]
    pub command: Option<LatencyCommand>,
}

/// Subcommands on two runs.
#[derive(Debug, Clone, Subcommand)]
pub enum LatencyCommand {
    /// Compare the after kernels of two runs, such as a patch and its next version. Both runs must
    /// come from one machine and one clock
    Diff {
        /// The first comparison
        #[arg(value_name = "RESULT")]
        before: PathBuf,
        /// The second comparison
        #[arg(value_name = "RESULT")]
        after: PathBuf,
    },
}

/// Prints to `out`. Returns the exit status.
pub fn run(args: &LatencyArgs, out: &mut dyn Write) -> Result<u8> {
    let latency = match (&args.command, &args.result) {
        (Some(LatencyCommand::Diff { before, after }), _) => {
            latency::diff(&args.at.found(before)?, &args.at.found(after)?)?
        }
        (None, Some(folder)) => latency::of_run(&args.at.found(folder)?)?.0,
        (None, None) => return Err(Error::user("no run is named").help("hotplug latency results/RUN")),
    };
    out.write_all(latency::full(&latency).as_bytes())?;
    Ok(0)
}

//! `hotplug coverage`: which changed lines and functions ran in a run's counted trials.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::results::ResultsArgs;
use hotplug::analysis::coverage;
use hotplug::record::read_result;
use hotplug::{Error, Result};

/// Options of `hotplug coverage`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: hotplug coverage last")]
pub struct CoverageArgs {
    /// Folder of a comparison, the beginning of its name below results/, or `last`
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
}

/// Prints to `out`. Returns the exit status.
pub fn run(args: &CoverageArgs, out: &mut dyn Write) -> Result<u8> {
    let coverage = read_result(&args.at.found(&args.result)?)?.coverage.ok_or_else(|| {
        Error::user(format!("{} has no coverage result", args.result.display())).help(
            "name a comparison of two different kernels; a control and hotplug prove do not measure coverage",
        )
    })?;
    out.write_all(coverage::full(&coverage).as_bytes())?;
    Ok(0)
}

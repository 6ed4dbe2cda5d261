//! `hotplug reach`: which callbacks of hotplug ran in a comparison, and which its silence does not
//! cover.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::results::ResultsArgs;
use hotplug::analysis::reach;
use hotplug::record::read_result;
use hotplug::{Error, Result};

/// Options of `hotplug reach`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: hotplug reach last")]
pub struct ReachArgs {
    /// Folder of a comparison, the beginning of its name below results/, or `last`
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
}

/// Prints to `out`. Returns the exit status.
pub fn run(args: &ReachArgs, out: &mut dyn Write) -> Result<u8> {
    let result = read_result(&args.at.found(&args.result)?)?;
    let reach = result.reach.as_ref().ok_or_else(|| {
        Error::user(format!("{} has no reach", args.result.display()))
            .help("run the comparison again, without --no-reach")
    })?;
    out.write_all(reach::full(reach).as_bytes())?;
    Ok(0)
}

//! `hotplug overlap`: which critical sections overlapped in a run's traced trials, and which held
//! tasks met another one.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::results::ResultsArgs;
use hotplug::analysis::{overlap, race};
use hotplug::record::read_result;
use hotplug::{Error, Result};

/// Options of `hotplug overlap`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: hotplug overlap last")]
pub struct OverlapArgs {
    /// Folder of a comparison, the beginning of its name below results/, or `last`
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
}

/// Prints to `out`. Returns the exit status.
pub fn run(args: &OverlapArgs, out: &mut dyn Write) -> Result<u8> {
    let result = read_result(&args.at.found(&args.result)?)?;
    let told = [result.race.as_ref().map(race::full), result.overlap.as_ref().map(overlap::full)];
    let told: Vec<String> = told.into_iter().flatten().collect();
    if told.is_empty() {
        return Err(Error::user(format!("{} has no overlap result", args.result.display())).help(
            "run the comparison with --overlap, add an [overlap] table to its scenario, or use hotplug race",
        ));
    }
    out.write_all(told.join("\n").as_bytes())?;
    Ok(0)
}

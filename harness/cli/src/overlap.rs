//! `hotplug overlap`: what ran at the same time in a run's traced trials, and whom its held vCPUs met.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use hotplug::present::{overlap, race};
use hotplug::record::read_result;
use hotplug::{Error, Result};

/// Options of `hotplug overlap`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: hotplug overlap last")]
pub struct OverlapArgs {
    /// A comparison's folder
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
}

/// Prints to `out`; the exit status.
pub fn run(args: &OverlapArgs, out: &mut dyn Write) -> Result<u8> {
    let result = read_result(&super::found(&args.result)?)?;
    let told = [result.race.as_ref().map(race::full), result.overlap.as_ref().map(overlap::full)];
    let told: Vec<String> = told.into_iter().flatten().collect();
    if told.is_empty() {
        return Err(Error::user(format!("{} says nothing of overlaps", args.result.display()))
            .help("run it with --overlap, or give its scenario an [overlap] table; or take hotplug race"));
    }
    out.write_all(told.join("\n").as_bytes())?;
    Ok(0)
}

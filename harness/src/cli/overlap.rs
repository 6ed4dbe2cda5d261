//! `hotplug overlap`: what ran at the same time in a run's traced trials.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::present::overlap;
use crate::record::read_result;
use crate::{Error, Result};

/// Options of `hotplug overlap`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: hotplug overlap last")]
pub struct OverlapArgs {
    /// A comparison's folder
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
}

/// Prints to `out`; the exit status.
pub fn run(args: &OverlapArgs, out: &mut impl Write) -> Result<u8> {
    let told = read_result(&super::found(&args.result)?)?.overlap.ok_or_else(|| {
        Error::user(format!("{} says nothing of overlaps", args.result.display()))
            .mend("run it with --overlap, or give its scenario an [overlap] table")
    })?;
    out.write_all(overlap::full(&told).as_bytes())?;
    Ok(0)
}

//! `hotplug merge`: merges shards into one verdict over all their trials.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use hotplug::Result;
use hotplug::compare::{Verdict, worst_exit_status};
use hotplug::fleet::{Joined, MergedCell, join};
use hotplug::present::fleet as screen;
use hotplug::present::page;

/// Options of `hotplug merge`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug merge fleet/nightly-3fa9c1d2e8b4
  hotplug merge fleet/nightly-3fa9c1d2e8b4 downloads/shards-1 downloads/shards-2

Exit status: the worst of all combinations, in this order: 1 regressed; 4 nothing to judge; 3 inconclusive, or shards \
are missing; 0 unchanged or fixed.")]
pub struct MergeArgs {
    /// Folder of the plan
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// Further folders with shards, each of them in a folder named by its id
    #[arg(value_name = "SHARDS")]
    pub shards: Vec<PathBuf>,
}

/// Merges the shards that are present, prints which are missing, and writes a result for each
/// combination.
pub fn run(args: &MergeArgs, out: &mut dyn Write) -> Result<u8> {
    let Joined { plan, folder, cells, left } = join(&args.plan, &args.shards)?;
    for (to, cell) in &cells {
        if let Some(result) = &cell.result {
            page::write(to, result)?;
        }
    }
    let cells: Vec<MergedCell> = cells.into_iter().map(|(_, cell)| cell).collect();
    out.write_all(screen::merged(&plan, &cells, &left, &folder).as_bytes())?;
    Ok(exit_status(&cells))
}

fn exit_status(cells: &[MergedCell]) -> u8 {
    let of = |cell: &MergedCell| match &cell.result {
        None => 3,
        Some(result) => result.verdict.map_or(4, Verdict::exit_status),
    };
    let partial = cells.iter().any(|cell| cell.shards.0 < cell.shards.1);
    let worst = worst_exit_status(cells.iter().map(of));
    if worst == 0 && partial { 3 } else { worst }
}

//! `hotplug plan`: expands a matrix into shards.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::kernel::cache_path;
use hotplug::fleet::{Matrix, Plan};
use hotplug::kernel::Cache;
use hotplug::present::fleet as screen;
use hotplug::{Error, Result};

/// Options of `hotplug plan`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug plan nightly.toml
  hotplug plan --most 2000000 --out /shared/fleet nightly.toml

Exit status: 0 the plan was made; 2 user error, or too many trials without a confirmation.")]
pub struct PlanArgs {
    /// Matrix, a TOML file
    #[arg(value_name = "MATRIX")]
    pub matrix: PathBuf,
    /// Folder for the plan's folder; all machines that work on the plan need access to it
    #[arg(long, value_name = "DIR", default_value = "fleet")]
    pub out: PathBuf,
    /// Ask before a plan of more than N trials, both sides together
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub most: u64,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
    /// Kernel cache, which also records the content of the sources [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Makes the plan, and prints a summary of it to `out`.
pub async fn run(args: &PlanArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let matrix = Matrix::read(&args.matrix)?;
    let trials = matrix.all_trials();
    if trials > args.most && !args.yes && !agreed(&matrix, args.most)? {
        let what = format!("{} makes {trials} trials, more than {}", args.matrix.display(), args.most);
        return Err(Error::user(what).help("reduce the trials, seeds or kernels, or use --yes"));
    }
    let cache = Cache::open(cache_path(args.cache.as_deref())?)?;
    let (plan, folder) = Plan::make(&matrix, &args.out, &cache, cancel).await?;
    out.write_all(screen::plan(&plan, &folder).as_bytes())?;
    Ok(0)
}

/// Asks on the terminal whether to make so large a plan. Without a terminal the answer is no.
fn agreed(matrix: &Matrix, most: u64) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!(
        "{} combinations, {} trials, which is more than {most}. Make the plan? [y/N] ",
        matrix.combinations(),
        matrix.all_trials()
    );
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

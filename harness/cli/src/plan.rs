//! `hotplug plan`: a matrix expanded to shards.

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

Exit status: 0 the plan is there; 2 your mistake, or too many trials and nobody said yes.")]
pub struct PlanArgs {
    /// The matrix, a TOML file
    #[arg(value_name = "MATRIX")]
    pub matrix: PathBuf,
    /// Where the plan's folder goes; whoever works on it must see it
    #[arg(long, value_name = "DIR", default_value = "fleet")]
    pub out: PathBuf,
    /// Ask before a plan of more trials, both sides together
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub most: u64,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Kernel cache, where what is known of a source's files is kept [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Makes the plan, says what it is on `out`.
pub async fn run(args: &PlanArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let matrix = Matrix::read(&args.matrix)?;
    let trials = matrix.all_trials();
    if trials > args.most && !args.yes && !agreed(&matrix, args.most)? {
        let what = format!("{} makes {trials} trials, more than {}", args.matrix.display(), args.most);
        return Err(Error::user(what).help("fewer trials, seeds or kernels; or --yes"));
    }
    let cache = Cache::open(cache_path(args.cache.as_deref())?)?;
    let (plan, folder) = Plan::make(&matrix, &args.out, &cache, cancel).await?;
    out.write_all(screen::plan(&plan, &folder).as_bytes())?;
    Ok(0)
}

/// Whether whoever sits at the terminal wants so many; nobody does where nobody sits.
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

//! `hotplug submit --slurm`: submits a plan as job arrays of Slurm, which does all scheduling.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use hotplug::Result;
use hotplug::fleet::{SlurmSpec, submit_to_slurm};
use tokio_util::sync::CancellationToken;

/// Options of `hotplug submit`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug submit --slurm /shared/fleet/nightly-3fa9c1d2e8b4
  hotplug submit --slurm --dry-run --cpus 8 --at-once 40 --sbatch=--partition=long fleet/nightly-3fa9c1d2e8b4

Exit status: 0 Slurm accepted the jobs; 2 user error; 4 Slurm did not accept them.")]
pub struct SubmitArgs {
    /// Folder of the plan, under the path that all nodes share
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// Submit to Slurm, with sbatch
    #[arg(long, required = true)]
    pub slurm: bool,
    /// Print the commands, and submit nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Processors of each shard, which is also the number of its guests at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: u32,
    /// Memory of each shard, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub memory: u64,
    /// Maximum number of shards that run at once [default: as many as Slurm has room for]
    #[arg(long, value_name = "N")]
    pub at_once: Option<u32>,
    /// Kernel cache, under a path that all nodes share [default: kernels/ in the plan's folder]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Additional option of sbatch for each job; can be given several times
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub sbatch: Vec<String>,
}

/// Submits the plan. Prints what was submitted to `out`.
pub async fn run(args: &SubmitArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let spec = SlurmSpec {
        plan: args.plan.clone(),
        dry_run: args.dry_run,
        cpus: args.cpus,
        memory: args.memory,
        at_once: args.at_once,
        cache: args.cache.clone(),
        sbatch: args.sbatch.clone(),
    };
    let hotplug = std::env::current_exe()?;
    submit_to_slurm(&spec, &hotplug, cancel, |text| Ok(out.write_all(text.as_bytes())?)).await?;
    Ok(0)
}

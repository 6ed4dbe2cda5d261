//! `hotplug work`: runs one shard of a plan.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::replay::RerunArgs;
use super::with_env;
use hotplug::Result;
use hotplug::fleet::{Worked, build_kernels, work};
use hotplug::present::fleet as screen;

/// Options of `hotplug work`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug work fleet/nightly-3fa9c1d2e8b4 17
  hotplug work fleet/nightly-3fa9c1d2e8b4 9c1f22ab03d4e5f6 --workers 8
  hotplug work fleet/nightly-3fa9c1d2e8b4 --build 0

Exit status: 0 the shard is done, whatever its trials showed; 2 user error; 4 infrastructure, run the command again \
to continue; 130 interrupted.")]
pub struct WorkArgs {
    /// Folder of the plan
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// Shard: its number, from 0, or the beginning of its id
    #[arg(value_name = "SHARD", required_unless_present = "build", conflicts_with = "build")]
    pub shard: Option<String>,
    /// Only build the pair of kernels with this number, from 0, so that shards find it in the cache
    #[arg(long, value_name = "N")]
    pub build: Option<usize>,
    /// Keep the files of clean trials, too
    #[arg(long)]
    pub keep: bool,
    /// Options for the trials; results go into the plan's folder.
    #[command(flatten)]
    pub how: RerunArgs,
}

/// Runs the shard, or builds. Prints the outcome to `out`.
pub async fn run(args: &WorkArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let cache = args.how.open_cache()?;
    with_env(&cache, false, cancel, async |env| {
        if let Some(number) = args.build {
            let built = build_kernels(&args.plan, number, env).await?;
            writeln!(out, "built     {} and {}", built.before.id.as_str(), built.after.id.as_str())?;
            return Ok(0);
        }
        let asked = args.shard.as_deref().unwrap_or_default();
        let Worked { cell, shard, was_done } =
            work(&args.plan, asked, args.keep, &args.how.spec(), env).await?;
        let done = if was_done { "was done before" } else { "done" };
        out.write_all(screen::shard(&cell, &shard, done).as_bytes())?;
        Ok(0)
    })
    .await
}

//! `hotplug series`: judges every patch of a series, each on top of those before it.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::bisect::LineupArgs;
use super::with_env;
use hotplug::kernel::{PairSpec, Wish, understood};
use hotplug::present::series as screen;
use hotplug::series::{Judging, SeriesSpec, judge};
use hotplug::{Error, Result};

/// Options of `hotplug series`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug series my-series.mbox
  hotplug series --source linux-source-6.12 --scenario scenarios/block-against-cpu.toml my-series/
  hotplug series --bisect long-series.mbox

Exit status: 0 every patch is unchanged or fixed; 1 a patch brings a regression, or has no kernel that boots; \
2 user error; 3 inconclusive; 4 infrastructure; 130 interrupted.")]
pub struct SeriesArgs {
    /// Series: an mbox, a folder with patches, patch files in their order, `-`, a message id or a
    /// link to lore.kernel.org
    #[arg(value_name = "PATCH", required = true)]
    pub patches: Vec<PathBuf>,
    /// Judge the whole series first, then bisect it for the patch that brings each new report
    #[arg(long)]
    pub bisect: bool,
    /// Kernel source: linux-source-6.1, a tarball, a folder, or repository@revision
    /// [default: the kernel tree in which hotplug is started, or linux-source-6.1, or the newest
    /// installed]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Trials a side of each patch [default: the scenario's number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: Option<u32>,
    /// Options that all kernels and trials share.
    #[command(flatten)]
    pub all: LineupArgs,
}

/// Judges the series. Prints a row to `out` as each patch ends. Returns the exit status.
pub async fn run(args: &SeriesArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let asked = PairSpec {
        patches: args.patches.clone(),
        base_patches: args.all.base_patch.clone(),
        source: args.source.clone(),
        ..PairSpec::default()
    };
    let (asked, _files) = understood(asked, Wish::Any, &std::env::current_dir()?, cancel).await?;
    if asked.patches.is_empty() {
        return Err(Error::user("a series needs patches").help("git format-patch A..B writes them"));
    }
    for note in &asked.notes {
        eprintln!("note      {note}");
    }
    let spec = SeriesSpec {
        patches: asked.patches,
        bisect: args.bisect,
        source: asked.source,
        trials: args.trials,
        all: args.all.spec(),
    };
    let cache = args.all.how.open_cache()?;
    let (result, folder, stopped) = with_env(&cache, false, cancel, async |env| {
        let mut tell = |judging: Judging<'_>| {
            out.write_all(screen::judging(&judging).as_bytes())?;
            Ok(out.flush()?)
        };
        judge(&spec, env, &mut tell).await
    })
    .await?;
    out.write_all(screen::totals(&result, folder.path()).as_bytes())?;
    stopped.map_or(Ok(result.exit_status), Err)
}

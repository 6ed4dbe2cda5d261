//! `hotplug prove`: known bugs, and whether they are found.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::kernel::cache_path;
use super::with_env;
use hotplug::comparison::RunningSpec;
use hotplug::kernel::Cache;
use hotplug::present::prove as screen;
use hotplug::prove::{ProveSpec, Proving, prove};
use hotplug::{Result, host};

/// Options of `hotplug prove`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug prove --quick
  hotplug prove seed padata-lock-order
  hotplug prove --source linux-source-6.12

Exit status: 0 all was found, and nothing that is not there; 1 not so; 2 your mistake; 4 something could not be tried.")]
pub struct ProveArgs {
    /// Known bugs to try, by name [default: all]
    #[arg(value_name = "ENTRY")]
    pub entries: Vec<String>,
    /// Only a few of them, chosen for speed
    #[arg(long)]
    pub quick: bool,
    /// Trials a side of each scenario [default: as each entry's card says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: Option<u32>,
    /// Kernel source: linux-source-6.1, a tarball, a folder, or repository@revision [default: linux-source-6.1, else the newest installed]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Take the suite below DIR, laid out as the project's repository, instead of the one in this binary
    #[arg(long, value_name = "DIR")]
    pub suite: Option<PathBuf>,
    /// Compilations at once [default: number of processors]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Guests at once [default: number of processors, less where memory is short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// What all schedules are drawn from [default: a random one for each comparison]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// How guest code is run [default: auto, as was found out once since this machine booted; with this option it is found
    /// out anew]
    #[arg(long, value_name = "auto|kvm|tcg")]
    pub accel: Option<host::Choice>,
}

/// Runs the proof: a row on `out` as each entry ends, then the totals. Returns the exit status.
pub async fn run(args: &ProveArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let spec = ProveSpec {
        entries: args.entries.clone(),
        quick: args.quick,
        trials: args.trials,
        source: args.source.clone(),
        suite: args.suite.clone(),
        jobs: args.jobs,
        running: RunningSpec {
            workers: args.workers,
            seed: args.seed,
            results: args.results.clone(),
            accelerator: args.accel,
            ..RunningSpec::default()
        },
    };
    let cache = Cache::open(cache_path(args.cache.as_deref())?)?;
    let (result, folder, stopped) = with_env(&cache, false, cancel, async |env| {
        let mut tell = |proving: Proving<'_>| {
            out.write_all(screen::proving(&proving).as_bytes())?;
            Ok(out.flush()?)
        };
        prove(&spec, env, &mut tell).await
    })
    .await?;
    out.write_all(screen::totals(&result, folder.path()).as_bytes())?;
    stopped.map_or(Ok(result.exit_status), Err)
}

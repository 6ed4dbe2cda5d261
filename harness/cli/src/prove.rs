//! `hotplug prove`: tests hotplug on kernels with known bugs.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::compare::duration;
use super::kernel::cache_path;
use super::results::ResultsArgs;
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
  hotplug prove --blind

Exit status: 0 every bug was found, without a false report, or a blind proof has its figure; 1 a bug was not \
found, or there was a false report; 2 user error; 4 infrastructure: a bug could not be tried.")]
pub struct ProveArgs {
    /// Known bugs to try, by name [default: all]
    #[arg(value_name = "ENTRY")]
    pub entries: Vec<String>,
    /// Try only a few bugs, chosen for speed
    #[arg(long)]
    pub quick: bool,
    /// Judge each bug as if nothing were known of it: with the portfolio on wide kernels, until a
    /// regression is decided, but with trials for at most TIME [default: 3m]. A bug is found if a
    /// decided finding leads to it
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "3m", value_parser = duration, conflicts_with_all = ["quick", "trials"])]
    pub blind: Option<Duration>,
    /// Trials a side of each scenario [default: the number in the card of each bug]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: Option<u32>,
    /// Kernel source: linux-source-6.1, a tarball, a folder, or repository@revision
    /// [default: linux-source-6.1, else the newest installed]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Use the suite below DIR, laid out like the project's repository, instead of the built-in one
    #[arg(long, value_name = "DIR")]
    pub suite: Option<PathBuf>,
    /// Parallel compilations [default: number of processors]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Guests that run at once [default: number of processors, fewer if memory is short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Seed of all schedules [default: a random one for each comparison]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
    /// Accelerator of the guests; the option probes the machine again [default: auto, as probed
    /// once since the machine booted]
    #[arg(long, value_name = "auto|kvm|tcg")]
    pub accel: Option<host::Choice>,
}

/// Runs the proof. Prints a row to `out` as each entry ends, then the totals. Returns the exit
/// status.
pub async fn run(args: &ProveArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let spec = ProveSpec {
        entries: args.entries.clone(),
        quick: args.quick,
        blind: args.blind.map(|time| time.as_secs_f64()),
        trials: args.trials,
        source: args.source.clone(),
        suite: args.suite.clone(),
        jobs: args.jobs,
        running: RunningSpec {
            workers: args.workers,
            seed: args.seed,
            results: args.at.results.clone(),
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

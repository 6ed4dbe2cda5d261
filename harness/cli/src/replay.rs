//! `hotplug replay`: runs recorded trials again, and counts how often their findings come again.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::kernel::cache_path;
use super::results::ResultsArgs;
use super::with_env;
use hotplug::Result;
use hotplug::host;
use hotplug::kernel::Cache;
use hotplug::present::replay as present;
use hotplug::replay::{ReplaySpec, replay};
use hotplug::spec::RunningSpec;

/// Options for trials of a run that is already recorded or planned.
#[derive(Debug, Clone, Args)]
pub struct RerunArgs {
    /// Boot for each trial instead of restoring a checkpoint
    #[arg(long)]
    pub cold: bool,
    /// Guests that run at once [default: number of processors, fewer if memory is short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
    /// Accelerator of the guests; the option probes the machine again [default: auto, as probed
    /// once since the machine booted]
    #[arg(long, value_name = "auto|kvm|tcg")]
    pub accel: Option<host::Choice>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl RerunArgs {
    /// The specification of the trials.
    pub(super) fn spec(&self) -> RunningSpec {
        RunningSpec {
            cold: self.cold,
            workers: self.workers,
            results: self.at.results.clone(),
            accelerator: self.accel,
            ..RunningSpec::default()
        }
    }

    /// The cache that these options name.
    pub(super) fn open_cache(&self) -> Result<Cache> {
        Cache::open(cache_path(self.cache.as_deref())?)
    }
}

/// Options of `hotplug replay`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug replay last
  hotplug replay last/trials/after-003 --times 40

Exit status: 0 every finding came again at least once; 1 some finding never did; 2 user error; 4 infrastructure; \
130 interrupted.")]
pub struct ReplayArgs {
    /// Folder of a trial, such as results/RUN/trials/after-003, or of a run, for the example trial
    /// of each of its findings
    #[arg(value_name = "RESULT[/TRIAL]")]
    pub recorded: PathBuf,
    /// Number of replays of each trial
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub times: u32,
    /// Options for the trials.
    #[command(flatten)]
    pub how: RerunArgs,
}

/// Replays, prints the screen to `out`, and returns the exit status.
pub async fn run(args: &ReplayArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let spec = ReplaySpec {
        recorded: args.how.at.found(&args.recorded)?,
        times: args.times,
        running: args.how.spec(),
    };
    let cache = args.how.open_cache()?;
    let (result, folder, stopped) =
        with_env(&cache, false, cancel, async |env| replay(&spec, env).await).await?;
    out.write_all(present::screen(&result, folder.path()).as_bytes())?;
    stopped.map_or(Ok(result.exit_status), Err)
}

//! `hotplug replay`: runs recorded trials again, and counts how often their findings come again.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::running::RerunArgs;
use super::with_env;
use hotplug::Result;
use hotplug::present::replay as present;
use hotplug::replay::{ReplaySpec, replay};

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
    let spec =
        ReplaySpec { recorded: super::found(&args.recorded)?, times: args.times, running: args.how.spec() };
    let cache = args.how.open_cache()?;
    let (result, folder, stopped) =
        with_env(&cache, false, cancel, async |env| replay(&spec, env).await).await?;
    out.write_all(present::screen(&result, folder.path()).as_bytes())?;
    stopped.map_or(Ok(result.exit_status), Err)
}

//! `hotplug replay`: recorded trials once more, and how often their findings come again.

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

Exit status: 0 every finding came again at least once; 1 some finding never did; 2 your mistake; 4 infrastructure; \
130 interrupted.")]
pub struct ReplayArgs {
    /// A trial's folder, such as results/RUN/trials/after-003; or a run's: the example trial of each of its findings
    #[arg(value_name = "RESULT[/TRIAL]")]
    pub recorded: PathBuf,
    /// How often each trial is run
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub times: u32,
    /// How they are run.
    #[command(flatten)]
    pub how: RerunArgs,
}

/// Replays, prints the screen to `out`, returns the exit status.
pub async fn run(args: &ReplayArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let spec =
        ReplaySpec { recorded: super::found(&args.recorded)?, times: args.times, running: args.how.spec() };
    let cache = args.how.open_cache()?;
    let (result, folder, stopped) =
        with_env(&cache, false, cancel, async |env| replay(&spec, env).await).await?;
    out.write_all(present::screen(&result, folder.path()).as_bytes())?;
    stopped.map_or(Ok(result.exit_status), Err)
}

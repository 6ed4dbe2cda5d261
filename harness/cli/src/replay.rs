//! `hotplug replay`: runs recorded trials again, and counts how often their findings come again.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::kernel::cache_path;
use super::results::ResultsArgs;
use super::{console, with_env, with_listener};
use hotplug::Result;
use hotplug::events::RunEvent;
use hotplug::host;
use hotplug::kernel::Cache;
use hotplug::present::replay as present;
use hotplug::replay::{ReplaySpec, replay};
use hotplug::spec::RunningSpec;
use hotplug::trial::HandOverKind;

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
  hotplug replay last/trials/after-003 --shell
  hotplug replay last/trials/after-003 --gdb

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
    /// Replay once, and leave a shell on the guest's console at the end. This needs busybox-static
    #[arg(long, conflicts_with_all = ["times", "gdb"])]
    pub shell: bool,
    /// Replay once, and open QEMU's gdbstub at the end. A guest that panicked is stopped there
    #[arg(long, conflicts_with = "times")]
    pub gdb: bool,
    /// Keep a vmcore of the first N replays that panic or hang, for crash
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub vmcore: Option<u32>,
    /// Options for the trials.
    #[command(flatten)]
    pub how: RerunArgs,
}

/// Replays, prints the screen to `out`, and returns the exit status.
pub async fn run(args: &ReplayArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let wanted = if args.shell { Some(HandOverKind::Shell) } else { args.gdb.then_some(HandOverKind::Gdb) };
    let running = args.how.spec();
    let (hand_over, printing) = wanted.map(console::user).unzip();
    let spec = ReplaySpec {
        recorded: args.how.at.found(&args.recorded)?,
        times: if wanted.is_some() { 1 } else { args.times },
        running: RunningSpec { vmcores: args.vmcore.unwrap_or(0), ..running },
        hand_over,
    };
    let cache = args.how.open_cache()?;
    let is_handed_over = wanted.is_some();
    let run = async |env: &hotplug::environment::Env<'_>| replay(spec, env).await;
    let (result, folder, stopped) = if is_handed_over {
        // A bar would be drawn over the guest's console.
        let notes = |event: &RunEvent<'_>| {
            if let RunEvent::Note { label, text } = event {
                eprintln!("{label:<10}{text}");
            }
        };
        let ran = with_listener(&cache, &notes, cancel, run).await;
        if let Some(printing) = printing {
            // The screen comes after what the guest printed.
            let _ = printing.await;
        }
        ran?
    } else {
        with_env(&cache, false, cancel, run).await?
    };
    out.write_all(present::screen(&result, folder.path()).as_bytes())?;
    stopped.map_or(Ok(result.exit_status), Err)
}

//! `hotplug compare`: from a patch to a verdict.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::comparison::{Finished, finish};
use super::kernel::PairArgs;
use super::ready::{Audience, prepare};
use super::running::RunningArgs;
use super::{history, page};
use crate::Result;
use crate::kernel::KernelPair;
use crate::present::{stream, terminal};
use crate::scenario::Sweep;

/// Options of `hotplug compare`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "\
Examples:
  hotplug compare my.patch
  hotplug compare --source ~/src/linux --before v6.12 --after my-branch
  hotplug compare --scenario scenarios/random-soup.toml --for 30m my-series/
  hotplug compare --exact --scenario scenarios/latency.toml my.patch
  hotplug compare --continue last --trials 50

Exit status: 0 unchanged or fixed; 1 regressed; 2 your mistake; 3 inconclusive; 4 infrastructure; 130 interrupted.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct CompareArgs {
    /// The two kernels.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Go on with the run in this folder: trials that ended count, those that were cut off are run again
    #[arg(
        long = "continue",
        value_name = "RESULT",
        conflicts_with_all = [
            "patches", "source", "before", "after", "before_image", "after_image", "config", "no_default_config",
            "jobs", "scenario", "time", "until_report", "until_seen", "until_decided", "cold", "seed", "results", "accel"
        ]
    )]
    pub resume: Option<PathBuf>,
    /// Scenario file [default: dimm-and-cpu, which is built in]
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// A sweep that the scenario is given: of `hotplug race`.
    #[arg(skip)]
    pub sweep: Option<Sweep>,
    /// Number of the first trial; `trials` is that behind the last: of a shard.
    #[arg(skip)]
    pub first: u32,
    /// The kernels, where they are there already: of a shard.
    #[arg(skip)]
    pub kernels: Option<Box<KernelPair>>,
    /// Trials a side [default: the scenario's; with --for or --until-report as many as it takes; with --continue the
    /// run's, of which there can be more]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: Option<u32>,
    /// Begin no trial after this time, such as 90s, 10m or 8h
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// Begin no trial after the first report, or other finding, that is not known
    #[arg(long)]
    pub until_report: bool,
    /// Begin no trial after a report that is called so: by how its signature begins, or a part of its title, its key or the
    /// text of a WARN
    #[arg(long, value_name = "WORDS")]
    pub until_seen: Option<String>,
    /// Begin no trial once the verdict cannot change: a regression that the trials still planned could not undo
    #[arg(long, conflicts_with = "time")]
    pub until_decided: bool,
    /// Do without the control: planted bugs in the before kernel, which are looked for in a trial of their own
    #[arg(long)]
    pub no_control: bool,
    /// Do without two more kernels that count which of the changed lines ran
    #[arg(long)]
    pub no_coverage: bool,
    /// Say what ran at the same time, also of a scenario that does not ask for it: two more kernels, which trace their calls
    #[arg(long)]
    pub overlap: bool,
    /// Do without them where the scenario asks for it
    #[arg(long, conflicts_with = "overlap")]
    pub no_overlap: bool,
    /// Do without timing the functions that the scenario names for it
    #[arg(long)]
    pub no_latency: bool,
    /// Time by a count of the guest's instructions, which no other work on the machine disturbs; under TCG, and without
    /// contention of processors
    #[arg(long, conflicts_with_all = ["no_latency", "resume"])]
    pub exact: bool,
    /// Boots of each kernel that are timed [default: the scenario's, or as many as the clock needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..), conflicts_with_all = ["no_latency", "resume"])]
    pub boots: Option<u32>,
    /// Time kernels too whose trials report, and say so
    #[arg(long)]
    pub latency_despite_reports: bool,
    /// How trials run.
    #[command(flatten)]
    pub running: RunningArgs,
}

/// What is asked beside the judged trials.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked by itself")]
pub(super) struct Asked {
    /// What differs in the lock order, what of the change ran, and at the same time: nobody asks in a control and among
    /// known bugs.
    pub(super) whole: bool,
    /// Which of the changed lines ran.
    pub(super) count: bool,
    /// What ran at the same time, whether or not the scenario asks.
    pub(super) trace: bool,
    /// Not even where it asks.
    pub(super) untraced: bool,
    /// What takes longer or shorter.
    pub(super) time: bool,
    /// The same of kernels whose trials report.
    pub(super) despite_reports: bool,
    /// Whether bugs planted for the purpose are seen.
    pub(super) control: Planting,
}

/// Whether bugs are planted into the before kernel, and looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Planting {
    /// They are, once the trials have ended.
    Wanted,
    /// The user does without.
    Refused,
    /// It is not this comparison's to ask: it is a part of another.
    Unasked,
}

impl Asked {
    pub(super) fn by(args: &CompareArgs) -> Self {
        Self {
            whole: true,
            count: !args.no_coverage,
            trace: args.overlap,
            untraced: args.no_overlap,
            time: !args.no_latency,
            despite_reports: args.latency_despite_reports,
            control: if args.no_control { Planting::Refused } else { Planting::Wanted },
        }
    }
}

/// Runs the comparison, prints the screen to `out`, returns the exit status.
pub async fn run(args: &CompareArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let cache = args.pair.open_cache()?;
    let mut ready = prepare(args, &cache, cancel).await?;
    ready.audience = if args.running.json_lines { Audience::Program } else { Audience::Terminal };
    let Finished { folder, result, stopped, .. } = finish(ready, &cache, cancel).await?;
    history::add(folder.path(), &result);
    page::write(folder.path(), &result)?;
    if args.running.json_lines {
        stream::ended(out, &result)?;
    } else {
        out.write_all(terminal::screen(&result, folder.path()).as_bytes())?;
    }
    stopped.map_or(Ok(result.exit_status), Err)
}

/// A time as people write it.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write it as 90s, 10m or 8h");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(parsed).map_err(|_| wrong())
}

//! `hotplug race`: pairs of places, each held until another task comes to the other, in both orders.

use std::io::Write;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::compare::show;
use super::kernel::PairArgs;
use super::running::RunningArgs;
use super::with_env;
use hotplug::comparison::{self, AnalysesSpec, ComparisonSpec, Request, TrialsSpec};
use hotplug::scenario::{Manner, Point, Sweep};
use hotplug::{Error, Result};

/// Options of `hotplug race`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug race my.patch
  hotplug race --functions offline_pages,online_pages --against _cpu_up,_cpu_down:return my.patch
  hotplug race --scenario scenarios/pmem-against-cpu.toml --functions memremap_pages --against _cpu_down my.patch

Exit status: as of hotplug compare.")]
pub struct RaceArgs {
    /// The two kernels.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Places: functions, their returns `f:return`, lines `mm/memory_hotplug.c:1820`; with a `?` where only one kernel has it
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "add_memory_resource,try_remove_memory,online_pages,offline_pages"
    )]
    pub functions: Vec<Point>,
    /// Places that each of them is raced against
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "_cpu_up,_cpu_down")]
    pub against: Vec<Point>,
    /// Trials of each pair, order and kernel
    #[arg(long, value_name = "N", default_value = "2")]
    pub trials: NonZeroU32,
    /// The longest hold, milliseconds of guest time
    #[arg(long, value_name = "MS", default_value_t = Manner::default().limit_ms)]
    pub limit: u32,
    /// Scenario file that holds nobody by itself [default: race, which is built in]
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// How trials run.
    #[command(flatten)]
    pub running: RunningArgs,
}

/// Runs the sweep, prints the screen to `out`, returns the exit status.
pub async fn run(args: RaceArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let manner = Manner { limit_ms: args.limit, ..Manner::default() };
    let sweep = Sweep { functions: args.functions, against: args.against, manner };
    let pairs = u32::try_from(sweep.pairs().len()).unwrap_or(u32::MAX);
    let trials = args.trials.get().checked_mul(pairs).ok_or_else(|| {
        Error::user(format!("{} trials of each of {pairs} pairs are too many", args.trials))
            .help("ask for fewer")
    })?;
    let spec = ComparisonSpec {
        kernels: args.pair.spec(),
        scenario: args.scenario,
        sweep: Some(sweep),
        trials: TrialsSpec { end: Some(trials), ..TrialsSpec::default() },
        // The question is which tasks meet, and what the kernel reports then.
        analyses: AnalysesSpec {
            control: Request::Refused,
            coverage: Request::Refused,
            overlap: Request::Refused,
            latency: Request::Refused,
            ..AnalysesSpec::default()
        },
        running: args.running.spec(),
        ..ComparisonSpec::default()
    };
    let (cache, json_lines) = (args.pair.open_cache()?, args.running.json_lines);
    with_env(&cache, json_lines, cancel, async |env| {
        let prepared = comparison::prepare(&spec, env).await?;
        show(comparison::run(prepared, env).await?, json_lines, out)
    })
    .await
}

//! `hotplug race`: for each pair of places, holds a task at one of them until another task comes to
//! the other, in both orders.

use std::io::Write;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::compare::{RunningArgs, show};
use super::kernel::PairArgs;
use super::with_env;
use hotplug::comparison::{self, AnalysesSpec, AnalysisRequest, ComparisonSpec, ScenarioChoice, TrialsSpec};
use hotplug::kernel::Wish;
use hotplug::scenario::{Point, RendezvousOptions, Sweep};
use hotplug::{Error, Result};

/// Options of `hotplug race`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug race my.patch
  hotplug race --functions offline_pages,online_pages --against _cpu_up,_cpu_down:return my.patch
  hotplug race --scenario scenarios/pmem-against-cpu.toml --functions memremap_pages --against _cpu_down my.patch

Exit status: as for hotplug compare.")]
pub struct RaceArgs {
    /// Options that select the two kernels.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Places in the kernel: a function `f`, its return `f:return`, or a line
    /// `mm/memory_hotplug.c:1820`; with a `?` at the end if only one kernel has the place
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "add_memory_resource,try_remove_memory,online_pages,offline_pages"
    )]
    pub functions: Vec<Point>,
    /// Places, in the same form, that each of --functions is raced against
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "_cpu_up,_cpu_down")]
    pub against: Vec<Point>,
    /// Trials of each pair in each order, on each kernel
    #[arg(long, value_name = "N", default_value = "2")]
    pub trials: NonZeroU32,
    /// Longest hold, in milliseconds of guest time
    #[arg(long, value_name = "MS", default_value_t = RendezvousOptions::default().limit_ms)]
    pub limit: u32,
    /// Scenario file without holds or delays of its own [default: the built-in race]
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Options for the trials.
    #[command(flatten)]
    pub running: RunningArgs,
}

/// Runs the sweep, prints the screen to `out`, and returns the exit status.
pub async fn run(args: RaceArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let manner = RendezvousOptions { limit_ms: args.limit, ..RendezvousOptions::default() };
    let sweep = Sweep { functions: args.functions, against: args.against, manner };
    let pairs = u32::try_from(sweep.pairs().len()).unwrap_or(u32::MAX);
    let trials = args.trials.get().checked_mul(pairs).ok_or_else(|| {
        Error::user(format!("{} trials of each of {pairs} pairs are too many", args.trials))
            .help("reduce --trials or the number of places")
    })?;
    let (kernels, _files) = args.pair.understood(Wish::Any, cancel).await?;
    let spec = ComparisonSpec {
        kernels,
        even_if_identical: true,
        scenarios: args.scenario.map_or(ScenarioChoice::Portfolio, |one| ScenarioChoice::one(Some(one))),
        sweep: Some(sweep),
        trials: TrialsSpec { end: Some(trials), ..TrialsSpec::default() },
        // A sweep shows which tasks meet and what the kernel reports then, so these are off.
        analyses: AnalysesSpec {
            control: AnalysisRequest::Refused,
            coverage: AnalysisRequest::Refused,
            reach: AnalysisRequest::Refused,
            overlap: AnalysisRequest::Refused,
            latency: AnalysisRequest::Refused,
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

//! `hotplug compare`: from a patch to a verdict.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::kernel::PairArgs;
use super::report::ORIGIN;
use super::results::ResultsArgs;
use super::{history, with_env};
use hotplug::Result;
use hotplug::comparison::{
    self, AnalysesSpec, AnalysisRequest, ComparisonSpec, Env, Finished, Preparation, ResumeSpec,
    ScenarioChoice, TrialsSpec,
};
use hotplug::host;
use hotplug::kernel::{PairSpec, Wish};
use hotplug::present::{formats, page, stream, terminal};
use hotplug::spec::RunningSpec;

/// Options for the trials of a comparison.
#[derive(Debug, Clone, Args)]
pub struct RunningArgs {
    /// Boot for each trial instead of restoring a checkpoint
    #[arg(long)]
    pub cold: bool,
    /// Print events as they happen, one JSON object a line, and the result last, but no screen
    #[arg(long)]
    pub json_lines: bool,
    /// Guests that run at once [default: number of processors, fewer if memory is short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Trials that a guest takes, one after the other, if nothing of each is left [default: as many
    /// as leave eight guests of each side, up to 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Seed of all schedules; the run.json of a run records it [default: a random one]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
    /// TOML file of known issues, which are listed separately, and affect the verdict only if they
    /// become more frequent
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,
    /// Known issues that become more frequent do not affect the verdict either
    #[arg(long, requires = "known")]
    pub known_may_worsen: bool,
    /// Accelerator of the guests; the option probes the machine again [default: auto, as probed
    /// once since the machine booted]
    #[arg(long, value_name = "auto|kvm|tcg")]
    pub accel: Option<host::Choice>,
}

impl RunningArgs {
    /// The specification of the trials.
    pub(super) fn spec(&self) -> RunningSpec {
        RunningSpec {
            cold: self.cold,
            workers: self.workers,
            rounds: self.rounds,
            seed: self.seed,
            results: self.at.results.clone(),
            known: self.known.clone(),
            known_may_worsen: self.known_may_worsen,
            vmcores: 0,
            accelerator: self.accel,
            found: None,
        }
    }
}

/// Options of `hotplug compare`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug compare my.patch
  hotplug compare
  hotplug compare v6.12..my-branch
  hotplug compare --source ~/src/linux --after my-branch
  hotplug compare --scenario scenarios/random-soup.toml --for 30m my-series/
  hotplug compare --before-package linux-image-6.1.0-50-amd64.deb --after-package linux-image-6.1.0-57-amd64.deb
  hotplug compare --exact --scenario scenarios/latency.toml my.patch
  hotplug compare --continue last --trials 50

In a kernel tree, the tree is the source, and without a patch its changes that are not committed are compared.

Exit status: 0 unchanged or fixed; 1 regressed; 2 user error; 3 inconclusive; 4 infrastructure; 130 interrupted.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct CompareArgs {
    /// Options that select the two kernels.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Continue the run in this folder: trials that ended count, trials that were cut off run again
    #[arg(
        long = "continue",
        value_name = "RESULT",
        conflicts_with_all = [
            "patches", "arch", "source", "before", "after", "before_image", "after_image", "before_package",
            "after_package", "config", "defconfig", "make", "no_default_config",
            "wide", "narrow", "jobs", "scenario", "vmcore", "full_debug_info", "time", "until_report", "until_seen", "until_decided", "cold", "rounds", "seed", "accel"
        ]
    )]
    pub resume: Option<PathBuf>,
    /// Scenario file, name of a built-in scenario, or `all`; can be given several times [default:
    /// the portfolio: built-in scenarios that take different paths]
    #[arg(long, value_name = "FILE")]
    pub scenario: Vec<PathBuf>,
    /// Compare one kernel with itself
    #[arg(long, conflicts_with_all = ["patches", "before", "after", "before_image", "after_image", "before_package", "after_package", "resume"])]
    pub same: bool,
    /// Run the trials even if the two kernels turn out to be the same, bit for bit
    #[arg(long, conflicts_with = "resume")]
    pub anyway: bool,
    /// Build only what the built-in scenarios need into the kernels, which takes less time [default:
    /// without --scenario, the kernels are wide]
    #[arg(long, conflicts_with = "wide")]
    pub narrow: bool,
    /// Trials a side of each scenario [default: the scenario's number; no limit with --for or
    /// --until-report; with --continue the run's number, which N may exceed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: Option<u32>,
    /// Start no trial after this time, such as 90s, 10m or 8h
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// Start no trial after the first finding that is not known
    #[arg(long)]
    pub until_report: bool,
    /// Start no trial after a report that WORDS name: the beginning of its signature, or a part of
    /// its title, its key or the text of a WARN
    #[arg(long, value_name = "WORDS")]
    pub until_seen: Option<String>,
    /// Start no trial once a regression is decided, by a test that may be asked after each trial
    #[arg(long)]
    pub until_decided: bool,
    /// Skip the control, which plants bugs in the before kernel and looks for them in a trial
    #[arg(long)]
    pub no_control: bool,
    /// Skip the coverage analysis, which builds two more kernels to count which changed lines ran
    #[arg(long)]
    pub no_coverage: bool,
    /// Skip the trials that record which callbacks run
    #[arg(long)]
    pub no_reach: bool,
    /// Analyze which critical sections overlap, even if the scenario does not request it. This
    /// builds two more kernels, which trace their calls
    #[arg(long)]
    pub overlap: bool,
    /// Skip the overlap analysis, even if the scenario requests it
    #[arg(long, conflicts_with = "overlap")]
    pub no_overlap: bool,
    /// Skip the latency analysis, even if the scenario requests it
    #[arg(long)]
    pub no_latency: bool,
    /// Measure latency in executed guest instructions, which other work on the machine does not
    /// disturb. This needs TCG. The guest's CPUs take turns, so there is no contention between them
    #[arg(long, conflicts_with_all = ["no_latency", "resume"])]
    pub exact: bool,
    /// Timed boots of each kernel [default: the scenario's number, or as many as the clock needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..), conflicts_with_all = ["no_latency", "resume"])]
    pub boots: Option<u32>,
    /// Measure latency even if trials have reports; the result notes it
    #[arg(long)]
    pub latency_despite_reports: bool,
    /// Forecast deadlocks from the guests of this run alone, without those of earlier runs, and do not
    /// keep what this run shows for later ones
    #[arg(long)]
    pub no_atlas: bool,
    /// Keep a vmcore of the first N trials that panic or hang, for crash. The kernels get
    /// --full-debug-info [default of N: 3]
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    pub vmcore: Option<u32>,
    /// Write the result in all formats into this folder, also if the comparison fails
    #[arg(long, value_name = "DIR")]
    pub report_to: Option<PathBuf>,
    /// Options for the trials.
    #[command(flatten)]
    pub running: RunningArgs,
}

impl CompareArgs {
    fn analyses(&self) -> AnalysesSpec {
        AnalysesSpec {
            control: AnalysisRequest::unless(self.no_control),
            coverage: AnalysisRequest::unless(self.no_coverage),
            reach: AnalysisRequest::unless(self.no_reach),
            overlap: if self.overlap {
                AnalysisRequest::Always
            } else {
                AnalysisRequest::unless(self.no_overlap)
            },
            latency: AnalysisRequest::unless(self.no_latency),
            exact: self.exact,
            boots: self.boots,
            latency_despite_reports: self.latency_despite_reports,
            without_atlas: self.no_atlas,
            ..AnalysesSpec::default()
        }
    }

    fn scenarios(&self) -> ScenarioChoice {
        match self.scenario.as_slice() {
            [] => ScenarioChoice::Portfolio,
            [one] if one.as_os_str() == "all" && !one.exists() => ScenarioChoice::All,
            some => ScenarioChoice::Named(some.to_vec()),
        }
    }

    /// The comparison of these kernels that the options describe.
    fn spec(&self, kernels: PairSpec) -> ComparisonSpec {
        let scenarios = self.scenarios();
        // Breadth is what the portfolio is for. A scenario that the user chose is a narrow question.
        // A configuration that the user chose is left as it is.
        let has_wide = kernels.arch.unwrap_or_default().table().has_wide_kernels;
        let is_broad = scenarios.name().is_some() && !self.narrow && kernels.is_of_the_harness();
        let wide = kernels.wide || is_broad && has_wide;
        let full_debug_info = kernels.full_debug_info || self.vmcore.is_some();
        ComparisonSpec {
            kernels: PairSpec { wide, full_debug_info, ..kernels },
            even_if_identical: self.same || self.anyway,
            scenarios,
            trials: TrialsSpec {
                first: 0,
                end: self.trials,
                seconds: self.time.map(|time| time.as_secs_f64()),
                until_report: self.until_report,
                until_seen: self.until_seen.clone(),
                until_decided: self.until_decided,
            },
            analyses: self.analyses(),
            running: RunningSpec { vmcores: self.vmcore.unwrap_or(0), ..self.running.spec() },
            ..ComparisonSpec::default()
        }
    }
}

/// Runs the comparison, prints the screen to `out`, and returns the exit status.
pub async fn run(args: &CompareArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let compared = compare(args, out, cancel).await;
    if let (Some(to), Err(error)) = (&args.report_to, &compared) {
        formats::write_failed(to, error)?;
    }
    // The reports are those of the trials that ran, also if not all of them did.
    compared?
}

/// The outer error is that of a comparison without a result.
async fn compare(args: &CompareArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<Result<u8>> {
    let cache = args.pair.open_cache()?;
    let json_lines = args.running.json_lines;
    with_env(&cache, json_lines, cancel, async |env| {
        let prepared = match &args.resume {
            None => prepare(args, env, cancel).await?,
            Some(run) => {
                let spec = ResumeSpec {
                    run: args.running.at.found(run)?,
                    trials: args.trials,
                    analyses: args.analyses(),
                    workers: args.running.workers,
                    known: args.running.known.clone(),
                };
                comparison::resume(&spec, env).await?.into()
            }
        };
        let finished = comparison::run(prepared, env).await?;
        if let Some(to) = &args.report_to {
            formats::write(to, finished.folder.path(), &finished.result, ORIGIN, None)?;
        }
        Ok(show(finished, json_lines, out))
    })
    .await
}

async fn prepare(args: &CompareArgs, env: &Env<'_>, cancel: &CancellationToken) -> Result<Preparation> {
    let wish = if args.same { Wish::Any } else { Wish::Compare };
    let (kernels, _files) = args.pair.understood(wish, cancel).await?;
    comparison::prepare(&args.spec(kernels), env).await
}

/// Finishes a comparison: adds it to the history, writes its page, prints its screen or its last
/// JSON lines to `out`, and returns the exit status.
pub(super) fn show(finished: Finished, json_lines: bool, out: &mut dyn Write) -> Result<u8> {
    let Finished { folder, result, stopped, .. } = finished;
    history::add(folder.path(), &result);
    page::write(folder.path(), &result)?;
    if json_lines {
        stream::ended(out, &result)?;
    } else {
        out.write_all(terminal::screen(&result, folder.path()).as_bytes())?;
    }
    stopped.map_or(Ok(result.exit_status), Err)
}

/// Parses a duration such as 90s, 10m or 8h.
pub(super) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write it as 90s, 10m or 8h");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(parsed).map_err(|_| wrong())
}

//! `hotplug bisect`: the revision that introduced a report, even if only some trials show it.

use super::replay::RerunArgs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::with_env;
use hotplug::bisect::LineupSpec;
use hotplug::bisect::{self, BisectSpec, Bisecting, Test};
use hotplug::comparison::ScenarioChoice;
use hotplug::present::bisect as screen;
use hotplug::{Error, Result};

/// Exit status for `git bisect run`: this revision cannot be tried.
const SKIP: u8 = 125;

/// Options that all kernels of a series or a bisection share, and their trials.
#[derive(Debug, Clone, Args)]
pub struct LineupArgs {
    /// Patch for all kernels; can be given several times
    #[arg(long, value_name = "PATCH")]
    pub base_patch: Vec<PathBuf>,
    /// Config fragment over the harness's own; can be given several times, the last one wins
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Parallel compilations [default: number of processors]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Scenario file, or name of a built-in scenario [default: dimm-and-cpu]
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Options for the trials.
    #[command(flatten)]
    pub how: RerunArgs,
}

impl LineupArgs {
    /// The specification that all kernels and trials share.
    pub(super) fn spec(&self) -> LineupSpec {
        LineupSpec {
            base_patches: self.base_patch.clone(),
            config: self.config.clone(),
            jobs: self.jobs,
            scenarios: ScenarioChoice::one(self.scenario.clone()),
            running: self.how.spec(),
        }
    }
}

/// Options of `hotplug bisect`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug bisect --source ~/src/linux --good v6.12 --bad v6.13-rc1 --signature 3f2a9c1b
  hotplug bisect --good v6.12 --bad HEAD --signature flush_all_cpus_locked --scenario scenarios/block-against-cpu.toml
  git bisect run hotplug bisect --step --signature flush_all_cpus_locked --rate 0.2

Exit status: 0 the revision was found; 1 the good end has the report itself; 2 user error; 3 no more trials can \
decide; 4 infrastructure; 130 interrupted. With --step: 0 good; 1 bad; 125 the revision cannot be tried; 128 or more \
any other error, which stops git bisect.")]
pub struct BisectArgs {
    /// Report to search for: the beginning of its signature, or a part of its title, its key or the
    /// text of a WARN
    #[arg(long, value_name = "WORDS")]
    pub signature: String,
    /// A revision without the report
    #[arg(long, value_name = "REV", required_unless_present = "step")]
    pub good: Option<String>,
    /// A revision with the report
    #[arg(long, value_name = "REV", required_unless_present = "step")]
    pub bad: Option<String>,
    /// Try only the revision that is checked out, for git bisect run
    #[arg(long, conflicts_with_all = ["good", "bad", "confidence"])]
    pub step: bool,
    /// With --step: share of a bad revision's trials that show the report. It sets the number of
    /// trials after which a silent revision is good at 95 %
    #[arg(long, value_name = "0..1", requires = "step", default_value_t = 1.0, value_parser = share)]
    pub rate: f64,
    /// Probability that the answer must reach
    #[arg(long, value_name = "0..1", default_value_t = 0.98, value_parser = share)]
    pub confidence: f64,
    /// The kernel's git repository
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub source: PathBuf,
    /// Maximum number of trials of one revision
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(2..))]
    pub trials: u32,
    /// Options that all kernels and trials share.
    #[command(flatten)]
    pub all: LineupArgs,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("\"{text}\" is not a number"))?;
    if share > 0.0 && share <= 1.0 { Ok(share) } else { Err("must be above 0 and at most 1".to_owned()) }
}

impl BisectArgs {
    fn spec(&self) -> BisectSpec {
        BisectSpec {
            source: self.source.clone(),
            called: self.signature.clone(),
            trials: self.trials,
            all: self.all.spec(),
        }
    }
}

/// Bisects, or tries the one revision. Prints the screen to `out` and returns the exit status.
pub async fn run(args: &BisectArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    if args.step { Box::pin(step(args, out, cancel)).await } else { Box::pin(whole(args, out, cancel)).await }
}

/// One step of `git bisect run`. Git stops at statuses from 128 on, so an error is not taken for a
/// verdict.
async fn step(args: &BisectArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let spec = args.spec();
    let cache = args.all.how.open_cache()?;
    let tried = with_env(&cache, false, cancel, async |env| bisect::step(&spec, args.rate, env).await);
    let (status, words) = match tried.await {
        Ok(Test { cannot: Some(why), .. }) => (SKIP, format!("cannot be tried: {why}")),
        Ok(test) if test.hits > 0 => {
            (1, format!("bad: {} of {} trials show the report", test.hits, test.hits + test.clean))
        }
        Ok(test) if test.clean == 0 => (SKIP, "cannot be tried: no trial was watched to its end".to_owned()),
        Ok(test) => (0, format!("good: none of {} trials shows the report", test.clean)),
        Err(error) => {
            eprintln!("hotplug: {error}");
            return Ok(128 + error.exit_status().min(127));
        }
    };
    writeln!(out, "{words}")?;
    Ok(status)
}

async fn whole(args: &BisectArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let (Some(good), Some(bad)) = (&args.good, &args.bad) else {
        return Err(Error::user("--good and --bad are both required"));
    };
    let spec = args.spec();
    let cache = args.all.how.open_cache()?;
    let (result, folder) = with_env(&cache, false, cancel, async |env| {
        let mut tell = |bisecting: Bisecting<'_>| {
            out.write_all(screen::bisecting(&bisecting).as_bytes())?;
            Ok(out.flush()?)
        };
        bisect::bisect(&spec, (good, bad), args.confidence, env, &mut tell).await
    })
    .await?;
    out.write_all(screen::totals(&result, folder.path()).as_bytes())?;
    Ok(result.exit_status)
}

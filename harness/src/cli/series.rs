//! `hotplug series`: every patch of a series judged, each on top of those before it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::compare::CompareArgs;
use super::comparison::{Finished, with_locks};
use super::ground;
use super::kernel::{BuildReporter, PairArgs, cache_path};
use super::suspect::{Lineup, LineupArgs, build};
use crate::Result;
use crate::bisect::{Bisection, History};
use crate::compare::{Class, Finding};
use crate::host::{self, AcceleratorRequest};
use crate::kernel::{Cache, Single, build_pair, split};
use crate::latency::Told;
use crate::present::{bisect as hunting, latency, series as screen};
use crate::record::{Brought, Changed, Head, Judged, RunFolder, SeriesResult, State, Step};
use crate::scenario::Scenario;

/// Options of `hotplug series`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug series my-series.mbox
  hotplug series --source linux-source-6.12 --scenario scenarios/block-against-cpu.toml my-series/
  hotplug series --bisect long-series.mbox

Exit status: 0 every patch is unchanged or fixed; 1 some patch brings a regression, or has no kernel that boots; 2 your mistake; \
3 inconclusive; 4 infrastructure; 130 interrupted.")]
pub struct SeriesArgs {
    /// The series: an mbox, a folder of patches, or patch files in their order
    #[arg(value_name = "PATCH", required = true)]
    pub patches: Vec<PathBuf>,
    /// Judge the whole series first, and look for the patch that brings each new report by halves
    #[arg(long)]
    pub bisect: bool,
    /// Kernel source: linux-source-6.1, a tarball, a folder, or repository@revision [default: linux-source-6.1, else the newest installed]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Trials a side of each patch [default: the scenario's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: Option<u32>,
    /// What all kernels and trials have.
    #[command(flatten)]
    pub all: LineupArgs,
}

/// The most trials of one kernel of a bisected series.
const MOST: u32 = 200;

/// How probable a patch must be that is named.
const CONFIDENCE: f64 = 0.98;

/// What all patches share.
struct Series<'a> {
    args: &'a SeriesArgs,
    patches: Vec<Single>,
    folder: &'a Path,
    cache: &'a Cache,
}

/// Judges the series: a row on `out` as each patch ends. Returns the exit status.
pub async fn run(args: &SeriesArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let (started, began) = (jiff::Timestamp::now(), Instant::now());
    // A mistake is told before anything is built or written.
    if let Some(file) = &args.all.scenario {
        Scenario::read(file)?;
    }
    let draft = tempfile::tempdir()?;
    split(&args.patches, draft.path(), cancel).await?;
    let cache = Cache::open(cache_path(args.all.how.cache.as_deref())?)?;
    let machine = ground::machine().await?;
    let below = PairArgs { source: args.source.clone(), ..args.all.kernels() };
    let below = below.with_source_named()?;
    let base = build_pair(&cache, &below.request()?, &BuildReporter::new(), cancel).await?.before;
    let (asked, image) = (AcceleratorRequest::by(args.all.how.accel), Some(&*base.image));
    let probed = host::find_accelerator(&machine.qemu, asked, image, &cache, cancel).await?;
    let mut args = args.clone();
    args.all.how.found = Some(probed.accelerator);
    let name = args.patches.first().and_then(|first| first.file_stem()).unwrap_or_default();
    let folder = RunFolder::bare(&args.all.how.results, &format!("series-{}", name.to_string_lossy()))?;
    let patches = split(&args.patches, &folder.path().join("patches"), cancel).await?;
    let mut result = SeriesResult {
        head: Head::new(started, machine.note(&probed)),
        source: ground::note(&base).source,
        exit_status: 0,
        patches: Vec::new(),
        seconds: 0.0,
    };
    out.write_all(screen::head(&result.source, patches.len(), &result.head.host).as_bytes())?;
    out.flush()?;
    let series = Series { args: &args, patches, folder: folder.path(), cache: &cache };
    let last = series.patches.len();
    let mut stopped = None;
    let mut against = 0;
    let numbers = if args.bisect { last..=last } else { 1..=last };
    for number in numbers {
        eprintln!("series    patch {number} of {last}");
        let step = match Box::pin(series.judge(&below, against, number, cancel)).await {
            Ok(step) => step,
            Err(error) => {
                stopped = Some(error);
                break;
            }
        };
        out.write_all(screen::row(&step).as_bytes())?;
        out.flush()?;
        if matches!(step.state, State::Judged(_)) {
            against = number;
        }
        result.patches.push(step);
        // Written after each: one that is killed leaves what it had.
        result.exit_status = result.exit_status();
        result.seconds = began.elapsed().as_secs_f64();
        folder.write("series.json", &result)?;
    }
    if args.bisect && stopped.is_none() {
        stopped = series.bisect(&below, &result, out, cancel).await.err();
    } else {
        out.write_all(screen::brought(&result).as_bytes())?;
    }
    result.seconds = began.elapsed().as_secs_f64();
    folder.write("series.json", &result)?;
    out.write_all(screen::totals(&result, folder.path()).as_bytes())?;
    stopped.map_or(Ok(result.exit_status), Err)
}

impl Series<'_> {
    /// The kernels with the first `against` patches, and with the first `number`.
    fn pair(&self, below: &PairArgs, against: usize, number: usize) -> PairArgs {
        let files =
            |range: std::ops::Range<usize>| self.patches[range].iter().map(|patch| patch.file.clone());
        PairArgs {
            base_patch: below.base_patch.iter().cloned().chain(files(0..against)).collect(),
            patches: files(against..number).collect(),
            ..below.clone()
        }
    }

    /// Judges one patch. An error is an interruption or the machine's; whatever else goes wrong is the patch's.
    async fn judge(
        &self,
        below: &PairArgs,
        against: usize,
        number: usize,
        cancel: &CancellationToken,
    ) -> Result<Step> {
        let subject = self.patches[number - 1].subject.clone();
        let step = |state| Step { number, subject, against, state };
        let pair = self.pair(below, against, number);
        let build_seconds = match build(self.cache, &pair, cancel).await? {
            Ok(seconds) => seconds,
            Err(why) => {
                // Below the series' folder each patch is known by its own name.
                let here = format!("{}/patches/", self.folder.display());
                return Ok(step(State::NoKernel { why: why.replace(&here, "") }));
            }
        };
        let args = CompareArgs {
            pair,
            scenario: self.args.all.scenario.clone(),
            trials: self.args.trials,
            no_control: true,
            no_coverage: true,
            no_overlap: true,
            running: self.args.all.how.running(self.folder),
            ..CompareArgs::default()
        };
        let Finished { folder, result, .. } = Box::pin(with_locks(&args, self.cache, cancel)).await?;
        let run = folder.id();
        let Some(verdict) = result.verdict else {
            return Ok(step(State::NoTrial { why: result.reason, run }));
        };
        let of = |class: Class| {
            let unknown = result.reports.iter().filter(|finding| finding.known.is_none());
            unknown.filter(|finding| finding.class == class).map(brought).collect()
        };
        let latency = result.latency.as_ref().filter(|told| told.none.is_none()).map(|told| {
            [Told::Slower, Told::Faster]
                .into_iter()
                .flat_map(|way| told.told(way))
                .map(latency::in_short)
                .collect()
        });
        Ok(step(State::Judged(Box::new(Judged {
            run,
            verdict,
            reason: result.reason.clone(),
            trials: result.trials,
            new: of(Class::New),
            fixed: of(Class::Fixed),
            locks: result.lock_order.as_ref().and_then(Changed::of),
            latency,
            build_seconds,
        }))))
    }

    /// Looks for the patch that brought each report which the whole series brings beyond chance.
    async fn bisect(
        &self,
        below: &PairArgs,
        result: &SeriesResult,
        out: &mut dyn Write,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let new = result.patches.iter().filter_map(|step| match &step.state {
            State::Judged(judged) => Some(judged.new.iter()),
            _ => None,
        });
        for one in new.flatten().filter(|one| one.decided) {
            writeln!(out, "\n{}", hunting::sought(&one.title))?;
            let lineup = Lineup {
                cache: self.cache,
                all: &self.args.all,
                folder: self.folder,
                called: &one.signature,
                most: MOST,
            };
            let mut bisection = Bisection::new(History::line(self.patches.len()), CONFIDENCE);
            // What the whole series showed counts.
            bisection.add(self.patches.len(), one.after.seen, one.after.trials - one.after.seen);
            bisection.add(0, one.before.seen, one.before.trials - one.before.seen);
            let name = |number: usize| match number {
                0 => "without the series".to_owned(),
                number => format!("patch {number}: {}", self.patches[number - 1].subject),
            };
            let suspected = lineup
                .hunt(
                    &mut bisection,
                    |number| self.pair(below, number, number),
                    |number, test, bisection| {
                        out.write_all(hunting::row(&name(number), test, bisection).as_bytes())?;
                        Ok(out.flush()?)
                    },
                    cancel,
                )
                .await?;
            out.write_all(hunting::suspected(&suspected, name, &bisection).as_bytes())?;
        }
        Ok(())
    }
}

fn brought(finding: &Finding) -> Brought {
    Brought {
        signature: finding.signature.clone(),
        title: finding.title.clone(),
        before: finding.before,
        after: finding.after,
        decided: finding.decided,
    }
}

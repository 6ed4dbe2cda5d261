//! Judges every patch of a series, each on top of those before it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::future::LocalBoxFuture;

use super::{Brought, DependencyCounts, Judged, SeriesResult, SeriesStep, State};
use crate::bisect::{Bisecting, Bisection, Lineup, LineupSpec, RevisionGraph, build};
use crate::compare::{Class, Finding};
use crate::comparison::{
    AnalysesSpec, AnalysisRequest, ComparisonSpec, Env, Finished, RunningSpec, TrialsSpec, compare_inner,
};
use crate::environment;
use crate::kernel::{PairSpec, Single, split};
use crate::latency::{MetricResult, MetricVerdict};
use crate::record::{Head, RunFolder};
use crate::scenario::Scenario;
use crate::{Error, Result};

/// A series to judge.
#[derive(Debug, Clone)]
pub struct SeriesSpec {
    /// An mbox, a folder of patches, or patch files in their order.
    pub patches: Vec<PathBuf>,
    /// Judge the whole series first, and then search for the patch that introduces each new report.
    pub bisect: bool,
    /// The kernel source. None: the default one.
    pub source: Option<String>,
    /// Trials of each side for each patch. None: the scenario's number.
    pub trials: Option<u32>,
    /// What all kernels and trials have in common.
    pub all: LineupSpec,
}

/// The progress of a series.
#[derive(Debug)]
pub enum Judging<'a> {
    /// It begins. The result has no patches yet. The number is that of all patches.
    Begins(&'a SeriesResult, usize),
    /// A patch was judged.
    Patch(&'a SeriesStep),
    /// All patches were judged.
    Brought(&'a SeriesResult),
    /// The search for the patch that introduced this report begins.
    Sought(&'a str),
    /// A kernel of the search was tried, or the search has ended.
    Bisecting(Bisecting<'a>),
}

/// The most trials of one kernel of a bisected series.
const MOST: u32 = 200;

/// The probability that a patch must have to be named.
const CONFIDENCE: f64 = 0.98;

/// What all patches have in common.
struct Series<'a> {
    spec: &'a SeriesSpec,
    all: &'a LineupSpec,
    patches: Vec<Single>,
    folder: &'a Path,
    env: &'a Env<'a>,
}

/// Judges the series. `tell` receives each patch as it ends. If not all patches were judged, the
/// reason is returned with the result.
pub fn judge<'a>(
    spec: &'a SeriesSpec,
    env: &'a Env<'a>,
    tell: &'a mut (dyn FnMut(Judging<'_>) -> Result<()> + 'a),
) -> LocalBoxFuture<'a, Result<(SeriesResult, RunFolder, Option<Error>)>> {
    Box::pin(async move {
        let (started, began) = (jiff::Timestamp::now(), Instant::now());
        // A mistake is reported before anything is built or written.
        for file in spec.all.scenarios.paths(spec.all.kernels().arch.unwrap_or_default()) {
            Scenario::read(&file)?;
        }
        let draft = tempfile::tempdir()?;
        split(&spec.patches, draft.path(), env.cancel).await?;
        let below = PairSpec { source: spec.source.clone(), ..spec.all.kernels() }.with_source_named()?;
        let (base, host, running) = env.settle(&spec.all.running, &below).await?;
        let all = LineupSpec { running, ..spec.all.clone() };
        let name = spec.patches.first().and_then(|first| first.file_stem()).unwrap_or_default();
        let folder = RunFolder::bare(&all.running.results, &format!("series-{}", name.to_string_lossy()))?;
        let patches = split(&spec.patches, &folder.path().join("patches"), env.cancel).await?;
        let mut result = SeriesResult {
            head: Head::new(started, env.command, host),
            source: environment::note(&base).source,
            exit_status: 0,
            patches: Vec::new(),
            seconds: 0.0,
        };
        tell(Judging::Begins(&result, patches.len()))?;
        let series = Series { spec, all: &all, patches, folder: folder.path(), env };
        let last = series.patches.len();
        let mut stopped = None;
        let mut against = 0;
        let numbers = if spec.bisect { last..=last } else { 1..=last };
        for number in numbers {
            env.note("series", &format!("patch {number} of {last}"));
            let step = match Box::pin(series.judge(&below, against, number)).await {
                Ok(step) => step,
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            };
            tell(Judging::Patch(&step))?;
            if matches!(step.state, State::Judged(_)) {
                against = number;
            }
            result.patches.push(step);
            // The result is written after each patch, so that a series that is killed leaves what
            // it had.
            result.exit_status = result.exit_status();
            result.seconds = began.elapsed().as_secs_f64();
            folder.write("series.json", &result)?;
        }
        if spec.bisect && stopped.is_none() {
            stopped = series.bisect(&below, &result, tell).await.err();
        } else {
            tell(Judging::Brought(&result))?;
        }
        result.seconds = began.elapsed().as_secs_f64();
        folder.write("series.json", &result)?;
        Ok((result, folder, stopped))
    })
}

impl Series<'_> {
    /// The kernels with the first `against` patches, and with the first `number` patches.
    fn pair(&self, below: &PairSpec, against: usize, number: usize) -> PairSpec {
        let files =
            |range: std::ops::Range<usize>| self.patches[range].iter().map(|patch| patch.file.clone());
        PairSpec {
            base_patches: below.base_patches.iter().cloned().chain(files(0..against)).collect(),
            patches: files(against..number).collect(),
            ..below.clone()
        }
    }

    /// Judges one patch. Errors are interruptions and failures of the machine. Every other failure
    /// is recorded as the patch's outcome.
    async fn judge(&self, below: &PairSpec, against: usize, number: usize) -> Result<SeriesStep> {
        let subject = self.patches[number - 1].subject.clone();
        let step = |state| SeriesStep { number, subject, against, state };
        let pair = self.pair(below, against, number);
        let build_seconds = match build(&pair, self.env).await? {
            Ok(seconds) => seconds,
            Err(why) => {
                // The series' folder is removed from the message, so that each patch has its own
                // name there.
                let here = format!("{}/patches/", self.folder.display());
                return Ok(step(State::NoKernel { why: why.replace(&here, "") }));
            }
        };
        let spec = ComparisonSpec {
            kernels: pair,
            scenarios: self.all.scenarios.clone(),
            trials: TrialsSpec { end: self.spec.trials, ..TrialsSpec::default() },
            analyses: AnalysesSpec {
                control: AnalysisRequest::Omitted,
                coverage: AnalysisRequest::Refused,
                reach: AnalysisRequest::Refused,
                overlap: AnalysisRequest::Refused,
                ..AnalysesSpec::default()
            },
            running: RunningSpec { results: self.folder.to_owned(), ..self.all.running.clone() },
            ..ComparisonSpec::default()
        };
        let Finished { folder, result, .. } = Box::pin(compare_inner(&spec, self.env)).await?;
        let run = folder.id();
        let Some(verdict) = result.verdict else {
            return Ok(step(State::NoTrial { why: result.reason, run }));
        };
        let of = |class: Class| {
            let unknown = result.reports.iter().filter(|finding| finding.known.is_none());
            unknown.filter(|finding| finding.class == class).map(brought).collect()
        };
        let latency = result.latency.as_ref().filter(|told| told.none.is_none()).map(|told| {
            [MetricVerdict::Slower, MetricVerdict::Faster]
                .into_iter()
                .flat_map(|way| told.told(way))
                .map(MetricResult::in_short)
                .collect()
        });
        Ok(step(State::Judged(Box::new(Judged {
            run,
            verdict,
            reason: result.reason.clone(),
            trials: result.trials,
            new: of(Class::New),
            fixed: of(Class::Fixed),
            locks: result.lock_order.as_ref().and_then(DependencyCounts::of),
            latency,
            build_seconds,
        }))))
    }

    /// Searches for the patch that introduces each report which the whole series introduces beyond
    /// chance.
    async fn bisect(
        &self,
        below: &PairSpec,
        result: &SeriesResult,
        tell: &mut dyn FnMut(Judging<'_>) -> Result<()>,
    ) -> Result<()> {
        let new = result.patches.iter().filter_map(|step| match &step.state {
            State::Judged(judged) => Some(judged.new.iter()),
            _ => None,
        });
        for one in new.flatten().filter(|one| one.decided) {
            tell(Judging::Sought(&one.title))?;
            let lineup = Lineup {
                all: self.all,
                folder: self.folder,
                called: &one.signature,
                most: MOST,
                env: self.env,
            };
            let mut bisection = Bisection::new(RevisionGraph::line(self.patches.len()), CONFIDENCE);
            // The trials of the whole series count.
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
                        let name = &name(number);
                        tell(Judging::Bisecting(Bisecting::Tested { name, test, bisection }))
                    },
                )
                .await?;
            let names: Vec<String> = (0..=self.patches.len()).map(name).collect();
            let (suspected, names, bisection) = (&suspected, &*names, &bisection);
            tell(Judging::Bisecting(Bisecting::Suspected { suspected, names, bisection }))?;
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

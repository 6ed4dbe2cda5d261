//! One kernel at a time, and whether it shows a report: what `bisect` and `series --bisect` ask again and again.

use std::path::{Path, PathBuf};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::compare::CompareArgs;
use super::comparison::whole;
use super::kernel::{BuildReporter, PairArgs};
use super::rerun::RerunArgs;
use crate::bisect::{Bisection, Price, Step};
use crate::error::ErrorKind;
use crate::kernel::{Built, Cache, build_pair};
use crate::record::{Suspected, Test};
use crate::{Error, Result};

/// What a kernel costs before the first was built, seconds.
const BUILD: f64 = 60.0;

/// What a test costs beside its trials before the first was run, seconds.
const START: f64 = 8.0;

/// What a trial costs before the first was run, seconds.
const TRIAL: f64 = 1.0;

/// Trials of the bad end at a time, until it has shown the report often enough.
const AT_ONCE: u32 = 10;

/// How often the bad end must show the report before its rate says something.
const ENOUGH: u32 = 3;

/// What many kernels have in common, and their trials.
#[derive(Debug, Clone, Args)]
pub struct LineupArgs {
    /// A patch that all kernels have; can be given several times
    #[arg(long, value_name = "PATCH")]
    pub base_patch: Vec<PathBuf>,
    /// Config fragment over the harness's own; can be given several times, the last one wins
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Compilations at once [default: number of processors]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Scenario file [default: dimm-and-cpu, which is built in]
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// How trials run.
    #[command(flatten)]
    pub how: RerunArgs,
}

impl LineupArgs {
    /// What all kernels have, for who knows the source and what else they have.
    pub(super) fn kernels(&self) -> PairArgs {
        PairArgs {
            base_patch: self.base_patch.clone(),
            config: self.config.clone(),
            jobs: self.jobs,
            cache: self.how.cache.clone(),
            ..PairArgs::default()
        }
    }
}

/// Builds the kernels that `pair` asks for: how long the second took if it was built now, seconds; or why there are none, which
/// is their own fault.
pub(super) async fn build(
    cache: &Cache,
    pair: &PairArgs,
    cancel: &CancellationToken,
) -> Result<std::result::Result<Option<f64>, String>> {
    match build_pair(cache, &pair.request()?, &BuildReporter::new(), cancel).await {
        Ok(built) => Ok(Ok(match built.after.built {
            Built::Now { seconds, .. } => Some(seconds),
            _ => None,
        })),
        Err(error) if error.kind() == ErrorKind::User => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// What all tests share.
pub(super) struct Lineup<'a> {
    pub(super) cache: &'a Cache,
    pub(super) all: &'a LineupArgs,
    /// Where the tests' runs go.
    pub(super) folder: &'a Path,
    /// What is looked for.
    pub(super) called: &'a str,
    /// The most trials of one revision.
    pub(super) most: u32,
}

impl Lineup<'_> {
    /// Tries the kernel that `pair` asks for on both sides; with `once`, until it has shown it.
    pub(super) async fn try_out(
        &self,
        pair: PairArgs,
        trials: u32,
        once: bool,
        cancel: &CancellationToken,
    ) -> Result<Test> {
        let mut test = Test::default();
        match build(self.cache, &pair, cancel).await? {
            Ok(seconds) => test.build_seconds = seconds,
            Err(why) => {
                test.cannot = Some(why);
                return Ok(test);
            }
        }
        let args = CompareArgs {
            pair,
            scenario: self.all.scenario.clone(),
            // One of each side: they are one kernel.
            trials: Some(trials.div_ceil(2)),
            until_seen: once.then(|| self.called.to_owned()),
            no_latency: true,
            running: self.all.how.running(self.folder),
            ..CompareArgs::default()
        };
        let finished = whole(&args, self.cache, cancel).await?;
        test.run = Some(finished.folder.id());
        let result = &finished.result;
        test.start_seconds = finished.start_seconds;
        test.seconds = result.trials_seconds;
        let sum =
            |of: fn(&crate::compare::Tally) -> u32| of(&result.trials.before) + of(&result.trials.after);
        if sum(|tally| tally.trials) == 0 {
            test.cannot = Some(result.reason.clone());
            return Ok(test);
        }
        let found = result.reports.iter().filter(|finding| finding.is_called(self.called));
        match found.max_by_key(|finding| finding.before.seen + finding.after.seen) {
            Some(finding) => {
                test.hits = finding.before.seen + finding.after.seen;
                test.clean = finding.before.trials + finding.after.trials - test.hits;
                test.title = Some(finding.title.clone());
                test.signature = Some(finding.signature.clone());
            }
            // Only what was watched to its end could have shown it.
            None => test.clean = sum(|tally| tally.armed),
        }
        Ok(test)
    }

    /// Bisects: the kernel of each revision is what `pair` gives. `tell` hears each test as it ends, and what is known then.
    pub(super) async fn hunt(
        &self,
        bisection: &mut Bisection,
        pair: impl Fn(usize) -> PairArgs,
        mut tell: impl FnMut(usize, &Test, &Bisection) -> Result<()>,
        cancel: &CancellationToken,
    ) -> Result<Suspected> {
        let bad = bisection.tested().len() - 1;
        let mut price = Price { build: BUILD, start: START, trial: TRIAL };
        let (mut builds, mut starts, mut trials) = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0));
        let mut seen = None;
        loop {
            let tested = &bisection.tested()[bad];
            let step = if let Some(why) = &tested.cannot {
                return Err(Error::user(format!("the bad end cannot be tried: {why}")));
            } else if tested.hits >= ENOUGH {
                bisection.next(price)
            } else if tested.hits + tested.clean < self.most {
                Step::Test { revision: bad, trials: AT_ONCE }
            } else if tested.hits == 0 {
                return Err(Error::user(format!(
                    "none of {} trials of the bad end showed \"{}\"",
                    tested.clean, self.called
                ))
                .help("more --trials, or a --scenario that shows it more often, or other words for it: hotplug scan"));
            } else {
                bisection.next(price)
            };
            let Step::Test { revision, trials: count } = step else {
                return Ok(Suspected::of(bisection, &step, seen));
            };
            let tried = {
                let tested = &bisection.tested()[revision];
                tested.hits + tested.clean
            };
            if tried >= self.most && revision != bad {
                return Ok(Suspected::of(bisection, &Step::OneOf(Vec::new()), seen));
            }
            let test = self.try_out(pair(revision), count, revision != bad, cancel).await?;
            match &test.cannot {
                Some(why) => bisection.give_up(revision, why),
                None => bisection.add(revision, test.hits, test.clean),
            }
            if test.title.is_some() {
                seen.clone_from(&test.title);
            }
            if let Some(seconds) = test.build_seconds {
                builds = (builds.0 + seconds, builds.1 + 1.0);
                price.build = builds.0 / builds.1;
            }
            if test.hits + test.clean > 0 {
                trials = (trials.0 + test.seconds, trials.1 + f64::from(test.hits + test.clean));
                price.trial = trials.0 / trials.1;
                starts = (starts.0 + test.start_seconds, starts.1 + 1.0);
                price.start = starts.0 / starts.1;
            }
            tell(revision, &test, bisection)?;
        }
    }
}

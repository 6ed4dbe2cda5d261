//! Tries one kernel at a time for a report. `bisect` and `series --bisect` repeat this.

use std::path::{Path, PathBuf};

use super::{Bisection, NextStep, Price, Suspected, Test};
use crate::comparison::{
    AnalysesSpec, ComparisonSpec, Env, RunningSpec, ScenarioChoice, TrialsSpec, compare_inner,
};
use crate::error::ErrorKind;
use crate::kernel::{Built, PairSpec};
use crate::{Error, Result};

/// The assumed cost of a kernel until the first one is built, in seconds.
const BUILD: f64 = 60.0;

/// The assumed cost of a test besides its trials until the first one is run, in seconds.
const START: f64 = 8.0;

/// The assumed cost of a trial until the first one is run, in seconds.
const TRIAL: f64 = 1.0;

/// Trials of the bad end at a time, until it has shown the report often enough.
const AT_ONCE: u32 = 10;

/// How often the bad end must show the report before its rate is used.
const ENOUGH: u32 = 3;

/// What many kernels, and their trials, have in common.
#[derive(Debug, Clone, Default)]
pub struct LineupSpec {
    /// Patches of all kernels.
    pub base_patches: Vec<PathBuf>,
    /// Config fragments over the harness's own. The last one wins.
    pub config: Vec<PathBuf>,
    /// Compilations at once. None: as many as there are processors.
    pub jobs: Option<usize>,
    /// The scenarios of all trials.
    pub scenarios: ScenarioChoice,
    /// How trials run, and where results go.
    pub running: RunningSpec,
}

impl LineupSpec {
    /// The part that all kernels have in common. The caller adds the source and what differs.
    pub(crate) fn kernels(&self) -> PairSpec {
        PairSpec {
            base_patches: self.base_patches.clone(),
            config: self.config.clone(),
            jobs: self.jobs,
            ..PairSpec::default()
        }
    }
}

/// Builds the kernels of `pair`. Returns the seconds that the build of the second kernel took, if
/// it was built now. If the kernels themselves prevent their build, returns the reason.
pub(crate) async fn build(
    pair: &PairSpec,
    env: &Env<'_>,
) -> Result<std::result::Result<Option<f64>, String>> {
    match env.build(&pair.request()?).await {
        Ok(built) => Ok(Ok(match built.after.built {
            Built::Now { seconds, .. } => Some(seconds),
            _ => None,
        })),
        Err(error) if error.kind() == ErrorKind::User => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// What all tests have in common.
pub(crate) struct Lineup<'a> {
    /// The scenario of all trials, and how they run.
    pub(crate) all: &'a LineupSpec,
    /// The folder of the tests' runs.
    pub(crate) folder: &'a Path,
    /// The name of the finding: the beginning of its signature, or a part of its title or key.
    pub(crate) called: &'a str,
    /// The most trials of one revision.
    pub(crate) most: u32,
    /// The environment of the tests.
    pub(crate) env: &'a Env<'a>,
}

impl Lineup<'_> {
    /// Tries the kernel of `pair`, which is the same on both sides. With `once`, the trials end
    /// when the kernel has shown the report.
    pub(crate) async fn try_out(&self, pair: PairSpec, trials: u32, once: bool) -> Result<Test> {
        let mut test = Test::default();
        match build(&pair, self.env).await? {
            Ok(seconds) => test.build_seconds = seconds,
            Err(why) => {
                test.cannot = Some(why);
                return Ok(test);
            }
        }
        let spec = ComparisonSpec {
            kernels: pair,
            scenarios: self.all.scenarios.clone(),
            trials: TrialsSpec {
                // Each number is a trial on both sides, which are one kernel.
                end: Some(trials.div_ceil(2)),
                until_seen: once.then(|| self.called.to_owned()),
                ..TrialsSpec::default()
            },
            analyses: AnalysesSpec::none(),
            running: RunningSpec { results: self.folder.to_owned(), ..self.all.running.clone() },
            ..ComparisonSpec::default()
        };
        let finished = compare_inner(&spec, self.env).await?;
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
            // Only trials that were watched to their end could have shown the report.
            None => test.clean = sum(|tally| tally.armed),
        }
        Ok(test)
    }

    /// Bisects. `pair` gives the kernel of each revision. `tell` receives each test as it ends,
    /// with the state of the bisection.
    pub(crate) async fn hunt(
        &self,
        bisection: &mut Bisection,
        pair: impl Fn(usize) -> PairSpec,
        mut tell: impl FnMut(usize, &Test, &Bisection) -> Result<()>,
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
                NextStep::Test { revision: bad, trials: AT_ONCE }
            } else if tested.hits == 0 {
                return Err(Error::user(format!(
                    "none of {} trials of the bad end showed \"{}\"",
                    tested.clean, self.called
                ))
                .help(
                    "use more --trials, a --scenario that shows it more often, or a name from hotplug scan",
                ));
            } else {
                bisection.next(price)
            };
            let NextStep::Test { revision, trials: count } = step else {
                return Ok(Suspected::of(bisection, &step, seen));
            };
            let tried = {
                let tested = &bisection.tested()[revision];
                tested.hits + tested.clean
            };
            if tried >= self.most && revision != bad {
                return Ok(Suspected::of(bisection, &NextStep::OneOf(Vec::new()), seen));
            }
            let test = self.try_out(pair(revision), count, revision != bad).await?;
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

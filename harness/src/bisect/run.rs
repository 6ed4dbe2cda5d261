//! A bisection over the revisions of a repository.

use futures::future::LocalBoxFuture;
use hotplug_statistics::clean_trials;
use std::path::PathBuf;
use std::time::Instant;

use super::driver::{Lineup, LineupSpec};
use super::{BisectResult, Bisection, Revision, RevisionGraph, Suspected, Test};
use crate::comparison::Env;
use crate::kernel::{PairSpec, Revisions, resolve};
use crate::record::{Head, RunFolder};
use crate::scenario::Scenario;
use crate::{Error, Result};

/// A bisection.
#[derive(Debug, Clone)]
pub struct BisectSpec {
    /// The repository.
    pub source: PathBuf,
    /// The name of the report: the beginning of its signature, or a part of its title, its key or
    /// the text of a WARN.
    pub called: String,
    /// The most trials of one revision.
    pub trials: u32,
    /// What all kernels and trials have in common.
    pub all: LineupSpec,
}

impl BisectSpec {
    /// Checks for the user's errors: a scenario that cannot be read, or an empty name of the
    /// report.
    fn check(&self) -> Result<()> {
        for file in self.all.scenarios.paths(self.all.kernels().arch.unwrap_or_default()) {
            Scenario::read(&file)?;
        }
        if self.called.is_empty() {
            return Err(Error::user("--signature is empty").help("give a part of the report's title"));
        }
        Ok(())
    }

    /// The kernel of a revision, on both sides.
    fn pair(&self, revision: &str) -> PairSpec {
        PairSpec { source: Some(format!("{}@{revision}", self.source.display())), ..self.all.kernels() }
    }
}

/// Tries the revision that is checked out. `rate` is the share of a bad revision's trials that show
/// the report. It sets the number of trials after which a silent revision is good at 95 %.
pub fn step<'a>(spec: &'a BisectSpec, rate: f64, env: &'a Env<'a>) -> LocalBoxFuture<'a, Result<Test>> {
    Box::pin(async move {
        spec.check()?;
        let revision = resolve(&spec.source, "HEAD", env.cancel).await?;
        let folder = RunFolder::bare(&spec.all.running.results, &format!("bisect-{}", &revision[..12]))?;
        let trials = clean_trials(rate, 0.95).min(spec.trials);
        let lineup =
            Lineup { all: &spec.all, folder: folder.path(), called: &spec.called, most: spec.trials, env };
        let test = lineup.try_out(spec.pair(&revision), trials, true).await?;
        folder.write("test.json", &test)?;
        Ok(test)
    })
}

/// The progress of a bisection.
#[derive(Debug)]
pub enum Bisecting<'a> {
    /// It begins: the source with its range, the number of revisions, and the head of its result.
    Begins {
        /// The repository and the range.
        source: &'a str,
        /// The number of revisions after the good end.
        revisions: usize,
        /// The name of the report.
        called: &'a str,
        /// The head of the result.
        head: &'a Head,
    },
    /// A revision was tried.
    Tested {
        /// The name and the subject of the revision.
        name: &'a str,
        /// The result of the test.
        test: &'a Test,
        /// The state of the bisection.
        bisection: &'a Bisection,
    },
    /// The bisection has ended.
    Suspected {
        /// The answer.
        suspected: &'a Suspected,
        /// The name and the subject of each revision.
        names: &'a [String],
        /// The state of the bisection.
        bisection: &'a Bisection,
    },
}

/// Finds the revision between `good` and `bad` that introduced the report. `confidence` is the
/// probability that the answer must have. Returns the result and its folder.
pub fn bisect<'a>(
    spec: &'a BisectSpec,
    (good, bad): (&'a str, &'a str),
    confidence: f64,
    env: &'a Env<'a>,
    tell: &'a mut (dyn FnMut(Bisecting<'_>) -> Result<()> + 'a),
) -> LocalBoxFuture<'a, Result<(BisectResult, RunFolder)>> {
    Box::pin(async move {
        let (started, began) = (jiff::Timestamp::now(), Instant::now());
        spec.check()?;
        let revisions = Revisions::between(&spec.source, good, bad, env.cancel).await?;
        let (history, names) = RevisionGraph::of_rev_list(&revisions.good, &revisions.list);
        let shown: Vec<String> = names
            .iter()
            .zip(&revisions.subjects)
            .map(|(name, subject)| format!("{} {subject}", name.get(..12).unwrap_or(name)))
            .collect();
        let last = names.len() - 1;
        // The kernel is held, so that no prune removes it.
        let (_kernel, host, running) = env.settle(&spec.all.running, &spec.pair(&names[last])).await?;
        let all = LineupSpec { running, ..spec.all.clone() };
        let folder = RunFolder::bare(&all.running.results, "bisect")?;
        let mut bisection = Bisection::new(history, confidence.min(0.9999));
        let mut result = BisectResult {
            head: Head::new(started, env.command, host),
            called: spec.called.clone(),
            exit_status: 3,
            revisions: revisions_of(&names, &bisection),
            tests: Vec::new(),
            suspected: None,
            seconds: 0.0,
        };
        let source = format!("{} {good}..{bad}", spec.source.display());
        tell(Bisecting::Begins {
            source: &source,
            revisions: last,
            called: &spec.called,
            head: &result.head,
        })?;
        let lineup =
            Lineup { all: &all, folder: folder.path(), called: &spec.called, most: spec.trials, env };
        let hunted = lineup
            .hunt(
                &mut bisection,
                |revision| spec.pair(&names[revision]),
                |revision, test, bisection| {
                    tell(Bisecting::Tested { name: &shown[revision], test, bisection })?;
                    // The result is written after each test, so that a bisection that is killed
                    // leaves what it had.
                    result.tests.push(Test { revision, ..test.clone() });
                    result.revisions = revisions_of(&names, bisection);
                    result.seconds = began.elapsed().as_secs_f64();
                    folder.write("bisect.json", &result)
                },
            )
            .await;
        let suspected = hunted?;
        result.exit_status = exit_status(&suspected);
        result.seconds = began.elapsed().as_secs_f64();
        tell(Bisecting::Suspected { suspected: &suspected, names: &shown, bisection: &bisection })?;
        result.suspected = Some(suspected);
        folder.write("bisect.json", &result)?;
        Ok((result, folder))
    })
}

fn revisions_of(names: &[String], bisection: &Bisection) -> Vec<Revision> {
    let known = bisection.tested().iter().zip(bisection.posterior());
    let all = names.iter().zip(known);
    all.map(|(name, (tested, probability))| Revision {
        name: name.clone(),
        tested: tested.clone(),
        probability,
    })
    .collect()
}

fn exit_status(suspected: &Suspected) -> u8 {
    match suspected.revisions.as_slice() {
        [0] if suspected.decided => 1,
        [_] if suspected.decided => 0,
        _ => 3,
    }
}

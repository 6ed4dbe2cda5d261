//! The part of a comparison that asks whether the changed code ran: both kernels once more with counters in the files that
//! differ, and trials of their own, as many as it takes until every changed line has run, or as many as there are.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hotplug_side::{Side, Sides};

use super::Prepared;
use crate::compare::{Coverage, FileCoverage, SideCounts};
use crate::coverage::{self, Counted, Objects, TrialCounters, changed, line_counts};
use crate::environment::{self, Env};
use crate::error::ErrorKind;
use crate::events::Builds;
use crate::files::read_json_if_there;
use crate::kernel::{Counting, Kernel, Touched, build_counted};
use crate::trial::{self, Ran, Setting, run_all};
use crate::{Error, Result};

/// Counted trials a side, where lines keep not running. A scenario without chance does the same in each of them.
const MOST: u32 = 10;

/// Asks; none where the two sides are one kernel. An error is an interruption, or our own disk's.
pub(crate) async fn coverage(prepared: &Prepared, env: &Env<'_>) -> Result<Option<Coverage>> {
    let kernels = &prepared.kernels;
    if kernels.before.id == kernels.after.id {
        return Ok(None);
    }
    if kernels.before.record.is_none() || kernels.after.record.is_none() {
        return Ok(Some(Coverage::none("a kernel was given as an image")));
    }
    match Box::pin(count(prepared, env)).await {
        Ok(coverage) => Ok(Some(coverage)),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => Ok(Some(Coverage::none(error.to_string()))),
    }
}

/// One side of the counted pair.
struct Half {
    touched: Vec<Touched>,
    /// Where sources and notes are.
    folder: PathBuf,
    /// What was counted so far, and in how many trials.
    counters: TrialCounters,
    trials: u32,
}

impl Half {
    fn of(kernel: &Kernel) -> Result<Self> {
        let (touched, folder) = kernel
            .touched()
            .ok_or_else(|| Error::infrastructure("the counted kernel lacks the list of its counted files"))?;
        Ok(Self { touched, folder, counters: TrialCounters::default(), trials: 0 })
    }

    /// The counted files.
    fn sources(&self) -> Vec<String> {
        let counted = self.touched.iter().filter(|file| file.counting == Counting::Counted);
        counted.map(|file| file.path.clone()).collect()
    }

    fn text(&self, path: &str) -> Result<String> {
        match fs_err::read(self.folder.join(path)) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// What was counted of each touched file.
    async fn counts(&self, env: &Env<'_>) -> Result<BTreeMap<String, SideCounts>> {
        let sources = self.sources();
        let wanted: Vec<String> = self.touched.iter().map(|file| file.path.clone()).collect();
        let read =
            async |objects: &Objects| line_counts(&self.folder, &sources, objects, &wanted, env.cancel).await;
        let mut total = self.counters.boot.clone();
        self.counters.during.iter().for_each(|during| total.add(&during.objects));
        let mut counts: BTreeMap<String, SideCounts> = BTreeMap::new();
        for (path, all) in read(&total).await? {
            counts.entry(path).or_default().all = all;
        }
        for (path, boot) in read(&self.counters.boot).await? {
            counts.entry(path).or_default().boot = boot;
        }
        for during in &self.counters.during {
            for (path, lines) in read(&during.objects).await? {
                counts.entry(path).or_default().during.push((during.operations.clone(), lines));
            }
        }
        Ok(counts)
    }
}

async fn count(prepared: &Prepared, env: &Env<'_>) -> Result<Coverage> {
    let request = prepared.kernels_again(env).await?;
    env.note("coverage", "both kernels again, with counters in the files that differ");
    let pair = build_counted(env.cache, &request, &Builds(env.events), env.cancel).await?;
    let mut halves = Sides { before: Half::of(&pair.before)?, after: Half::of(&pair.after)? };
    let mut coverage = put_together(&halves, env).await?;
    let place = prepared.folder.path().join("coverage");
    let trials = place.join("trials");
    fs_err::create_dir_all(&trials)?;
    // No layout of lockdep's structures, which is read from a vmlinux: these trials are not asked for a lock order.
    let mut kernels = Sides { before: pair.before, after: pair.after };
    (kernels.before.vmlinux, kernels.after.vmlinux) = (None, None);
    let most = prepared.run.trials.unwrap_or(prepared.setting.scenario.trials).min(MOST);
    let mut setting = prepared.further(&kernels).await?;
    setting.counted = Some(Sides { before: halves.before.sources(), after: halves.after.sources() });
    let mut is_started = false;
    for number in 0..most {
        // The first trial is for the functions too, and each side has those.
        let first = number == 0 && coverage.lines().1 > 0;
        let wanted: Vec<Side> =
            Side::BOTH.into_iter().filter(|side| first || coverage.lacks(*side)).collect();
        if wanted.is_empty() {
            break;
        }
        // A run that goes on has some of them already.
        let mut missing = Vec::new();
        for &side in &wanted {
            if find(&trials, side, number)?.is_none() {
                missing.push(side);
            }
        }
        if !missing.is_empty() {
            if !is_started {
                let evidence = place.join("checkpoints");
                environment::start(prepared.run.plan.cold, &mut setting, &evidence, env).await?;
                is_started = true;
            }
            run(prepared, &setting, &missing, number, &trials, env).await?;
        }
        for side in wanted {
            let counted = find(&trials, side, number)?.ok_or_else(|| {
                Error::infrastructure(format!("the counted {side} trial {number} came to nothing"))
            })?;
            add(halves.of_mut(side), counted)?;
        }
        coverage = put_together(&halves, env).await?;
    }
    Ok(coverage)
}

/// Runs this trial of these sides.
async fn run(
    prepared: &Prepared,
    setting: &Setting,
    sides: &[Side],
    number: u32,
    folder: &Path,
    env: &Env<'_>,
) -> Result<()> {
    let plans = trial::plan(number..number + 1, prepared.run.seed).filter(|plan| sides.contains(&plan.side));
    let tell = |_| ControlFlow::Continue(());
    let Ran { stopped, .. } =
        run_all(setting, plans, prepared.run.plan.workers, folder, env.cancel, &tell).await;
    stopped.map_or(Ok(()), Err)
}

/// What the trial left, whichever of its attempts counted.
fn find(trials: &Path, side: Side, number: u32) -> Result<Option<Counted>> {
    for entry in fs_err::read_dir(trials)? {
        let counted: Option<Counted> = read_json_if_there(&entry?.path().join(coverage::FILE))?;
        if counted.as_ref().is_some_and(|counted| (counted.side, counted.number) == (side, number)) {
            return Ok(counted);
        }
    }
    Ok(None)
}

fn add(half: &mut Half, counted: Counted) -> Result<()> {
    if let Some(why) = &counted.counters.none {
        return Err(Error::infrastructure(why));
    }
    half.counters.merge(counted.counters);
    half.trials += 1;
    Ok(())
}

/// What ran of every touched file.
async fn put_together(halves: &Sides<Half>, env: &Env<'_>) -> Result<Coverage> {
    let mut counts =
        Sides { before: halves.before.counts(env).await?, after: halves.after.counts(env).await? };
    let mut files = Vec::new();
    // Both sides list the same files.
    for (before, after) in halves.before.touched.iter().zip(&halves.after.touched) {
        let path = before.path.clone();
        let changed = changed(&halves.before.text(&path)?, &halves.after.text(&path)?);
        let mut of = |side| counts.of_mut(side).remove(&path).unwrap_or_default();
        let counts = Sides { before: of(Side::Before), after: of(Side::After) };
        let counting = Sides { before: before.counting, after: after.counting };
        files.push(FileCoverage::new(path, counting, changed, &counts));
    }
    let trials = Sides { before: halves.before.trials, after: halves.after.trials };
    Ok(Coverage { none: None, trials, files })
}

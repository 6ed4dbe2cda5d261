//! The coverage analysis: whether the changed code ran. Both kernels are built again, with counters
//! in the files that differ. They run trials of their own until every changed line has run, but no
//! more than are judged.

mod section;

pub use section::full;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hotplug_side::{Side, Sides};

use super::{Analysis, Kernels, Prepared};
use crate::compare::{Coverage, FileCoverage, Judgement, SideCounts};
use crate::conclusion::Conclusions;
use crate::coverage::{self, Counted, Objects, TrialCounters, changed, line_counts};
use crate::environment::{self, Env};
use crate::files::read_json_if_there;
use crate::kernel::{Counting, Kernel, Touched};
use crate::trial::{self, Instruments, TrialContext, TrialPlan, TrialSetup, TrialStart};
use crate::unavailable::Unavailable;
use crate::{Error, Result};

/// The maximum number of counted trials a side if lines never run. A scenario without randomness
/// repeats itself in each of them.
const MOST: u32 = 10;

pub(crate) struct CoverageAnalysis;

impl Analysis for CoverageAnalysis {
    type Conclusion = Coverage;

    const NAME: &'static str = "coverage";

    fn kernels(prepared: &Prepared) -> Vec<Kernels> {
        let differ = prepared.kernels.before.id != prepared.kernels.after.id;
        if differ && prepared.are_built() { vec![Kernels::Counted] } else { Vec::new() }
    }

    async fn conclude(
        prepared: &Prepared,
        _: &mut Judgement,
        _: &Conclusions,
        env: &Env<'_>,
    ) -> Result<Option<Coverage>> {
        if prepared.kernels.before.id == prepared.kernels.after.id {
            return Ok(None);
        }
        if !prepared.are_built() {
            return Ok(Some(Coverage::none(Unavailable::because(
                "a kernel was given as an image or a package",
            ))));
        }
        count(prepared, env).await.map(Some)
    }

    fn unavailable(_: &Prepared, why: Unavailable) -> Option<Coverage> {
        Some(Coverage::none(why))
    }
}

/// One side of the counted pair.
struct Half {
    touched: Vec<Touched>,
    /// The folder of the sources and of gcc's notes files.
    folder: PathBuf,
    /// The sum of all counters so far, and the number of their trials.
    counters: TrialCounters,
    trials: u32,
    /// Of these, trials that panicked or hung.
    cut: u32,
}

impl Half {
    fn of(kernel: &Kernel) -> Result<Self> {
        let (touched, folder) = kernel
            .touched()
            .ok_or_else(|| Error::infrastructure("the counted kernel lacks the list of its counted files"))?;
        Ok(Self { touched, folder, counters: TrialCounters::default(), trials: 0, cut: 0 })
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

    /// The counts of each touched file.
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
        for counts in counts.values_mut() {
            counts.is_cut = self.cut > 0;
        }
        Ok(counts)
    }
}

async fn count(prepared: &Prepared, env: &Env<'_>) -> Result<Coverage> {
    let mut kernels = prepared.kernels_for(Kernels::Counted, "coverage", env).await?;
    let mut halves = Sides { before: Half::of(&kernels.before)?, after: Half::of(&kernels.after)? };
    let mut coverage = put_together(&halves, env).await?;
    // Without a vmlinux there is no layout of lockdep's structures, so no lock order is read from
    // these trials.
    let vmlinux = Sides { before: kernels.before.vmlinux.take(), after: kernels.after.vmlinux.take() };
    let context = prepared.further_context(&kernels).await?;
    let mut context = TrialContext { vmlinux, ..context };
    let sources = Sides { before: halves.before.sources(), after: halves.after.sources() };
    let instruments = Instruments { counted: Some(sources), ..Instruments::default() };
    // One scenario runs until all lines ran. Of several, each has one turn.
    let most = match prepared.parts.len() {
        1 => prepared.run.trials.unwrap_or(context.scenario.trials).min(MOST),
        _ => 1,
    };
    let turns = prepared.parts.iter().flat_map(|part| (0..most).map(move |number| (part, number)));
    let mut start: Option<TrialStart> = None;
    for (turn, (part, number)) in turns.enumerate() {
        // The first trial also counts the functions, which exist on both sides.
        let first = turn == 0 && coverage.lines().1 > 0;
        let wanted: Vec<Side> =
            Side::BOTH.into_iter().filter(|side| first || coverage.lacks(*side)).collect();
        if wanted.is_empty() {
            break;
        }
        let place = part.of_trial.below(prepared.folder.path().join("coverage"));
        let trials = place.join("trials");
        fs_err::create_dir_all(&trials)?;
        if number == 0 && turn > 0 {
            context = context.with_scenario(part.context.scenario.clone().unheld());
            start = None;
        }
        // A continued run has some of them already.
        let mut missing = Vec::new();
        for &side in &wanted {
            if find(&trials, side, number)?.is_none() {
                missing.push(side);
            }
        }
        if !missing.is_empty() {
            let start = match &mut start {
                Some(start) => start,
                none => {
                    let evidence = place.join("checkpoints");
                    none.insert(environment::start(prepared.run.plan.cold, &context, &evidence, env).await?)
                }
            };
            let plans = trial::plan(number..number + 1, prepared.run.seed);
            let plans: Vec<TrialPlan> = plans.filter(|plan| missing.contains(&plan.side)).collect();
            let setup = TrialSetup { context: &context, start, instruments: &instruments, rounds: 1 };
            prepared.run_further(&[setup], plans, prepared.run.plan.workers, &trials, env).await?;
        }
        for side in wanted {
            let counted = find(&trials, side, number)?.ok_or_else(|| {
                Error::infrastructure(format!("the counted {side} trial {number} gave no result"))
            })?;
            add(halves.of_mut(side), counted)?;
        }
        coverage = put_together(&halves, env).await?;
    }
    Ok(coverage)
}

/// The counters of a trial, from whichever of its attempts counted.
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
    half.cut += u32::from(counted.is_cut);
    Ok(())
}

/// The coverage of every touched file.
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
    let cut = Sides { before: halves.before.cut, after: halves.after.cut };
    Ok(Coverage { none: None, trials, cut, files })
}

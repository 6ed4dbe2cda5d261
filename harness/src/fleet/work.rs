//! Runs one shard of a plan to its end, on any machine.

use std::path::{Path, PathBuf};

use futures::future::LocalBoxFuture;

use super::{BuiltPair, Plan, PlannedPair, Shard};
use crate::comparison::{
    AnalysesSpec, ComparisonSpec, Env, Finished, ResumeSpec, RunningSpec, ScenarioChoice, TrialsSpec,
    compare_inner, resume, run_inner,
};
use crate::error::ErrorKind;
use crate::kernel::{KernelPair, PairSpec};
use crate::record::RunFolder;
use crate::trial::TrialOutcome;
use crate::{Error, Result};

/// Builds one pair of kernels of a plan, by its number, so that the shards find the pair in the
/// cache.
pub fn build_kernels<'a>(
    plan: &'a Path,
    number: usize,
    env: &'a Env<'a>,
) -> LocalBoxFuture<'a, Result<KernelPair>> {
    Box::pin(async move {
        let (plan, folder) = read(plan)?;
        let kernels = plan.kernels();
        let kernel = kernels.get(number).ok_or_else(|| {
            Error::user(format!("the plan has no pair of kernels {number}"))
                .help(format!("name one from 0 to {}", kernels.len() - 1))
        })?;
        kernel.check_contents(env.cache, env.cancel).await?;
        let built = env.build(&pair(kernel, &folder).request()?).await?;
        BuiltPair::of(&built).write(&folder, number)?;
        Ok(built)
    })
}

fn read(plan: &Path) -> Result<(Plan, PathBuf)> {
    let (plan, folder) = Plan::read(plan)?;
    Ok((plan, fs_err::canonicalize(folder)?))
}

/// A shard that has ended.
#[derive(Debug)]
pub struct Worked {
    /// The name of its combination.
    pub cell: String,
    /// The shard's result.
    pub shard: Shard,
    /// Whether an earlier process ran the shard.
    pub was_done: bool,
}

/// Runs the shard that `asked` selects, by its number from 0 or by the beginning of its id. With
/// `keep`, the files of clean trials are kept.
pub fn work<'a>(
    plan: &'a Path,
    asked: &'a str,
    keep: bool,
    running: &'a RunningSpec,
    env: &'a Env<'a>,
) -> LocalBoxFuture<'a, Result<Worked>> {
    Box::pin(async move {
        let (plan, folder) = read(plan)?;
        let (at, piece) = plan.piece(asked)?;
        let cell = &plan.cells[at];
        let place = Shard::folder(&folder, &piece.id);
        fs_err::create_dir_all(&place)?;
        // A scheduler that has lost a node may give the node's shard to another one.
        let _alone = RunFolder::reopen(&place)
            .map_err(|error| Error::infrastructure(format!("shard {} cannot be run: {error}", piece.id)))?;
        if let Ok(Some(shard)) = Shard::read(&place) {
            return Ok(Worked { cell: cell.name.clone(), shard, was_done: true });
        }
        let number = plan.kernels().iter().position(|kernel| **kernel == cell.kernel);
        let built = number.map_or(Ok(None), |number| BuiltPair::recall(&folder, number, env.cache))?;
        if built.is_none() {
            cell.kernel.check_contents(env.cache, env.cancel).await?;
        }
        let spec = ComparisonSpec {
            kernels: pair(&cell.kernel, &folder),
            built: built.map(Box::new),
            scenarios: ScenarioChoice::one(Some(folder.join(&cell.scenario))),
            trials: TrialsSpec { first: piece.first, end: Some(piece.end), ..TrialsSpec::default() },
            analyses: AnalysesSpec::none(),
            running: RunningSpec {
                seed: Some(cell.seed),
                known: plan.known.as_ref().map(|known| folder.join(known)),
                results: place.clone(),
                ..running.clone()
            },
            ..ComparisonSpec::default()
        };
        let finished = match begun(&place)? {
            None => compare_inner(&spec, env).await?,
            // The process that began the run was stopped. Its trials that ended count. If the run
            // cannot be resumed, it starts again.
            Some(run) => {
                let again = ResumeSpec {
                    run: run.clone(),
                    analyses: AnalysesSpec::none(),
                    workers: running.workers,
                    known: spec.running.known.clone(),
                    ..ResumeSpec::default()
                };
                match async { run_inner(resume(&again, env).await?, env).await }.await {
                    Err(error) if error.kind() == ErrorKind::User => {
                        env.note(
                            "hotplug:",
                            &format!("{} cannot be resumed and starts again: {error}", run.display()),
                        );
                        fs_err::remove_dir_all(&run)?;
                        compare_inner(&spec, env).await?
                    }
                    other => other?,
                }
            }
        };
        let Finished { folder: run, result, judge, .. } = finished;
        let shard = Shard {
            plan: plan.id.clone(),
            id: piece.id.clone(),
            run: result.run,
            judge,
            repeated: result.repeated,
            seconds: result.trials_seconds,
        };
        shard.write(&place)?;
        if !keep {
            forget_clean(&run.trials())?;
        }
        Ok(Worked { cell: cell.name.clone(), shard, was_done: false })
    })
}

/// The kernels of a plan's combination.
fn pair(kernel: &PlannedPair, folder: &Path) -> PairSpec {
    let below = |files: &[PathBuf]| files.iter().map(|file| folder.join(file)).collect();
    PairSpec {
        source: Some(kernel.source.clone()),
        patches: below(&kernel.patches),
        base_patches: below(&kernel.base_patches),
        before: kernel.before.clone(),
        after: kernel.after.clone(),
        config: below(&kernel.config),
        ..PairSpec::default()
    }
}

/// The run that an earlier attempt at the shard left.
fn begun(place: &Path) -> Result<Option<PathBuf>> {
    let mut runs = Vec::new();
    for entry in fs_err::read_dir(place)? {
        let path = entry?.path();
        if path.join("run.json").is_file() {
            runs.push(path);
        }
    }
    runs.sort();
    Ok(runs.pop())
}

/// Removes the clean trials, except the first of each side. A night can have a million of them, and
/// they are not needed.
fn forget_clean(trials: &Path) -> Result<()> {
    /// The fields that are needed.
    #[derive(serde::Deserialize)]
    struct Ended {
        side: hotplug_side::Side,
        outcome: TrialOutcome,
    }
    let mut kept = hotplug_side::Sides::default();
    let mut folders: Vec<PathBuf> =
        fs_err::read_dir(trials)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    folders.sort();
    for folder in folders {
        let Ok(text) = fs_err::read(folder.join("trial.json")) else { continue };
        let Ok(ended) = serde_json::from_slice::<Ended>(&text) else { continue };
        let first = !std::mem::replace(kept.of_mut(ended.side), true);
        if ended.outcome == TrialOutcome::Clean && !first {
            fs_err::remove_dir_all(folder)?;
        }
    }
    Ok(())
}

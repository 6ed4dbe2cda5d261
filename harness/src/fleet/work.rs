//! One shard of a plan, run to its end wherever it is.

use std::path::{Path, PathBuf};

use futures::future::LocalBoxFuture;

use super::{BuiltPair, Kernel, Plan, Shard};
use crate::comparison::{
    AnalysesSpec, ComparisonSpec, Env, Finished, ResumeSpec, RunningSpec, TrialsSpec, compare_inner, resume,
    run_inner,
};
use crate::error::ErrorKind;
use crate::kernel::{KernelPair, PairSpec};
use crate::record::RunFolder;
use crate::trial::TrialOutcome;
use crate::{Error, Result};

/// Builds one pair of kernels of a plan, by its number, so that its shards find it in the cache.
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
                .help(format!("from 0 to {}", kernels.len() - 1))
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
    /// What came of it.
    pub shard: Shard,
    /// An earlier process ran it.
    pub was_done: bool,
}

/// Runs the shard that `asked` names: its number from 0, or the begin of its id. With `keep`, what clean trials wrote stays.
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
        // A scheduler that has lost a node gives its shard to another.
        let _alone = RunFolder::reopen(&place).map_err(|error| {
            Error::infrastructure(format!("shard {} cannot be worked on: {error}", piece.id))
        })?;
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
            scenario: Some(folder.join(&cell.scenario)),
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
            // The process that began it was stopped: what ended counts. Where it cannot go on it begins anew.
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
                        env.note("hotplug:", &format!("{} is begun anew: {error}", run.display()));
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
fn pair(kernel: &Kernel, folder: &Path) -> PairSpec {
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

/// The run that an earlier attempt at a shard left.
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

/// A night has a million clean trials, and nobody looks at them: of each side the first is kept.
fn forget_clean(trials: &Path) -> Result<()> {
    /// What it is read for.
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

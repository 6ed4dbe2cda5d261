//! `hotplug work`: one shard of a plan.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::compare::CompareArgs;
use super::comparison::{Finished, whole};
use super::kernel::{BuildReporter, PairArgs, cache_path};
use super::rerun::RerunArgs;
use super::running::RunningArgs;
use crate::error::ErrorKind;
use crate::fleet::{BuiltPair, Kernel, Plan, Shard};
use crate::kernel::{Cache, build_pair};
use crate::present::fleet as screen;
use crate::record::RunFolder;
use crate::trial::TrialOutcome;
use crate::{Error, Result};

/// Options of `hotplug work`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug work fleet/nightly-3fa9c1d2e8b4 17
  hotplug work fleet/nightly-3fa9c1d2e8b4 9c1f22ab03d4e5f6 --workers 8
  hotplug work fleet/nightly-3fa9c1d2e8b4 --build 0

Exit status: 0 the shard is done, whatever its trials showed; 2 your mistake; 4 infrastructure: run it again, and it goes on; \
130 interrupted.")]
pub struct WorkArgs {
    /// The plan's folder
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// The shard: its number from 0, or how its id begins
    #[arg(value_name = "SHARD", required_unless_present = "build", conflicts_with = "build")]
    pub shard: Option<String>,
    /// Only build a pair of kernels, by its number from 0: before all shards, so that they find it in the cache
    #[arg(long, value_name = "N")]
    pub build: Option<usize>,
    /// Keep what clean trials wrote too
    #[arg(long)]
    pub keep: bool,
    /// How trials run; results go into the plan's folder.
    #[command(flatten)]
    pub how: RerunArgs,
}

/// Runs the shard, or builds. What came of it goes to `out`.
pub async fn run(args: &WorkArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let (plan, folder) = Plan::read(&args.plan)?;
    let folder = fs_err::canonicalize(folder)?;
    let cache = Cache::open(cache_path(args.how.cache.as_deref())?)?;
    if let Some(number) = args.build {
        let kernels = plan.kernels();
        let kernel = kernels.get(number).ok_or_else(|| {
            Error::user(format!("the plan has no pair of kernels {number}"))
                .help(format!("from 0 to {}", kernels.len() - 1))
        })?;
        kernel.check_contents(&cache, cancel).await?;
        let request = pair(kernel, &folder, args).request()?;
        let built = build_pair(&cache, &request, &BuildReporter::new(), cancel).await?;
        BuiltPair::of(&built).write(&folder, number)?;
        writeln!(out, "built     {} and {}", built.before.id.as_str(), built.after.id.as_str())?;
        return Ok(0);
    }
    let asked = args.shard.as_deref().unwrap_or_default();
    let (at, piece) = plan.piece(asked)?;
    let cell = &plan.cells[at];
    let place = Shard::folder(&folder, &piece.id);
    fs_err::create_dir_all(&place)?;
    // A scheduler that has lost sight of a node gives its shard to another.
    let _alone = RunFolder::reopen(&place)
        .map_err(|error| Error::infrastructure(format!("shard {} cannot be worked on: {error}", piece.id)))?;
    if let Ok(Some(done)) = Shard::read(&place) {
        out.write_all(screen::shard(&cell.name, &done, "was done before").as_bytes())?;
        return Ok(0);
    }
    let number = plan.kernels().iter().position(|kernel| **kernel == cell.kernel);
    let built = number.map_or(Ok(None), |number| BuiltPair::recall(&folder, number, &cache))?;
    if built.is_none() {
        cell.kernel.check_contents(&cache, cancel).await?;
    }
    let new = CompareArgs {
        pair: pair(&cell.kernel, &folder, args),
        kernels: built.map(Box::new),
        scenario: Some(folder.join(&cell.scenario)),
        first: piece.first,
        trials: Some(piece.end),
        no_latency: true,
        running: RunningArgs {
            seed: Some(cell.seed),
            known: plan.known.as_ref().map(|known| folder.join(known)),
            ..args.how.running(&place)
        },
        ..CompareArgs::default()
    };
    let finished = match begun(&place)? {
        None => whole(&new, &cache, cancel).await?,
        // Whoever began it was stopped: what ended counts. On a machine where it cannot go on it begins anew.
        Some(run) => {
            let again = CompareArgs { resume: Some(run.clone()), trials: None, ..new.clone() };
            match whole(&again, &cache, cancel).await {
                Err(error) if error.kind() == ErrorKind::User => {
                    eprintln!("hotplug: {} is begun anew: {error}", run.display());
                    fs_err::remove_dir_all(&run)?;
                    whole(&new, &cache, cancel).await?
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
    if !args.keep {
        forget_clean(&run.trials())?;
    }
    out.write_all(screen::shard(&cell.name, &shard, "done").as_bytes())?;
    Ok(0)
}

/// The kernels of a plan, as they are asked for.
fn pair(kernel: &Kernel, folder: &Path, args: &WorkArgs) -> PairArgs {
    let below = |files: &[PathBuf]| files.iter().map(|file| folder.join(file)).collect();
    PairArgs {
        source: Some(kernel.source.clone()),
        patches: below(&kernel.patches),
        base_patch: below(&kernel.base_patches),
        before: kernel.before.clone(),
        after: kernel.after.clone(),
        config: below(&kernel.config),
        cache: args.how.cache.clone(),
        ..PairArgs::default()
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

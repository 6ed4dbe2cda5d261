//! Reads the lock order of a run's trials from its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hotplug_lockorder::{LockOrder, TrialLocks, Union};
use hotplug_side::Side;

use crate::files::read_json_if_there;
use crate::unavailable::Unavailable;
use crate::{Error, Result};

/// The folder of a further boot of a run's kernels. Like the run's folder, it contains
/// `checkpoints/` and `trials/`.
pub fn further_boot(run: &Path, number: u32) -> PathBuf {
    run.join("boots").join(number.to_string())
}

/// Reads the lock order of all trials of the run in `folder`. Fails with a user error if a file is
/// malformed. The inner error is the reason why there is no lock order to read.
pub fn read_locks(folder: &Path) -> Result<std::result::Result<Union, Unavailable>> {
    let mut union = Union::default();
    Ok(add_locks(&mut union, folder, Some)?.map(|()| union))
}

/// Adds them to `union`. The trials of each side count for the side that `counts_for` returns, or
/// are skipped.
pub fn add_locks(
    union: &mut Union,
    folder: &Path,
    counts_for: impl Fn(Side) -> Option<Side>,
) -> Result<std::result::Result<(), Unavailable>> {
    let (mut why, mut restored, mut readable) = (None, false, false);
    let mut boots = Boots::default();
    each_trial(folder, |mut trial| {
        let of = trial.side;
        let Some(side) = counts_for(of) else { return Ok(()) };
        trial.side = side;
        restored |= trial.restored;
        // A trial without any lock class was not read, because a guest has taken many locks before
        // its agent responds.
        readable |= trial.restored || !trial.order.classes.is_empty();
        why = why.take().or_else(|| trial.blind.clone());
        match boots.of(folder, of, &trial)? {
            Some((name, boot)) => union.add_restored(&trial, name, boot),
            None => union.add(&trial),
        }
        Ok(())
    })?;
    // Each scenario of several has checkpoints of its own.
    if restored && boots.0.is_empty() {
        for of in Side::BOTH {
            let Some(side) = counts_for(of) else { continue };
            if let Some(order) = read_boot(&folder.join("checkpoints"), of)? {
                union.add_boot(side, &order);
            }
        }
    }
    if readable {
        return Ok(Ok(()));
    }
    Ok(Err(Unavailable::because(why.unwrap_or_else(|| "no trial has a lock order".into()))))
}

/// Calls `each` with the lock order of each trial of the run in `folder`, in the order of their names.
/// Fails with a user error if a file is malformed.
pub fn each_trial(folder: &Path, mut each: impl FnMut(TrialLocks) -> Result<()>) -> Result<()> {
    let trials = folder.join("trials");
    let mut names = BTreeSet::new();
    let entries = fs_err::read_dir(&trials).map_err(|error| {
        Error::user(format!("{} is not the folder of a run: {error}", folder.display()))
            .help("name a folder below results/")
    })?;
    for entry in entries {
        names.insert(entry?.file_name());
    }
    for name in names {
        let path = trials.join(name).join(hotplug_lockorder::FILE);
        // A trial that was cut off, or that does not count, has no such file.
        let Some(trial) = read_json_if_there::<TrialLocks>(&path)? else { continue };
        check(&path, &trial.order)?;
        each(trial)?;
    }
    Ok(())
}

/// Calls `each` with the lock order of each checkpoint of the run in `folder`, its folder below the
/// run's, and the kernel that booted. Fails with a user error if a file is malformed.
pub fn each_boot(folder: &Path, mut each: impl FnMut(&str, Side, &LockOrder) -> Result<()>) -> Result<()> {
    let checkpoints = folder.join("checkpoints");
    let mut all = vec![(String::new(), checkpoints.clone())];
    // A run with several scenarios has a folder for each.
    for entry in checkpoints.read_dir().into_iter().flatten().flatten() {
        all.push((format!("{}/", entry.file_name().to_string_lossy()), entry.path()));
    }
    all.sort();
    for (scenario, path) in all {
        for side in Side::BOTH {
            if let Some(order) = read_boot(&path, side)? {
                each(&format!("checkpoints/{scenario}{side}"), side, &order)?;
            }
        }
    }
    Ok(())
}

/// The lock order of a side's checkpoint below `checkpoints`.
fn read_boot(checkpoints: &Path, side: Side) -> Result<Option<LockOrder>> {
    let path = boot_of(checkpoints, side);
    let order = read_json_if_there::<LockOrder>(&path)?;
    if let Some(order) = &order {
        check(&path, order)?;
    }
    Ok(order)
}

/// The file of a side's checkpoint below `checkpoints`. If both kernels are the same, one checkpoint
/// serves both, in the folder of one side.
fn boot_of(checkpoints: &Path, side: Side) -> PathBuf {
    let of = |side: Side| checkpoints.join(side.to_string());
    let folder = if of(side).is_dir() { of(side) } else { of(side.other()) };
    folder.join(hotplug_lockorder::FILE)
}

/// The lock orders of the checkpoints of a run with several scenarios, by the scenario and the side.
#[derive(Default)]
struct Boots(BTreeMap<(String, Side), LockOrder>);

impl Boots {
    /// The scenario of a trial, and the lock order of the checkpoint that it was restored from.
    fn of(&mut self, run: &Path, side: Side, trial: &TrialLocks) -> Result<Option<(&str, &LockOrder)>> {
        let end = trial.folder.rfind(&format!("-{side}-")).filter(|_| trial.restored);
        let Some(scenario) = end.and_then(|end| trial.folder.get(..end)) else { return Ok(None) };
        let key = (scenario.to_owned(), side);
        if !self.0.contains_key(&key) {
            let checkpoints = run.join("checkpoints").join(scenario);
            let Some(order) = read_boot(&checkpoints, side)? else { return Ok(None) };
            self.0.insert(key.clone(), order);
        }
        Ok(self.0.get_key_value(&key).map(|((scenario, _), order)| (scenario.as_str(), order)))
    }
}

fn check(path: &Path, order: &LockOrder) -> Result<()> {
    if order.is_sound() {
        return Ok(());
    }
    Err(Error::user(format!("{} names locks or call paths that are not in it", path.display()))
        .help("restore the file, or remove its trial's folder and continue the run with --continue"))
}

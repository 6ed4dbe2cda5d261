//! The lock order that the trials of a run left in its folder.

use std::collections::BTreeSet;
use std::path::Path;

use crate::lockorder::{self, LockOrder, TrialLocks, Union};
use crate::side::Side;
use crate::{Error, Result};

/// Reads what all trials of the run in `folder` showed. An error of the user's names a file that is none of ours; inside,
/// why there is nothing to be read.
pub fn read_locks(folder: &Path) -> Result<std::result::Result<Union, String>> {
    let mut union = Union::default();
    let mut why = None;
    let mut restored = false;
    let trials = folder.join("trials");
    let mut names = BTreeSet::new();
    for entry in fs_err::read_dir(&trials)? {
        names.insert(entry?.file_name());
    }
    for name in names {
        let path = trials.join(name).join(lockorder::FILE);
        // One that was cut off, or that does not count, has none.
        let Some(trial) = read::<TrialLocks>(&path)? else { continue };
        check(&path, &trial.order)?;
        restored |= trial.restored;
        why = why.or_else(|| trial.blind.clone());
        union.add(&trial);
    }
    if restored {
        for side in Side::BOTH {
            let path = folder.join("checkpoints").join(side.to_string()).join(lockorder::FILE);
            if let Some(order) = read::<LockOrder>(&path)? {
                check(&path, &order)?;
                union.add_boot(side, &order);
            }
        }
    }
    if union.edges().next().is_none() {
        return Ok(Err(why.unwrap_or_else(|| "no trial kept its lock order".into())));
    }
    Ok(Ok(union))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs_err::read(path) {
        Ok(text) => super::parse(path, &text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn check(path: &Path, order: &LockOrder) -> Result<()> {
    if order.is_sound() {
        return Ok(());
    }
    Err(Error::user(format!("{} names locks or call paths that are not in it", path.display()))
        .mend("restore the file, or remove its trial's folder and continue the run with --resume"))
}

//! `hotplug locks`: the lock order of a run's kernels.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::lockorder::Union;
use crate::present::locks;
use crate::record::{RunResult, parse, read_locks};
use crate::{Error, Result};

/// Options of `hotplug locks`.
#[derive(Debug, Clone, Args)]
pub struct LocksArgs {
    /// A comparison's folder
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// What is taken under this lock, and what it is taken under, on both sides
    #[arg(long, value_name = "LOCK")]
    pub around: Option<String>,
}

/// Prints to `out`; the exit status.
pub fn run(args: &LocksArgs, out: &mut impl Write) -> Result<u8> {
    match &args.around {
        None => {
            let path = args.result.join("result.json");
            let text = fs_err::read(&path).map_err(|error| {
                Error::user(format!("{} is no ended run's folder: {error}", args.result.display()))
                    .mend("name a folder below results/; a run that was cut off goes on with hotplug compare --continue")
            })?;
            let result: RunResult = parse(&path, &text)?;
            let Some(diff) = &result.lock_order else {
                return Err(Error::user(format!("{} says nothing of the lock order", path.display()))
                    .mend("compare again with this version of hotplug"));
            };
            out.write_all(locks::full(diff).as_bytes())?;
        }
        Some(lock) => out.write_all(around(&args.result, lock)?.as_bytes())?,
    }
    Ok(0)
}

fn around(folder: &Path, lock: &str) -> Result<String> {
    let union = read_locks(folder)?.map_err(|why| {
        Error::user(format!("{} has no lock order: {why}", folder.display())).mend("name another run")
    })?;
    let named = named(&union, lock);
    if named.is_empty() {
        let mut alike: Vec<&str> =
            union.classes().iter().map(|class| &*class.name).filter(|name| name.contains(lock)).collect();
        alike.sort_unstable();
        alike.dedup();
        alike.truncate(8);
        let error = Error::user(format!("no trial of {} took a lock called {lock}", folder.display()));
        return Err(if alike.is_empty() {
            error.mend("name it as lockdep does, such as mem_hotplug_lock")
        } else {
            error.mend(format!("there are {}", alike.join(", ")))
        });
    }
    Ok(locks::neighbourhood(&union, &named))
}

/// The classes of a name, whichever their subclass.
fn named(union: &Union, lock: &str) -> Vec<u32> {
    let places = (0..).zip(union.classes());
    places
        .filter(|(place, class)| class.name == lock || union.name(*place) == lock)
        .map(|(place, _)| place)
        .collect()
}

//! What all runs on this machine know of the lock order of a kernel. One run takes few of the paths of
//! a kernel, and a deadlock can need paths that no single scenario has together.
//!
//! ```text
//! ~/.cache/hotplug/lock-orders/<BLAKE3 of the bzImage>/
//!   atlas.json   guests, each with what it showed that no guest before it did, and with what it did
//!   lock         the lock of the runs that change it
//! ```
//!
//! A kernel has a bounded number of dependencies, and each guest adds one, so an atlas stays small.

mod work;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hotplug_lockorder::{Known, LockOrder};
use hotplug_side::Side;
use nix::fcntl::{Flock, FlockArg};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

pub(crate) use work::GuestWork;

use crate::files::{parse_json, write_json_compact};
use crate::kernel::{Cache, try_lock};
use crate::record::{KernelNote, Run, each_boot, each_trial};
use crate::scenario::Scenario;
use crate::unavailable::Unavailable;
use crate::{Error, Result};

/// The version of the file. It is raised when an older file would be misread.
const FORMAT: u32 = 1;

/// The name of the file.
const FILE: &str = "atlas.json";

/// The most guests in one atlas. Beyond, the guest that shows the least is dropped or left out: most
/// guests add one or two dependencies that a boot takes by chance.
const MOST: usize = 512;

/// The beginning of the names of its guests among the examples of a forecast.
const PREFIX: &str = "atlas/";

/// The lock order of one kernel, as far as the runs on this machine showed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Atlas {
    format: u32,
    /// BLAKE3 of the bzImage.
    pub image_hash: String,
    /// `uname -r`.
    pub release: String,
    /// The guests that added something, in the order in which they came.
    pub guests: Vec<KnownGuest>,
    /// The number of guests that were dropped or left out because there were too many.
    #[serde(default)]
    pub left_out: u32,
}

/// What a guest did, as one scenario in TOML for each of its trials. It has none if all that it did is
/// to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Work {
    /// The name of all of them.
    scenario: String,
    trials: Vec<String>,
}

impl Work {
    fn of(trials: &[Scenario]) -> Self {
        let scenario = trials.last().map(|scenario| scenario.name.clone()).unwrap_or_default();
        Self { scenario, trials: trials.iter().map(Scenario::to_toml).collect() }
    }
}

/// A guest that showed something new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownGuest {
    /// The run, and the guest's last trial or its checkpoint.
    pub name: String,
    /// What it did.
    work: Work,
    /// What no guest before it showed.
    pub order: LockOrder,
}

impl KnownGuest {
    /// Its name among the examples of a forecast.
    pub fn example(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// What it did, one scenario for each of its trials. Fails with a user error if this version of
    /// hotplug reads scenarios differently.
    pub(crate) fn work(&self) -> Result<Vec<Scenario>> {
        let Work { scenario, trials } = &self.work;
        trials.iter().map(|text| Scenario::parse(scenario, text)).collect()
    }
}

impl Atlas {
    fn empty(kernel: &KernelNote) -> Self {
        let KernelNote { image_hash, release, .. } = kernel.clone();
        Self { format: FORMAT, image_hash, release, guests: Vec::new(), left_out: 0 }
    }

    /// Reads the atlas of the kernel whose image has this hash. `None` if no run has added to it. The
    /// inner error is the reason why the file cannot be used.
    pub fn load(cache: &Cache, image_hash: &str) -> Result<std::result::Result<Option<Self>, Unavailable>> {
        let path = folder(cache, image_hash).join(FILE);
        if !path.exists() {
            return Ok(Ok(None));
        }
        let atlas = Self::read(&path)?;
        Ok(atlas.and_then(|atlas| {
            if atlas.image_hash == image_hash {
                return Ok(Some(atlas));
            }
            Err(Unavailable::because(format!("{} is of another kernel", path.display())))
        }))
    }

    /// Reads a file. The inner error is the reason why it cannot be used.
    pub fn read(path: &Path) -> Result<std::result::Result<Self, Unavailable>> {
        let text = fs_err::read(path)?;
        let unusable = |why: &str| Ok(Err(Unavailable::because(format!("{} {why}", path.display()))));
        let Ok(format) = parse_json::<Format>(path, &text) else {
            return unusable("is no whole atlas");
        };
        if format.format != FORMAT {
            return unusable("is of another version of hotplug");
        }
        match parse_json::<Self>(path, &text) {
            Ok(atlas) if atlas.guests.iter().all(|guest| guest.order.is_sound()) => Ok(Ok(atlas)),
            _ => unusable("is damaged"),
        }
    }

    /// All atlases in the cache, the one that was used last first. Those that cannot be used are
    /// reasons.
    pub fn all(cache: &Cache) -> Result<Vec<std::result::Result<Self, Unavailable>>> {
        let mut files = Vec::new();
        for entry in fs_err::read_dir(cache.lock_orders())? {
            let path = entry?.path().join(FILE);
            if let Ok(meta) = std::fs::metadata(&path) {
                files.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), path));
            }
        }
        files.sort();
        files.iter().rev().map(|(_, path)| Self::read(path)).collect()
    }

    /// The atlas of the kernel with this image, or with an image whose hash begins like this.
    pub fn named(cache: &Cache, kernel: &str) -> Result<Self> {
        let path = Path::new(kernel);
        let hash = if path.is_file() {
            blake3::hash(&fs_err::read(path)?).to_hex().to_string()
        } else {
            kernel.to_ascii_lowercase()
        };
        let all = Self::all(cache)?.into_iter().filter_map(std::result::Result::ok);
        let mut all: Vec<Self> = all.filter(|atlas| atlas.image_hash.starts_with(&hash)).collect();
        match (all.pop(), all.len()) {
            (Some(one), 0) => Ok(one),
            (Some(_), more) => Err(Error::user(format!("{} kernels begin with {kernel}", more + 1))
                .help("give more of the hash")),
            (None, _) => Err(Error::user(format!("no run showed a lock order of the kernel {kernel}"))
                .help("hotplug locks atlas lists the kernels")),
        }
    }

    /// The guest with this name among the examples of a forecast.
    pub(crate) fn guest(&self, example: &str) -> Option<&KnownGuest> {
        let name = example.strip_prefix(PREFIX)?;
        self.guests.iter().find(|guest| guest.name == name)
    }

    /// The guests of other runs than this one.
    pub(crate) fn guests_beside<'a>(&'a self, run: &str) -> impl Iterator<Item = &'a KnownGuest> {
        let own = format!("{run}/");
        self.guests.iter().filter(move |guest| !guest.name.starts_with(&own))
    }

    /// The number of dependencies that it knows.
    pub fn edges(&self) -> usize {
        self.known().edges()
    }

    /// The oldest of the guests that show the least, among those that are not the only one of their
    /// scenario.
    fn least(&self) -> Option<usize> {
        let mut of_scenario: FxHashMap<&str, u32> = FxHashMap::default();
        self.guests.iter().for_each(|guest| *of_scenario.entry(&guest.work.scenario).or_default() += 1);
        let guests = self.guests.iter().enumerate();
        let others = guests.filter(|(_, guest)| of_scenario[guest.work.scenario.as_str()] > 1);
        others.min_by_key(|(_, guest)| size(&guest.order)).map(|(place, _)| place)
    }

    fn known(&self) -> Known {
        let mut known = Known::default();
        self.guests.iter().for_each(|guest| known.add(&guest.order));
        known
    }
}

/// The size of what a guest shows: its dependencies, and then its classes.
fn size(order: &LockOrder) -> (usize, usize) {
    (order.edges.len(), order.classes.len())
}

/// The part of the file that tells its version.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

fn folder(cache: &Cache, image_hash: &str) -> PathBuf {
    cache.lock_orders().join(image_hash)
}

/// An atlas that is being changed.
struct Open {
    path: PathBuf,
    atlas: Atlas,
    known: Known,
    is_changed: bool,
    _lock: Flock<File>,
}

impl Open {
    /// Waits until no other run changes it. An atlas that cannot be used begins anew.
    fn new(cache: &Cache, kernel: &KernelNote) -> Result<Self> {
        // The hash comes from a file and becomes part of a path.
        if kernel.image_hash.is_empty() || !kernel.image_hash.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Error::user("the run does not name the images of its kernels"));
        }
        let folder = folder(cache, &kernel.image_hash);
        let lock = loop {
            fs_err::create_dir_all(&folder)?;
            // A prune may remove the folder in the meantime.
            if let Some(lock) = try_lock(&folder.join("lock"), FlockArg::LockExclusive)? {
                break lock;
            }
        };
        lock.set_modified(SystemTime::now())?;
        let atlas = Atlas::load(cache, &kernel.image_hash)?.ok().flatten();
        let atlas = atlas.unwrap_or_else(|| Atlas::empty(kernel));
        let known = atlas.known();
        Ok(Self { path: folder.join(FILE), atlas, known, is_changed: false, _lock: lock })
    }

    /// Adds a guest if it shows something new.
    fn add(&mut self, name: String, all: &LockOrder, work: impl FnOnce() -> Result<Work>) -> Result<()> {
        let mut order = self.known.take(all);
        if order.edges.is_empty() && order.classes.is_empty() {
            return Ok(());
        }
        self.is_changed = true;
        let work = work()?;
        if self.atlas.guests.len() >= MOST {
            self.atlas.left_out = self.atlas.left_out.saturating_add(1);
            let Some(dropped) = self.atlas.least() else { return Ok(()) };
            let is_first = self.atlas.guests.iter().all(|guest| guest.work.scenario != work.scenario);
            if !is_first && size(&order) <= size(&self.atlas.guests[dropped].order) {
                return Ok(());
            }
            self.atlas.guests.remove(dropped);
            // What it alone showed is new again.
            self.known = self.atlas.known();
            order = self.known.take(all);
        }
        self.atlas.guests.push(KnownGuest { name, work, order });
        Ok(())
    }

    fn close(self) -> Result<()> {
        if self.is_changed { write_json_compact(&self.path, &self.atlas) } else { Ok(()) }
    }
}

/// Adds what the guests of the run in `folder` showed of both of its kernels.
pub fn add_run(cache: &Cache, folder: &Path, run: &Run) -> Result<()> {
    let mut work = GuestWork::new(folder, run);
    // The sides of one image share an atlas, and so its lock.
    for side in Side::BOTH {
        let mut open = Open::new(cache, run.kernels.of(side))?;
        each_boot(folder, |name, of, order| {
            if of != side {
                return Ok(());
            }
            open.add(format!("{}/{name}", run.id), order, || Ok(Work::default()))
        })?;
        each_trial(folder, |trial| {
            if trial.side != side {
                return Ok(());
            }
            open.add(format!("{}/{}", run.id, trial.folder), &trial.order, || {
                Ok(Work::of(&work.of(&trial.folder)?))
            })
        })?;
        open.close()?;
    }
    Ok(())
}

/// Adds the guests of another machine's atlas of the same kernel.
pub fn merge(cache: &Cache, other: &Atlas) -> Result<()> {
    let Atlas { image_hash, release, .. } = other.clone();
    let mut open = Open::new(cache, &KernelNote { release, image_hash, ..KernelNote::default() })?;
    for guest in &other.guests {
        open.add(guest.name.clone(), &guest.order, || Ok(guest.work.clone()))?;
    }
    open.close()
}

#[cfg(test)]
mod tests;

//! The lock order: the time of a comparison, and the rate of false differences between equal
//! kernels.

use std::path::Path;
use std::time::Instant;

use hotplug::compare::{Elsewhere, LockOrders};
use hotplug_lockorder::{Edge, FILE, How, LockClass, LockOrder, Node, TrialLocks, Union, Usage};
use hotplug_side::Side;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::hotplug;
use crate::trials::only;

/// Seconds to merge and compare 1,000 trials, 500 a side, without reading files. Each has 8,192
/// classes and 32,768 dependencies, the most that lockdep keeps. A tenth of the dependencies are
/// random.
pub(crate) fn compare_seconds(_: &Path) -> Result<Vec<f64>, String> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let classes: Vec<Node> = (0..8192)
        .map(|number| Node {
            class: LockClass {
                name: format!("&structure{number}->lock"),
                key: Some("__key".into()),
                file: Some(format!("file{}.c", number % 300)),
                subclass: 0,
                ordinal: 0,
            },
            usage: Usage(0),
        })
        .collect();
    // Dependencies go from lower to higher numbers, so there is no cycle, as in a kernel without a
    // report of lockdep.
    let edges: Vec<Edge> = (0..32768)
        .map(|_| {
            let from = random.random_range(0..8191);
            let to = random.random_range(from + 1..8192);
            Edge { from, to, how: How::EN, distance: 1, path: None }
        })
        .collect();
    let trials: Vec<TrialLocks> = (0..8_u32)
        .map(|number| {
            let chance = |_: &&Edge| random.random_bool(0.5);
            let (always, sometimes) = edges.split_at(edges.len() / 10 * 9);
            let some: Vec<Edge> = sometimes.iter().filter(chance).copied().collect();
            TrialLocks {
                side: if number % 2 == 0 { Side::Before } else { Side::After },
                folder: format!("trial-{number:03}"),
                blind: None,
                restored: false,
                microseconds: 0,
                order: LockOrder {
                    classes: classes.clone(),
                    edges: [always, &some].concat(),
                    ..LockOrder::default()
                },
            }
        })
        .collect();
    let mut all = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let mut union = Union::default();
        for number in 0..1000 {
            union.add(&trials[number % trials.len()]);
        }
        let diff = LockOrders::new(union).diff(&Elsewhere::default());
        all.push(began.elapsed().as_secs_f64());
        if diff.extent.before.trials != 500 {
            return Err(format!("{} trials were folded in", diff.extent.before.trials));
        }
    }
    Ok(all)
}

/// Comparisons in a hundred that name a dependency although both sides are one kernel. Each takes
/// ten trials of one boot for before and ten of another boot for after, and as many further boots
/// as it needs. All boots are real: they are drawn from a few comparisons of a comment-only patch.
pub(crate) fn false_lists(root: &Path) -> Result<Vec<f64>, String> {
    const COMPARISONS: usize = 4;
    const DRAWN: u32 = 1000;
    let mut pools = Vec::new();
    for _ in 0..COMPARISONS {
        pools.extend(pools_of_comparison(root)?);
    }
    let (first, further): (Vec<&Pool>, Vec<&Pool>) = pools.iter().partition(|pool| pool.trials.len() > 1);
    eprintln!("{} boots with trials, {} further ones", first.len(), further.len());
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut lists = 0_u32;
    for _ in 0..DRAWN {
        let two: Vec<&Pool> = first.sample(&mut random, 2).copied().collect();
        let [before, after] = two[..] else { return Err("too few boots".into()) };
        let mut union = Union::default();
        for (side, pool) in [(Side::Before, before), (Side::After, after)] {
            pool.add_to(&mut union, side, &pool.trials);
        }
        let mut orders = LockOrders::new(union);
        let mut others: Vec<&Pool> = further.clone();
        others.extend(first.iter().filter(|pool| !two.iter().any(|used| std::ptr::eq(**pool, *used))));
        others.shuffle(&mut random);
        let mut pairs = others.chunks_exact(2);
        while orders.next_boot().is_some() {
            let Some([before, after]) = pairs.next() else { return Err("too few further boots".into()) };
            let mut boot = Union::default();
            for (side, pool) in [(Side::Before, before), (Side::After, after)] {
                pool.add_to(&mut boot, side, pool.trials.choose(&mut random));
            }
            orders.add_boot(&boot);
        }
        let diff = orders.diff(&Elsewhere::default());
        if !diff.gone.is_empty() || !diff.new.is_empty() {
            lists += 1;
            eprintln!("named: {:?} {:?}", diff.gone, diff.new);
        }
    }
    Ok(vec![f64::from(lists) * 100.0 / f64::from(DRAWN)])
}

/// Trials that were restored from one boot.
struct Pool {
    boot: LockOrder,
    trials: Vec<TrialLocks>,
}

impl Pool {
    fn add_to<'a>(&self, union: &mut Union, side: Side, trials: impl IntoIterator<Item = &'a TrialLocks>) {
        union.add_boot(side, &self.boot);
        for trial in trials {
            union.add(&TrialLocks { side, ..trial.clone() });
        }
    }

    /// Reads one side of a run, or of the folder of a further boot.
    fn read(folder: &Path, side: Side) -> Result<Self, String> {
        let read = |path: std::path::PathBuf| std::fs::read(path).map_err(|e| e.to_string());
        let boot = folder.join("checkpoints").join(side.to_string()).join(FILE);
        let boot = serde_json::from_slice(&read(boot)?).map_err(|e| e.to_string())?;
        let mut trials = Vec::new();
        for entry in std::fs::read_dir(folder.join("trials")).map_err(|e| e.to_string())? {
            let path = entry.map_err(|e| e.to_string())?.path().join(FILE);
            let trial: TrialLocks = serde_json::from_slice(&read(path)?).map_err(|e| e.to_string())?;
            if trial.side == side {
                trials.push(trial);
            }
        }
        Ok(Self { boot, trials })
    }
}

/// Runs a comparison in a cache with the user's kernels but without checkpoints, so that all of its
/// boots are new.
fn pools_of_comparison(root: &Path) -> Result<Vec<Pool>, String> {
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    let home = tempfile::tempdir().map_err(|e| wrong(&e))?;
    let cache = home.path().join("hotplug");
    std::fs::create_dir(&cache).map_err(|e| wrong(&e))?;
    let users = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || std::path::PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        std::path::PathBuf::from,
    );
    for entry in std::fs::read_dir(users.join("hotplug")).map_err(|e| wrong(&e))? {
        let entry = entry.map_err(|e| wrong(&e))?;
        if entry.file_name() != "checkpoints" {
            std::os::unix::fs::symlink(entry.path(), cache.join(entry.file_name())).map_err(|e| wrong(&e))?;
        }
    }
    let results = home.path().join("results");
    let mut command = hotplug(root);
    command
        .args([
            "compare",
            "--no-control",
            "--no-coverage",
            "--no-reach",
            "--trials",
            "10",
            "--anyway",
            "--results",
        ])
        .arg(&results);
    let status = command
        .arg(root.join("guest-images/patches/clean/comment-only.patch"))
        .env("XDG_CACHE_HOME", home.path())
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(|e| wrong(&e))?;
    if status.code() != Some(0) {
        return Err(format!("the comparison of comment-only.patch ended with {status}"));
    }
    let run = only(&results)?;
    let further = (2..).map(|number| run.join("boots").join(number.to_string()));
    let folders = std::iter::once(run.clone()).chain(further.take_while(|folder| folder.exists()));
    folders.flat_map(|folder| Side::BOTH.map(|side| Pool::read(&folder, side))).collect()
}

//! How alike the same operation's times are, by both clocks, on an idle and on a busy machine; and how often a difference is told
//! where there is none, and where there is one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use hotplug::latency::{FILE, MetricResult, Timed, Told, TrialTimes};
use hotplug::scenario::{Clock, Metric, Scenario};
use hotplug_side::Side;
use hotplug_statistics::{coefficient_of_variation, median};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::hotplug;
use crate::trials::only;

/// What is done, and twelve times from each of two boots a side.
const SCENARIO: &str = "harness/cli/benches/figures/timed.toml";

/// A kernel that takes one per cent longer to offline a block.
const SLOW: &str = "guest-images/patches/known-bugs/planted-slow-offline.patch";

/// What people time.
const SHIPPED: &str = "scenarios/latency.toml";

/// The coefficient of variation, in per cent, of each call of `function` over the trials of one boot.
pub(crate) fn scatter(root: &Path, clock: Clock, is_busy: bool, function: &str) -> Result<Vec<f64>, String> {
    // One run gives the figures of all functions.
    type Runs = BTreeMap<(String, bool), Vec<Vec<TrialTimes>>>;
    static RUNS: OnceLock<Mutex<Runs>> = OnceLock::new();
    let mut runs = RUNS.get_or_init(Mutex::default).lock().map_err(|e| e.to_string())?;
    let boots = match runs.entry((clock.to_string(), is_busy)) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) if is_busy => place.insert(while_busy(|| run(root, clock))?),
        Entry::Vacant(place) => place.insert(run(root, clock)?),
    };
    let mut all = Vec::new();
    for boot in boots {
        let trials: Vec<Vec<f64>> =
            boot.iter().map(|trial| trial.samples(&Metric::Function(function))).collect();
        let calls = trials.iter().map(Vec::len).min().unwrap_or(0);
        for call in 0..calls {
            let times: Vec<f64> = trials.iter().map(|times| times[call]).collect();
            all.push(coefficient_of_variation(&times).ok_or("too few trials")? * 100.0);
        }
    }
    if all.is_empty() { Err(format!("no call of {function} was traced")) } else { Ok(all) }
}

/// The timed trials of a comparison of one kernel with itself, by boot.
fn run(root: &Path, clock: Clock) -> Result<Vec<Vec<TrialTimes>>, String> {
    let exact: &[&str] = if clock == Clock::Exact { &["--exact"] } else { &[] };
    Ok(boots(root, &root.join(SCENARIO), exact)?.into_values().collect())
}

/// Drawn comparisons of a kernel with itself, five exact boots a side of forty real ones, of which so many in a thousand call
/// some function faster or slower.
pub(crate) fn false_alarms(root: &Path) -> Result<Vec<f64>, String> {
    let boots = boots(root, &root.join(SHIPPED), &["--exact", "--boots", "20"])?;
    let all: Vec<&Vec<TrialTimes>> = boots.values().collect();
    drawn(root, Clock::Exact, 5, &all, &all, alarm)
}

/// Drawn comparisons with a kernel that takes one per cent longer to offline a block, five exact boots a side of fifteen real
/// ones, on a busy machine, of which so many in a thousand say so.
pub(crate) fn found(root: &Path) -> Result<Vec<f64>, String> {
    let patch = root.join(SLOW);
    let patch = patch.to_str().ok_or("a path that is no text")?;
    let boots = while_busy(|| boots(root, &root.join(SHIPPED), &["--exact", "--boots", "15", patch]))?;
    let (before, after) = (of(&boots, Side::Before), of(&boots, Side::After));
    drawn(root, Clock::Exact, 5, &before, &after, is_slower)
}

/// The same by the wall clock on a machine that does nothing else: twenty boots a side of thirty, and a fifth longer.
pub(crate) fn found_by_the_wall_clock(root: &Path) -> Result<Vec<f64>, String> {
    let boots = wall_boots(root)?;
    let (before, after) = (of(&boots, Side::Before), of(&boots, Side::After));
    drawn(root, Clock::Wall, 20, &before, &after, is_slower)
}

/// Drawn comparisons by the wall clock of fifteen boots with fifteen others of the same kernel.
pub(crate) fn false_alarms_of_the_wall_clock(root: &Path) -> Result<Vec<f64>, String> {
    let boots = wall_boots(root)?;
    let before = of(&boots, Side::Before);
    drawn(root, Clock::Wall, 15, &before, &before, alarm)
}

fn is_slower(results: &[MetricResult]) -> bool {
    results.iter().any(|result| result.name == "offline_pages" && result.told == Some(Told::Slower))
}

fn alarm(results: &[MetricResult]) -> bool {
    results.iter().any(|result| matches!(result.told, Some(Told::Faster | Told::Slower)))
}

fn of(boots: &Boots, side: Side) -> Vec<&Vec<TrialTimes>> {
    boots.iter().filter(|((_, of), _)| *of == side).map(|(_, trials)| trials).collect()
}

/// Thirty boots of the default kernel and thirty of one that takes a fifth longer to offline a block; once for all figures.
fn wall_boots(root: &Path) -> Result<Boots, String> {
    static BOOTS: OnceLock<Result<Boots, String>> = OnceLock::new();
    let run = || {
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        let planted = std::fs::read_to_string(root.join(SLOW)).map_err(|e| e.to_string())?;
        let (percent, fifth) = ("until - begun, 100)", "until - begun, 5)");
        if !planted.contains(percent) {
            return Err(format!("{SLOW} is another patch than it was"));
        }
        let patch = home.path().join("slow-by-a-fifth.patch");
        std::fs::write(&patch, planted.replace(percent, fifth)).map_err(|e| e.to_string())?;
        boots(root, &root.join(SHIPPED), &["--boots", "30", patch.to_str().ok_or("a path that is no text")?])
    };
    BOOTS.get_or_init(run).clone()
}

/// By how many instructions each call takes longer because it is traced: an online of a block while the 32 calls of
/// `generic_online_page()` in it are traced, less one while they are not.
pub(crate) fn cost_of_a_call(root: &Path) -> Result<Vec<f64>, String> {
    const CALLED: &str = "generic_online_page";
    let text = std::fs::read_to_string(root.join(SCENARIO)).map_err(|e| e.to_string())?;
    let functions = text.lines().find(|line| line.starts_with("functions = ")).ok_or("no functions")?;
    let run = |names: &str| -> Result<Vec<TrialTimes>, String> {
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        let scenario = home.path().join("timed.toml");
        let text = text.replace(functions, &format!("functions = [{names}]"));
        std::fs::write(&scenario, text).map_err(|e| e.to_string())?;
        let all = boots(root, &scenario, &["--exact", "--boots", "2"])?;
        Ok(all.into_values().flatten().collect())
    };
    let online = |trials: &[TrialTimes]| {
        let all = trials.iter().flat_map(|trial| trial.samples(&Metric::Function("online_pages")));
        median(&all.collect::<Vec<f64>>()).ok_or("no online was traced")
    };
    let without = online(&run("\"online_pages\"")?)?;
    let trials = run(&format!("\"online_pages\", \"{CALLED}\""))?;
    let calls = |trial: &TrialTimes| {
        let of = |name| trial.samples(&Metric::Function(name)).len();
        if of("online_pages") == 0 { 0 } else { of(CALLED) / of("online_pages") }
    };
    let calls = trials.iter().map(calls).max().filter(|calls| *calls > 0).ok_or("nothing was called")?;
    #[expect(clippy::cast_precision_loss, reason = "calls are few")]
    let each = (online(&trials)? - without) / calls as f64;
    Ok(vec![each])
}

/// How many in a thousand comparisons of boots drawn from these are `such`. No boot is drawn twice.
fn drawn(
    root: &Path,
    clock: Clock,
    count: usize,
    before: &[&Vec<TrialTimes>],
    after: &[&Vec<TrialTimes>],
    such: impl Fn(&[MetricResult]) -> bool,
) -> Result<Vec<f64>, String> {
    let (scenario, _) = Scenario::read(&root.join(SHIPPED)).map_err(|e| e.to_string())?;
    let timing = scenario.latency.ok_or("the scenario times nothing")?;
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut hits = 0_u32;
    for _ in 0..1000 {
        let first: Vec<&Vec<TrialTimes>> = before.sample(&mut random, count).copied().collect();
        let others: Vec<&Vec<TrialTimes>> = after
            .iter()
            .filter(|boot| !first.iter().any(|used| std::ptr::eq(*used, **boot)))
            .copied()
            .collect();
        let second: Vec<&Vec<TrialTimes>> = others.sample(&mut random, count).copied().collect();
        let mut timed = Timed::default();
        for (side, boots) in [(Side::Before, first), (Side::After, second)] {
            if boots.len() < count {
                return Err("too few boots".into());
            }
            for (number, trials) in (1..).zip(boots) {
                for trial in trials {
                    // Where both sides are one kernel, a boot is drawn for either.
                    timed.add_trial(number, &TrialTimes { side, ..trial.clone() }, &timing);
                }
            }
        }
        hits += u32::from(such(&timed.judge(&timing, clock)));
    }
    Ok(vec![f64::from(hits)])
}

/// By the folder of a boot and its side.
type Boots = BTreeMap<(PathBuf, Side), Vec<TrialTimes>>;

/// The timed trials of a comparison of the default kernel, with itself unless `more` names a patch.
fn boots(root: &Path, scenario: &Path, more: &[&str]) -> Result<Boots, String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command.args(["compare", "--no-control", "--no-coverage", "--trials", "1", "--results"]).arg(home.path());
    command.arg("--scenario").arg(scenario).args(more);
    let status = command.stdout(std::process::Stdio::null()).status().map_err(|e| e.to_string())?;
    if ![Some(0), Some(1), Some(3)].contains(&status.code()) {
        return Err(format!("the comparison ended with {status}"));
    }
    let folder = only(home.path())?.join("latency");
    let mut boots = Boots::new();
    for boot in std::fs::read_dir(folder).map_err(|e| e.to_string())? {
        let boot = boot.map_err(|e| e.to_string())?.path();
        for trial in std::fs::read_dir(boot.join("trials")).map_err(|e| e.to_string())? {
            let text = std::fs::read(trial.map_err(|e| e.to_string())?.path().join(FILE));
            let times: TrialTimes =
                serde_json::from_slice(&text.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
            if let Some(odd) = times.odd {
                return Err(odd);
            }
            boots.entry((boot.clone(), times.side)).or_default().push(times);
        }
    }
    Ok(boots)
}

/// Does it with every processor of the machine busy with something else.
fn while_busy<T>(what: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let done = what();
        over.store(true, Ordering::Relaxed);
        done
    })
}

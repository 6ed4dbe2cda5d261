//! The scatter of the times of one operation, by both clocks, on an idle and on a busy machine; and
//! the rates of false alarms and of found differences.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use hotplug::latency::{FILE, MetricResult, MetricVerdict, Timed, TrialTimes};
use hotplug::scenario::{Clock, Metric, Scenario};
use hotplug_side::Side;
use hotplug_statistics::{coefficient_of_variation, median};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::hotplug;
use crate::trials::only;

/// The timed scenario, with twelve trials of each of two boots a side.
const SCENARIO: &str = "harness/cli/benches/figures/timed.toml";

/// A patch that makes the offline of a block one per cent slower.
const SLOW: &str = "guest-images/patches/known-bugs/planted-slow-offline.patch";

/// The shipped scenario for latency.
const SHIPPED: &str = "scenarios/latency.toml";

/// The coefficient of variation, in per cent, of each call of `function` over the trials of one
/// boot.
pub(crate) fn scatter(root: &Path, clock: Clock, is_busy: bool, function: &str) -> Result<Vec<f64>, String> {
    // One run gives the times of all functions.
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

/// The timed trials of a comparison of one kernel with itself, for each boot.
fn run(root: &Path, clock: Clock) -> Result<Vec<Vec<TrialTimes>>, String> {
    let exact: &[&str] = if clock == Clock::Exact { &["--exact"] } else { &[] };
    Ok(boots(root, &root.join(SCENARIO), exact)?.into_values().collect())
}

/// Comparisons in a thousand that call a function faster or slower although both sides are one
/// kernel. Each draws five boots a side, timed by the exact clock, from forty real ones.
pub(crate) fn false_alarms(root: &Path) -> Result<Vec<f64>, String> {
    let boots = boots(root, &root.join(SHIPPED), &["--exact", "--boots", "20"])?;
    let all: Vec<&Vec<TrialTimes>> = boots.values().collect();
    drawn(root, Clock::Exact, 5, &all, &all, alarm)
}

/// Comparisons in a thousand that find an offline of a block slower by one per cent, on a busy
/// machine. Each draws five boots a side, timed by the exact clock, from fifteen real ones.
pub(crate) fn found(root: &Path) -> Result<Vec<f64>, String> {
    let patch = root.join(SLOW);
    let patch = patch.to_str().ok_or("the path is not UTF-8")?;
    let boots = while_busy(|| boots(root, &root.join(SHIPPED), &["--exact", "--boots", "15", patch]))?;
    let (before, after) = (of(&boots, Side::Before), of(&boots, Side::After));
    drawn(root, Clock::Exact, 5, &before, &after, is_slower)
}

/// The same for an offline that is slower by a fifth, by the wall clock on an otherwise idle
/// machine. Each comparison draws twenty boots a side from thirty.
pub(crate) fn found_by_the_wall_clock(root: &Path) -> Result<Vec<f64>, String> {
    let boots = wall_boots(root)?;
    let (before, after) = (of(&boots, Side::Before), of(&boots, Side::After));
    drawn(root, Clock::Wall, 20, &before, &after, is_slower)
}

/// Comparisons in a thousand with a false alarm by the wall clock. Each compares fifteen boots with
/// fifteen others of the same kernel.
pub(crate) fn false_alarms_of_the_wall_clock(root: &Path) -> Result<Vec<f64>, String> {
    let boots = wall_boots(root)?;
    let before = of(&boots, Side::Before);
    drawn(root, Clock::Wall, 15, &before, &before, alarm)
}

fn is_slower(results: &[MetricResult]) -> bool {
    results.iter().any(|result| result.name == "offline_pages" && result.told == Some(MetricVerdict::Slower))
}

fn alarm(results: &[MetricResult]) -> bool {
    results.iter().any(|result| matches!(result.told, Some(MetricVerdict::Faster | MetricVerdict::Slower)))
}

fn of(boots: &Boots, side: Side) -> Vec<&Vec<TrialTimes>> {
    boots.iter().filter(|((_, of), _)| *of == side).map(|(_, trials)| trials).collect()
}

/// Thirty boots of the default kernel, and thirty of a kernel whose offline of a block is slower by
/// a fifth. They are made once for all figures.
fn wall_boots(root: &Path) -> Result<Boots, String> {
    static BOOTS: OnceLock<Result<Boots, String>> = OnceLock::new();
    let run = || {
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        let planted = std::fs::read_to_string(root.join(SLOW)).map_err(|e| e.to_string())?;
        let (percent, fifth) = ("until - begun, 100)", "until - begun, 5)");
        if !planted.contains(percent) {
            return Err(format!("{SLOW} no longer has the text that is replaced"));
        }
        let patch = home.path().join("slow-by-a-fifth.patch");
        std::fs::write(&patch, planted.replace(percent, fifth)).map_err(|e| e.to_string())?;
        boots(root, &root.join(SHIPPED), &["--boots", "30", patch.to_str().ok_or("the path is not UTF-8")?])
    };
    BOOTS.get_or_init(run).clone()
}

/// The number of instructions that tracing adds to a call: the difference between an online of a
/// block with the 32 calls of `generic_online_page()` in it traced, and one with them untraced, per
/// call.
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
    let calls = trials.iter().map(calls).max().filter(|calls| *calls > 0).ok_or("no call was traced")?;
    #[expect(clippy::cast_precision_loss, reason = "calls are few")]
    let each = (online(&trials)? - without) / calls as f64;
    Ok(vec![each])
}

/// The number of comparisons in a thousand for which `such` is true. The boots of each are drawn
/// from `before` and `after`, none of them twice.
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
                    // If both sides are one kernel, a boot can be drawn for either side.
                    timed.add_trial(number, &TrialTimes { side, ..trial.clone() }, &timing);
                }
            }
        }
        hits += u32::from(such(&timed.judge(&timing, clock)));
    }
    Ok(vec![f64::from(hits)])
}

/// The timed trials by the folder of a boot and its side.
type Boots = BTreeMap<(PathBuf, Side), Vec<TrialTimes>>;

/// The timed trials of a comparison of the default kernel, with itself unless `more` has a patch.
fn boots(root: &Path, scenario: &Path, more: &[&str]) -> Result<Boots, String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command
        .args(["compare", "--no-control", "--no-coverage", "--no-reach", "--trials", "1", "--results"])
        .arg(home.path());
    command.arg("--scenario").arg(scenario).args(more);
    command.arg(
        if more.iter().any(|word| Path::new(word).extension().is_some_and(|ending| ending == "patch")) {
            "--anyway"
        } else {
            "--same"
        },
    );
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

/// Calls `what` while every processor of the machine is busy with another thread.
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

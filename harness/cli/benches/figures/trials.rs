//! The cost of a trial: the standard trial of `standard.toml`, under TCG, with one kernel on both
//! sides.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::hotplug;

pub(crate) const SCENARIO: &str = include_str!("standard.toml");

/// Number of concurrent guests for figures that are rates.
const WORKERS: &str = "2";

/// One comparison that succeeded.
struct Run {
    home: TempDir,
    result: Value,
    /// CPU time in clock ticks, of the harness and of all processes that it waited for.
    cpu: (f64, f64),
}

/// Runs `trials` standard trials a side, in a guest of this much memory.
fn run(root: &Path, memory: &str, trials: u32, more: &[&str]) -> Result<Run, String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let scenario = home.path().join("standard.toml");
    std::fs::write(&scenario, SCENARIO.replace("\"512M\"", &format!("\"{memory}\"")))
        .map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command.args(["compare", "--same", "--accel", "tcg", "--trials", &trials.to_string()]).args(more);
    command.arg("--scenario").arg(&scenario).arg("--results").arg(home.path().join("results"));
    let mut child = command.stdout(Stdio::null()).spawn().map_err(|e| e.to_string())?;
    // The CPU times can be read after the process has ended and before it is reaped.
    let pid = i32::try_from(child.id()).map_err(|e| e.to_string())?;
    waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        .map_err(|e| e.to_string())?;
    let cpu = cpu_time(pid)?;
    let status = child.wait().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("compare ended with {status}, not with `unchanged`"));
    }
    let result = parsed(&only(&home.path().join("results"))?.join("result.json"))?;
    Ok(Run { home, result, cpu })
}

/// `utime + stime` and `cutime + cstime` of proc(5).
fn cpu_time(pid: i32) -> Result<(f64, f64), String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| e.to_string())?;
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' ').collect::<Vec<_>>());
    let ticks = |field: usize| {
        let text = fields.as_ref().and_then(|fields| fields.get(field - 3));
        text.and_then(|text| text.parse::<f64>().ok()).ok_or_else(|| format!("/proc/{pid}/stat: {stat}"))
    };
    Ok((ticks(14)? + ticks(15)?, ticks(16)? + ticks(17)?))
}

pub(crate) fn parsed(path: &Path) -> Result<Value, String> {
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))
}

pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(|e| e.to_string())).collect()
}

pub(crate) fn only(folder: &Path) -> Result<PathBuf, String> {
    // The history is a file beside it.
    entries(folder)?
        .into_iter()
        .find(|path| path.is_dir())
        .ok_or_else(|| format!("{} is empty", folder.display()))
}

impl Run {
    /// For each trial, milliseconds from the time a worker took it until QEMU accepted its first
    /// operation.
    fn to_first_operation(&self) -> Result<Vec<f64>, String> {
        let trials = entries(&only(&self.home.path().join("results"))?.join("trials"))?;
        let one = |folder: &PathBuf| {
            let trial = parsed(&folder.join("trial.json"))?;
            let phases = trial["operations"][0]["phases"].as_array();
            let accepted = phases.into_iter().flatten().find(|phase| phase[0] == "accepted");
            let times = (accepted.and_then(|phase| phase[1].as_f64()), trial["taken"].as_f64());
            match times {
                (Some(accepted), Some(taken)) => Ok((accepted - taken) / 1000.0),
                _ => Err(format!("{}: no operation was accepted", folder.display())),
            }
        };
        trials.iter().map(one).collect()
    }

    fn per_minute(&self) -> Result<f64, String> {
        let trials = |side: &str| self.result["trials"][side]["trials"].as_f64();
        let (before, after) = (trials("before"), trials("after"));
        match (before, after, self.result["trials_seconds"].as_f64()) {
            (Some(before), Some(after), Some(seconds)) => Ok((before + after) / seconds * 60.0),
            _ => Err("result.json has no number or time of the trials".into()),
        }
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Milliseconds from the time a worker takes a trial until QEMU accepts its first operation. One
/// guest runs at a time.
pub(crate) fn restore_to_first_op_ms(root: &Path) -> Result<Vec<f64>, String> {
    run(root, "512M", 10, &["--workers", "1"])?.to_first_operation()
}

/// The same for a guest of 8 GiB, divided by that of a guest of 512 MiB.
pub(crate) fn restore_8g_over_512m_ratio(root: &Path) -> Result<Vec<f64>, String> {
    let of =
        |memory| Ok::<_, String>(median(run(root, memory, 10, &["--workers", "1"])?.to_first_operation()?));
    Ok(vec![of("8G")? / of("512M")?])
}

/// Trials a side in runs whose guests take as many trials as they can.
const MANY: u32 = 128;

/// Standard trials a minute, 16 in each guest.
pub(crate) fn trials_per_minute(root: &Path) -> Result<Vec<f64>, String> {
    Ok(vec![run(root, "512M", MANY, &["--workers", WORKERS])?.per_minute()?])
}

/// The run time and CPU time in seconds that further trials take in guests that have taken one.
struct Rounds {
    trials: f64,
    elapsed: f64,
    cpu: f64,
}

/// The result of the one measurement.
static ROUNDS: OnceLock<Result<Rounds, String>> = OnceLock::new();

fn rounds(root: &Path) -> Result<&'static Rounds, String> {
    ROUNDS.get_or_init(|| measure_rounds(root)).as_ref().map_err(Clone::clone)
}

/// A run with as many guests, of which each takes one trial, is subtracted from a run with 16 each.
fn measure_rounds(root: &Path) -> Result<Rounds, String> {
    const EACH: u32 = 16;
    let of = |trials: u32, rounds: u32| {
        let run = run(root, "512M", trials, &["--workers", WORKERS, "--rounds", &rounds.to_string()])?;
        let elapsed = run.result["trials_seconds"].as_f64().ok_or("result.json has no time of the trials")?;
        Ok::<_, String>((elapsed, run.cpu.0 + run.cpu.1))
    };
    let (short, long) = (of(MANY / EACH, 1)?, of(MANY, EACH)?);
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .ok_or("the length of a clock tick is not known")?;
    #[expect(clippy::cast_precision_loss, reason = "a hundred")]
    let cpu = (long.1 - short.1) / per_second as f64;
    Ok(Rounds { trials: f64::from((MANY - MANY / EACH) * 2), elapsed: long.0 - short.0, cpu })
}

/// Seconds of CPU time that a trial takes in a guest that has taken one.
pub(crate) fn round_core_seconds(root: &Path) -> Result<Vec<f64>, String> {
    let rounds = rounds(root)?;
    Ok(vec![rounds.cpu / rounds.trials])
}

/// The share of the time of two processors that such trials use.
pub(crate) fn cores_busy_share(root: &Path) -> Result<Vec<f64>, String> {
    let rounds = rounds(root)?;
    Ok(vec![rounds.cpu / rounds.elapsed / 2.0])
}

/// Rate of trials of guests that take 16 each, divided by the rate of trials that boot.
pub(crate) fn trials_vs_cold_ratio(root: &Path) -> Result<Vec<f64>, String> {
    let restored = run(root, "512M", MANY, &["--workers", WORKERS])?.per_minute()?;
    let cold = run(root, "512M", 3, &["--workers", WORKERS, "--cold"])?.per_minute()?;
    Ok(vec![restored / cold])
}

/// CPU time of the harness, divided by that of its QEMUs. A short run is subtracted from a long
/// one, so the cost before the first trial is left out.
pub(crate) fn harness_cpu_share(root: &Path) -> Result<Vec<f64>, String> {
    let of = |trials| Ok::<_, String>(run(root, "512M", trials, &["--workers", WORKERS])?.cpu);
    let (short, long) = (of(2)?, of(22)?);
    Ok(vec![(long.0 - short.0) / (long.1 - short.1)])
}

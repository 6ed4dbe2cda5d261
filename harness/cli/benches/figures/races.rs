//! The cost of races made on purpose.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::hotplug;
use crate::trials::{SCENARIO, entries, median, only, parsed};

/// Trials of each kernel.
const TRIALS: &str = "10";

/// The steps of the standard trial in one lane, so that no operation waits for the held task.
const LANES: &str = "
[[lane]]
name = \"all\"
steps = [{ plug = \"dimm\" }, { unplug = \"dimm\" }, { plug = \"cpu\" }, { unplug = \"cpu\" }]
";
/// A load that comes to the second place, from which no lock excludes it.
const LOAD: &str = "load = [{ kind = \"read\", workers = 1, path = \"/proc/meminfo\", rate = 50 }]\n";
const RENDEZVOUS: &str =
    "\n[[rendezvous]]\nhold = \"add_memory_resource\"\nuntil = \"meminfo_proc_show\"\ntries = 1\n";

/// For each trial, its milliseconds without its holds. One guest runs at a time.
fn beyond_its_holds(root: &Path, more: &str) -> Result<Vec<f64>, String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let scenario = home.path().join("standard.toml");
    let (machine, _) = SCENARIO.split_once("[[lane]]").ok_or("standard.toml has no lane")?;
    let guest = machine.replace("[guest]\n", &format!("[guest]\n{LOAD}"));
    std::fs::write(&scenario, format!("{guest}{LANES}{more}")).map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command.args([
        "compare",
        "--accel",
        "tcg",
        "--workers",
        "1",
        "--trials",
        TRIALS,
        "--no-control",
        "--same",
    ]);
    command.arg("--scenario").arg(&scenario).arg("--results").arg(home.path().join("results"));
    let status = command.stdout(Stdio::null()).status().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("compare ended with {status}, not with `unchanged`"));
    }
    let trials = entries(&only(&home.path().join("results"))?.join("trials"))?;
    let one = |folder: &std::path::PathBuf| {
        let trial = parsed(&folder.join("trial.json"))?;
        let time = |name: &str| trial[name].as_f64().ok_or_else(|| format!("{name} of {}", folder.display()));
        let holds: Vec<&Value> = trial["holds"].as_array().into_iter().flatten().collect();
        if holds.is_empty() == more.contains("hold") || holds.iter().any(|hold| hold["at"].is_null()) {
            return Err(format!("{}: the holds are not as expected", folder.display()));
        }
        let held: f64 = holds.iter().filter_map(|hold| hold["held_us"].as_f64()).sum();
        Ok((time("ended")? - time("taken")? - held) / 1000.0)
    };
    trials.iter().map(one).collect()
}

/// Milliseconds that a hold adds to a trial, without the time of the hold itself.
pub(crate) fn rendezvous_overhead_ms(root: &Path) -> Result<Vec<f64>, String> {
    let plain = median(beyond_its_holds(root, "")?);
    Ok(beyond_its_holds(root, RENDEZVOUS)?.into_iter().map(|held| held - plain).collect())
}

/// Pairs of places that the shipped sweep tries in a minute. Each order and each kernel counts.
pub(crate) fn sweep_pairs_per_minute(root: &Path) -> Result<Vec<f64>, String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command.args(["race", "--accel", "tcg", "--trials", "1", "--workers", "2", "--results"]).arg(home.path());
    let status = command.stdout(Stdio::null()).status().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("race ended with {status}, not with `unchanged`"));
    }
    let result = parsed(&only(home.path())?.join("result.json"))?;
    let trials = |side: &str| result["trials"][side]["trials"].as_f64();
    match (trials("before"), trials("after"), result["trials_seconds"].as_f64()) {
        (Some(before), Some(after), Some(seconds)) => Ok(vec![(before + after) / seconds * 60.0]),
        _ => Err("result.json has no number or time of the trials".into()),
    }
}

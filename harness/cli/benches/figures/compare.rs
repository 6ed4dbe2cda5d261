//! The cost of a comparison.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::hotplug;

/// Kernels of a comparison: before, after, control, and both sides with counters.
const HEADER_KERNELS: usize = 5;

fn seed(root: &Path) -> PathBuf {
    root.join("guest-images/patches/seed")
}

/// Time of the two builds of a pair in an empty cache, divided by the time of the first build. The
/// builder measures both times.
pub(crate) fn pair_build_ratio(root: &Path) -> Result<Vec<f64>, String> {
    let cache = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command.args(["kernel", "build", "--json", "--cache"]).arg(cache.path()).arg(seed(root));
    let output = command.output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("kernel build: {}", output.status));
    }
    let pair: Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
    let seconds = |side: &str| {
        pair[side]["built"]["now"]["seconds"]
            .as_f64()
            .ok_or_else(|| format!("the {side} kernel was not built"))
    };
    let (before, after) = (seconds("before")?, seconds("after")?);
    Ok(vec![(before + after) / before])
}

/// Number of starts that the median is taken of.
const STARTS: usize = 7;

/// Seconds from the exec of the harness until a worker takes the first trial. Kernels, checkpoints
/// and the result of the accelerator's probe are in the cache, as in every run but the first.
pub(crate) fn start_to_first_trial_s(root: &Path) -> Result<Vec<f64>, String> {
    // The first start fills the cache, so it is not measured.
    let all: Result<Vec<f64>, String> =
        (0..=STARTS).map(|_| seconds_until(root, &[], |line| line["event"] == "trial-began")).collect();
    Ok(all?.split_off(1))
}

/// Seconds from the exec of the harness until it says that the seed patch regresses, in the portfolio,
/// with `--until-decided`.
pub(crate) fn seed_verdict_seconds(root: &Path) -> Result<Vec<f64>, String> {
    let is_regressed = |line: &Value| line["event"] == "verdict" && line["verdict"] == "regressed";
    let all: Result<Vec<f64>, String> =
        (0..=STARTS).map(|_| seconds_until(root, &["--until-decided"], is_regressed)).collect();
    Ok(all?.split_off(1))
}

/// Seconds from the exec of a comparison of the seed patch until it prints such a line. Then it is
/// interrupted.
fn seconds_until(root: &Path, more: &[&str], is_it: impl Fn(&Value) -> bool) -> Result<f64, String> {
    let results = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command.arg("compare").arg(seed(root)).args(["--json-lines", "--results"]).arg(results.path());
    command.args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let pid = i32::try_from(child.id()).map_err(|e| e.to_string())?;
    let stdout = child.stdout.take().ok_or("the harness has no standard output")?;
    let mut taken = None;
    for line in BufReader::new(stdout).lines() {
        let line: Value =
            serde_json::from_str(&line.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        if taken.is_none() && is_it(&line) {
            taken = Some(began.elapsed().as_secs_f64());
            kill(Pid::from_raw(pid), Signal::SIGINT).map_err(|e| e.to_string())?;
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    taken.ok_or_else(|| format!("compare ended with {status} before it printed the line"))
}

/// Time of all builds of a complete comparison of a patch to a header, in an empty cache, divided
/// by the time of the first build. The builds are both sides, the control, and both sides with
/// counters.
pub(crate) fn header_pair_build_ratio(root: &Path) -> Result<Vec<f64>, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let cache = folder.path().join("cache");
    let mut command = hotplug(root);
    command
        .args(["compare", "--scenario", "dimm-and-cpu", "--trials", "1", "--anyway"])
        .arg(root.join("guest-images/patches/clean/header.patch"));
    command.arg("--cache").arg(&cache).arg("--results").arg(folder.path().join("results"));
    let status = command.stdout(Stdio::null()).status().map_err(|e| e.to_string())?;
    // The patch changes nothing, so any other verdict means that the comparison is not complete.
    if !status.success() {
        return Err(format!("compare ended with {status}, not with `unchanged`"));
    }
    let listed = hotplug(root).args(["kernel", "list", "--json", "--cache"]).arg(&cache).output();
    let listed = listed.map_err(|e| e.to_string())?.stdout;
    let listed: Value = serde_json::from_slice(&listed).map_err(|e| e.to_string())?;
    let kernels = listed["kernels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let seconds: Vec<f64> = kernels.iter().filter_map(|k| k["record"]["seconds"].as_f64()).collect();
    let is_first = |k: &&Value| k["record"]["incremental"] == false;
    let first = kernels.iter().find(is_first).and_then(|k| k["record"]["seconds"].as_f64());
    match (first, seconds.len()) {
        (Some(first), HEADER_KERNELS) => Ok(vec![seconds.iter().sum::<f64>() / first]),
        (_, number) => Err(format!("{number} kernels were built, not {HEADER_KERNELS}: {listed}")),
    }
}

/// Builds the kernels of a patch, for figures that do not include the build.
pub(crate) fn build(root: &Path, patch: &Path) -> Result<(), String> {
    let built = hotplug(root).args(["kernel", "build"]).arg(patch).stdout(Stdio::null()).status();
    if built.map_err(|e| e.to_string())?.success() { Ok(()) } else { Err("the kernels do not build".into()) }
}

/// Wall-clock time of a comparison in one scenario, with its kernels in the cache.
pub(crate) fn compare_seconds(root: &Path) -> Result<Vec<f64>, String> {
    let results = tempfile::tempdir().map_err(|e| e.to_string())?;
    build(root, &seed(root))?;
    let mut all = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let mut command = hotplug(root);
        command
            .args(["compare", "--scenario", "dimm-and-cpu"])
            .arg(seed(root))
            .arg("--results")
            .arg(results.path())
            .stdout(Stdio::null());
        let status = command.status().map_err(|e| e.to_string())?;
        // The seed patch regresses, so any other status means that the comparison failed.
        if status.code() != Some(1) {
            return Err(format!("compare ended with {status}, not with `regressed`"));
        }
        all.push(began.elapsed().as_secs_f64());
    }
    Ok(all)
}

//! What a comparison costs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::hotplug;

/// Before, after, control, and both sides with counters.
const HEADER_KERNELS: usize = 5;

fn seed(root: &Path) -> PathBuf {
    root.join("guest-images/patches/seed")
}

/// Time of the pair's two builds in an empty cache over the first one's, as the builder itself times them.
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

/// Starts until the median is taken.
const STARTS: usize = 7;

/// From the harness's exec until a worker takes the first trial, seconds; kernels, checkpoints and the accelerator's answer in the
/// cache, as in every run but the first.
pub(crate) fn start_to_first_trial_s(root: &Path) -> Result<Vec<f64>, String> {
    // The first start makes what is missing, and is no figure.
    let all: Result<Vec<f64>, String> = (0..=STARTS).map(|_| start(root)).collect();
    Ok(all?.split_off(1))
}

/// One start, interrupted when its first trial has begun.
fn start(root: &Path) -> Result<f64, String> {
    let results = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command.arg("compare").arg(seed(root)).args(["--json-lines", "--results"]).arg(results.path());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let pid = i32::try_from(child.id()).map_err(|e| e.to_string())?;
    let stdout = child.stdout.take().ok_or("it has no standard output")?;
    let mut taken = None;
    for line in BufReader::new(stdout).lines() {
        let line: Value =
            serde_json::from_str(&line.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        if line["event"] == "trial-began" && taken.is_none() {
            taken = Some(began.elapsed().as_secs_f64());
            kill(Pid::from_raw(pid), Signal::SIGINT).map_err(|e| e.to_string())?;
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    taken.ok_or_else(|| format!("compare ended with {status} before a trial began"))
}

/// Time of all builds of one whole comparison of a patch that touches a header, in an empty cache,
/// over the first build's: both sides, the control, and both sides with counters.
pub(crate) fn header_pair_build_ratio(root: &Path) -> Result<Vec<f64>, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let cache = folder.path().join("cache");
    let mut command = hotplug(root);
    command.args(["compare", "--trials", "1"]).arg(root.join("guest-images/patches/clean/header.patch"));
    command.arg("--cache").arg(&cache).arg("--results").arg(folder.path().join("results"));
    let status = command.stdout(Stdio::null()).status().map_err(|e| e.to_string())?;
    // The patch changes nothing; anything else is no whole comparison.
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

/// Wall-clock time of the default comparison, kernels built.
pub(crate) fn compare_seconds(root: &Path) -> Result<Vec<f64>, String> {
    let results = tempfile::tempdir().map_err(|e| e.to_string())?;
    // Kernels first; this is not their figure.
    let built = hotplug(root).args(["kernel", "build"]).arg(seed(root)).stdout(Stdio::null()).status();
    if !built.map_err(|e| e.to_string())?.success() {
        return Err("the kernels do not build".into());
    }
    let mut all = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let mut command = hotplug(root);
        command.arg("compare").arg(seed(root)).arg("--results").arg(results.path()).stdout(Stdio::null());
        let status = command.status().map_err(|e| e.to_string())?;
        // The seed patch regresses; anything else did not measure the comparison.
        if status.code() != Some(1) {
            return Err(format!("compare ended with {status}, not with `regressed`"));
        }
        all.push(began.elapsed().as_secs_f64());
    }
    Ok(all)
}

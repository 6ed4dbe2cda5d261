//! The portfolio: its time, and how much of hotplug it reaches. All figures are of one run of a
//! patch that changes nothing.

use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::Value;

use crate::compare::build;
use crate::hotplug;
use crate::trials::{only, parsed};

/// The result of the one run.
static RESULT: OnceLock<Result<Value, String>> = OnceLock::new();

fn result(root: &Path) -> Result<&'static Value, String> {
    RESULT.get_or_init(|| run(root)).as_ref().map_err(Clone::clone)
}

fn run(root: &Path) -> Result<Value, String> {
    let patch = root.join("guest-images/patches/clean/comment-only.patch");
    build(root, &patch)?;
    let results = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command
        .args(["compare", "--no-control", "--no-coverage", "--no-atlas", "--anyway", "--results"])
        .arg(results.path())
        .arg(&patch);
    let status = command.stdout(Stdio::null()).status().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("compare ended with {status}, not with `unchanged`"));
    }
    parsed(&only(results.path())?.join("result.json"))
}

/// Seconds from the first trial's start to the last one's end.
pub(crate) fn portfolio_seconds(root: &Path) -> Result<Vec<f64>, String> {
    result(root)?["trials_seconds"].as_f64().map(|seconds| vec![seconds]).ok_or("no trials_seconds".into())
}

/// Files of the source that register callbacks and are in the kernel.
pub(crate) fn reach_callbacks_built(root: &Path) -> Result<Vec<f64>, String> {
    result(root)?["reach"]["built"]
        .as_f64()
        .map(|built| vec![built])
        .ok_or("the source was not searched".into())
}

/// Callbacks of memory and CPU hotplug that ran: notifiers, startups and teardowns.
pub(crate) fn reach_callbacks_run(root: &Path) -> Result<Vec<f64>, String> {
    let reach = &result(root)?["reach"];
    let of = |list: &str, field: &str| {
        let all = reach[list].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|one| one[field].as_u64().is_some_and(|calls| calls > 0)).count()
    };
    let all = of("notifiers", "calls") + of("states", "startups") + of("states", "teardowns");
    Ok(vec![count(all)?])
}

/// States of CPU hotplug whose callbacks ran on the way back after a failure.
pub(crate) fn reach_rollbacks_run(root: &Path) -> Result<Vec<f64>, String> {
    let states = result(root)?["reach"]["states"].as_array().map(Vec::as_slice).unwrap_or_default();
    let back = states.iter().filter(|one| one["rollbacks"].as_u64().is_some_and(|calls| calls > 0));
    Ok(vec![count(back.count())?])
}

fn count(number: usize) -> Result<f64, String> {
    u32::try_from(number).map(f64::from).map_err(|e| e.to_string())
}

//! The rate of known bugs that are found. `hotplug prove` runs all entries once for all figures.

use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::Value;

use crate::hotplug;
use crate::trials::{only, parsed};

/// Runs `hotplug prove`. Returns its `prove.json`.
fn prove(root: &Path, more: &[&str]) -> Result<Value, String> {
    let results = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command.arg("prove").args(more).arg("--results").arg(results.path()).stdout(Stdio::null());
    let status = command.status().map_err(|e| e.to_string())?;
    // Missed bugs and false reports are figures. An entry that could not be tried is an error.
    if !matches!(status.code(), Some(0 | 1)) {
        return Err(format!("prove ended with {status}"));
    }
    parsed(&only(results.path())?.join("prove.json"))
}

fn totals(root: &Path, figure: impl Fn(&Value) -> Option<f64>) -> Result<Vec<f64>, String> {
    static ALL: OnceLock<Result<Value, String>> = OnceLock::new();
    let all = ALL.get_or_init(|| prove(root, &[])).as_ref().map_err(String::clone)?;
    figure(&all["totals"]).map(|value| vec![value]).ok_or_else(|| format!("no such total in {all}"))
}

/// Share of the planted bugs that are found.
pub(crate) fn planted_found_share(root: &Path) -> Result<Vec<f64>, String> {
    totals(root, |totals| Some(totals["planted"][0].as_f64()? / totals["planted"][1].as_f64()?))
}

/// Number of real bugs that are found.
pub(crate) fn real_found(root: &Path) -> Result<Vec<f64>, String> {
    totals(root, |totals| totals["real"][0].as_f64())
}

/// Number of false reports: those of patches that change nothing, and of the unmodified kernel.
pub(crate) fn false_reports(root: &Path) -> Result<Vec<f64>, String> {
    totals(root, |totals| totals["false_reports"].as_f64())
}

/// Wall-clock time of the quick proof, without building kernels.
pub(crate) fn quick_seconds(root: &Path) -> Result<Vec<f64>, String> {
    let seconds = |all: &Value| {
        let build = all["totals"]["build_seconds"].as_f64()?;
        Some(all["seconds"].as_f64()? - build)
    };
    let all = prove(root, &["--quick"])?;
    seconds(&all).map(|seconds| vec![seconds]).ok_or_else(|| format!("no time in {all}"))
}

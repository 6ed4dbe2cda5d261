//! The forecast deadlocks that come true when they are tried.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::hotplug;
use crate::trials::{only, parsed};

/// Planted lock inversions of 6.1 whose halves no scenario of the portfolio has together.
fn planted(root: &Path) -> Result<Vec<PathBuf>, String> {
    let folder = root.join("guest-images/patches/forecast");
    let entries = std::fs::read_dir(folder).map_err(|e| e.to_string())?;
    let is_one = |path: &PathBuf| {
        path.to_string_lossy().ends_with(".patch") && path.to_string_lossy().contains("-and-")
    };
    let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_one).collect();
    all.sort();
    if all.len() < 6 { Err(format!("only {} planted inversions", all.len())) } else { Ok(all) }
}

/// How many of the planted inversions a comparison without options calls a regression because a
/// forecast came true.
pub(crate) fn forecast_confirmed(root: &Path) -> Result<Vec<f64>, String> {
    let mut confirmed = 0.0;
    for patch in planted(root)? {
        let results = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut command = hotplug(root);
        command
            .args([
                "compare",
                "--source",
                "linux-source-6.1",
                "--narrow",
                "--no-control",
                "--no-coverage",
                "--no-atlas",
            ])
            .args(["--no-reach", "--no-latency", "--seed", "1", "--results"])
            .arg(results.path())
            .arg(&patch);
        command.stdout(Stdio::null()).status().map_err(|e| e.to_string())?;
        let result = parsed(&only(results.path())?.join("result.json"))?;
        let tried = result["forecasts"]["forecasts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let came_true =
            |one: &Value| one["outcome"]["tried"]["new"].as_array().is_some_and(|new| !new.is_empty());
        let is_one = tried.iter().any(came_true) && result["verdict"] == "regressed";
        eprintln!("{}: {}", patch.display(), if is_one { "came true" } else { "did not come true" });
        confirmed += f64::from(u8::from(is_one));
    }
    Ok(vec![confirmed])
}

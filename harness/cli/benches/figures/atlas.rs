//! The atlas of an unpatched kernel: how fast it is searched, and whether it leads to false forecasts.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use hotplug::atlas::Atlas;
use hotplug::kernel::Cache;
use hotplug_lockorder::{Union, forecast};
use hotplug_side::Side;

use crate::hotplug;
use crate::trials::{only, parsed};

/// The scenarios whose guests fill the atlas.
const SCENARIOS: [&str; 13] = [
    "attributes-of-cpus",
    "attributes-of-memory",
    "block-against-cpu",
    "cpu-into-offline",
    "dimm-and-cpu",
    "failing-callbacks",
    "many-dimms",
    "memoryless-node",
    "pmem-against-cpu",
    "random-soup",
    "refused-unplug",
    "suspend-against-pmem",
    "virtio-mem-against-cpus",
];

/// The comparisons of the atlas of 6.1.
const OF_6_1: [&str; 4] = ["--source", "linux-source-6.1", "--trials", "4"];

/// Runs a comparison in these scenarios, with the masks of the findings. Returns its result.
fn compared(root: &Path, scenarios: &[&str], args: &[&str]) -> Result<serde_json::Value, String> {
    let results = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut command = hotplug(root);
    command.args(["compare", "--narrow", "--seed", "1"]);
    command.args(["--no-control", "--no-coverage", "--no-reach", "--no-latency", "--anyway"]).args(args);
    for name in scenarios {
        command.args(["--scenario", name]);
    }
    let known = root.join("guest-images/patches/masks/known.toml");
    command.arg("--known").arg(known).arg("--results").arg(results.path());
    command.stdout(Stdio::null()).status().map_err(|e| e.to_string())?;
    parsed(&only(results.path())?.join("result.json"))
}

/// Seconds to read the atlas of a kernel that ran 13 scenarios, to join it and to search it for
/// deadlocks. The memory that this took is printed.
pub(crate) fn search_seconds(root: &Path) -> Result<Vec<f64>, String> {
    let wrong = |error: hotplug::Error| error.in_one_line();
    let result = compared(root, &SCENARIOS, &[&OF_6_1[..], &["--same"]].concat())?;
    let hash = result["run"]["kernels"]["before"]["image_hash"].as_str().unwrap_or_default().to_owned();
    let cache = Cache::open(Cache::default_path().map_err(wrong)?).map_err(wrong)?;
    let mut all = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let atlas = Atlas::load(&cache, &hash).map_err(wrong)?.map_err(|why| why.to_string())?;
        let atlas = atlas.ok_or("no atlas came of the comparison")?;
        let mut union = Union::default();
        for guest in &atlas.guests {
            union.add_elsewhere(Side::Before, &guest.example(), &guest.order);
        }
        let foreseen = forecast(&union, Side::Before).len();
        all.push(began.elapsed().as_secs_f64());
        let (edges, guests) = (atlas.edges(), atlas.guests.len());
        eprintln!("{edges} dependencies of {guests} guests foresee {foreseen} deadlocks");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    eprintln!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown"));
    Ok(all)
}

/// Forecasts that are called the patch's although it moves code around its locks without changing
/// their order, in 13 scenarios, with the atlas of the unpatched kernel.
pub(crate) fn forecast_false(root: &Path) -> Result<Vec<f64>, String> {
    let patch = root.join("guest-images/patches/known-bugs/clean-lock-refactoring.patch");
    let result =
        compared(root, &SCENARIOS, &[&OF_6_1[..], &[patch.to_str().ok_or("the path is no text")?]].concat())?;
    let forecasts = result["lock_order"]["forecast"].as_array().cloned().unwrap_or_default();
    let of_patch = forecasts.iter().filter(|one| one["side"] == "after" && one["new"] == true);
    let of_patch = of_patch.inspect(|one| eprintln!("{}", one["locks"]));
    Ok(vec![of_patch.fold(0.0, |all, _| all + 1.0)])
}

/// The share of trials in a hundred that lockdep watched to the end, of the scenarios that read and
/// write attributes, with the masks of the findings.
pub(crate) fn armed_share_masked(root: &Path) -> Result<Vec<f64>, String> {
    let mut all = Vec::new();
    for (suite, package) in [
        (None, "linux-source-6.1"),
        (Some("bookworm-backports"), "linux-source-6.12"),
        (Some("trixie-backports"), ""),
    ] {
        let mut source = package.to_owned();
        if let Some(suite) = suite {
            let names = [suite, package];
            let mut fetch = hotplug(root);
            fetch.args(["kernel", "fetch"]).args(names.iter().filter(|name| !name.is_empty()));
            let output = fetch.output().map_err(|e| e.to_string())?;
            String::from_utf8_lossy(&output.stdout).trim().clone_into(&mut source);
        }
        let result = compared(
            root,
            &["attributes-of-cpus", "attributes-of-memory"],
            &["--same", "--source", &source, "--trials", "8", "--no-atlas"],
        )?;
        let sum = |name: &str| -> f64 {
            ["before", "after"].iter().filter_map(|side| result["trials"][side][name].as_f64()).sum()
        };
        let (armed, trials) = (sum("armed"), sum("trials"));
        eprintln!("{source}: armed in {armed} of {trials}");
        all.push(armed * 100.0 / trials.max(1.0));
    }
    Ok(all)
}

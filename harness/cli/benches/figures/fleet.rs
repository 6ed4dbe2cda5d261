//! The cost of merging the shards of a night.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use hotplug::compare::Judge;
use hotplug::fleet::{Matrix, Plan, Shard};
use hotplug::kernel::Cache;
use hotplug::trial::TrialRecord;
use hotplug_side::Side;
use tokio_util::sync::CancellationToken;

use crate::hotplug;
use crate::trials::parsed;

const SHARDS: u32 = 1000;

/// Trials a side in each shard.
const TRIALS: u32 = 500;

/// Seconds and peak resident memory (MiB) of one merge of all shards.
fn merge(root: &Path) -> Result<(f64, f64), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let matrix = home.path().join("matrix.toml");
    let said = format!(
        "name = \"simulated\"\ntrials = {}\nshard = {TRIALS}\nscenarios = [\"{}/scenarios/dimm-and-cpu.toml\"]\n\
         [[kernel]]\nname = \"seed\"\nsource = \"linux-source-6.1\"\n",
        SHARDS * TRIALS,
        root.display()
    );
    std::fs::write(&matrix, said).map_err(|e| text(&e))?;
    let matrix = Matrix::read(&matrix).map_err(|e| text(&e))?;
    let cache = Cache::open(Cache::default_path().map_err(|e| text(&e))?).map_err(|e| text(&e))?;
    let making = tokio::runtime::Builder::new_current_thread().build().map_err(|e| text(&e))?;
    let (fleet, stop) = (home.path().join("fleet"), CancellationToken::new());
    let (plan, folder) = making.block_on(Plan::make(&matrix, &fleet, &cache, &stop)).map_err(|e| text(&e))?;
    // The records are those of the reference run, renumbered. One of its sides has a report.
    let reference = root.join("results/reference");
    let record = |name: &str| -> Result<TrialRecord, String> {
        let value = parsed(&reference.join("trials").join(name).join("trial.json"))?;
        serde_json::from_value(value).map_err(|e| e.to_string())
    };
    let (before, after) = (record("dimm-and-cpu-before-000")?, record("dimm-and-cpu-after-000")?);
    let run: hotplug::record::Run =
        serde_json::from_value(parsed(&reference.join("run.json"))?).map_err(|e| e.to_string())?;
    for (_, piece) in plan.pieces() {
        let mut judge = Judge::default();
        for number in piece.first..piece.end {
            for (side, like) in [(Side::Before, &before), (Side::After, &after)] {
                let folder = format!("{side}-{number:03}");
                judge.add(&TrialRecord { number, folder, side, ..like.clone() }, f64::from(number));
            }
        }
        let (plan, run) = (plan.id.clone(), run.clone());
        let shard = Shard { plan, id: piece.id.clone(), run, judge, repeated: Vec::new(), seconds: 1.0 };
        let place = Shard::folder(&folder, &piece.id);
        std::fs::create_dir_all(&place).map_err(|e| text(&e))?;
        shard.write(&place).map_err(|e| text(&e))?;
    }
    let began = Instant::now();
    let mut child =
        hotplug(root).arg("merge").arg(&folder).stdout(Stdio::null()).spawn().map_err(|e| text(&e))?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut most = 0.0_f64;
    let status = loop {
        let kib = std::fs::read_to_string(&status_file).ok().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().trim_end_matches(" kB").parse::<f64>().ok()
        });
        most = most.max(kib.unwrap_or(0.0) / 1024.0);
        if let Some(status) = child.try_wait().map_err(|e| text(&e))? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let seconds = began.elapsed().as_secs_f64();
    let result = parsed(&folder.join("merged/0000/result.json"))?;
    let trials = result["trials"]["after"]["trials"].as_u64();
    if status.code() != Some(1) || trials != Some(u64::from(SHARDS * TRIALS)) {
        return Err(format!("merge ended with {status}, and {trials:?} trials after"));
    }
    Ok((seconds, most))
}

/// Seconds of a merge of 1,000 shards with 1,000 simulated trials each.
pub(crate) fn merge_1000_shards_s(root: &Path) -> Result<Vec<f64>, String> {
    merge(root).map(|(seconds, _)| vec![seconds])
}

/// Peak memory of the same merge.
pub(crate) fn merge_1000_shards_mib(root: &Path) -> Result<Vec<f64>, String> {
    merge(root).map(|(_, most)| vec![most])
}

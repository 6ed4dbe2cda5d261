//! The cost of many results: the page of a long run, and queries of a long history.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use hotplug::history::History;
use hotplug::record::{RunResult, read_result};
use serde_json::Value;

use crate::hotplug;

/// Trials of the long run.
const TRIALS: u32 = 10_000;

/// Runs of the long history, of 20 trials each.
const RUNS: u32 = 5_000;

/// A run of [`TRIALS`] trials, whose records repeat those of the reference run.
fn long_run(root: &Path) -> Result<tempfile::TempDir, String> {
    let reference = root.join("results/reference");
    let home = tempfile::tempdir().map_err(|error| error.to_string())?;
    let made = || -> std::io::Result<()> {
        std::fs::copy(reference.join("result.json"), home.path().join("result.json"))?;
        let mut records: Vec<Value> = Vec::new();
        for trial in std::fs::read_dir(reference.join("trials"))? {
            records.push(serde_json::from_slice(&std::fs::read(trial?.path().join("trial.json"))?)?);
        }
        for (number, record) in (0..TRIALS).zip(records.iter().cycle()) {
            let mut record = record.clone();
            let folder = format!("{}-{:04}", record["side"].as_str().unwrap_or_default(), number / 2);
            let path = home.path().join("trials").join(&folder);
            record["folder"] = folder.into();
            std::fs::create_dir_all(&path)?;
            std::fs::write(path.join("trial.json"), record.to_string())?;
        }
        Ok(())
    };
    made().map_err(|error| format!("a run like {}: {error}", reference.display()))?;
    Ok(home)
}

/// The time to make the page of that run, and the page's size.
#[derive(Clone, Default)]
struct Pages {
    seconds: Vec<f64>,
    bytes: Vec<f64>,
}

/// Makes the page three times, once for both figures.
fn pages(root: &Path) -> Result<Pages, String> {
    static PAGES: OnceLock<Result<Pages, String>> = OnceLock::new();
    let made = || {
        let run = long_run(root)?;
        let mut all = Pages::default();
        for _ in 0..3 {
            let (seconds, page) = timed(hotplug(root).arg("report").arg(run.path()).arg("--html"))?;
            all.seconds.push(seconds);
            #[expect(clippy::cast_precision_loss, reason = "a page")]
            all.bytes.push(page.len() as f64);
        }
        Ok(all)
    };
    PAGES.get_or_init(made).clone()
}

/// Runs a command. Returns its seconds and its output, which must not be empty.
fn timed(command: &mut Command) -> Result<(f64, Vec<u8>), String> {
    let began = Instant::now();
    let told = command.output().map_err(|error| error.to_string())?;
    let seconds = began.elapsed().as_secs_f64();
    if !told.status.success() || told.stdout.is_empty() {
        return Err(format!("{command:?} ended with {}", told.status));
    }
    Ok((seconds, told.stdout))
}

pub(crate) fn page_seconds(root: &Path) -> Result<Vec<f64>, String> {
    Ok(pages(root)?.seconds)
}

pub(crate) fn page_bytes(root: &Path) -> Result<Vec<f64>, String> {
    Ok(pages(root)?.bytes)
}

/// Milliseconds of `hotplug history` on 100,000 trials, for the overview, a scenario and a finding.
pub(crate) fn history_query_ms(root: &Path) -> Result<Vec<f64>, String> {
    let results = tempfile::tempdir().map_err(|error| error.to_string())?;
    let kept = |name: &str| {
        let folder = root.join("harness/tests/fixtures/results").join(name);
        read_result(&folder).map_err(|error| error.to_string())
    };
    let (reports, timed_run) = (kept("seed-6.12")?, kept("timed-6.1")?);
    let mut history = History::open(results.path()).map_err(|error| error.to_string())?;
    for number in 0..RUNS {
        let mut result: RunResult = if number % 2 == 0 { reports.clone() } else { timed_run.clone() };
        result.run.id = format!("run-{number:05}");
        result.run.scenario = format!("scenario-{}", number / 2 % 5);
        result.run.started += jiff::SignedDuration::from_hours(i64::from(number));
        history.add(&result).map_err(|error| error.to_string())?;
    }
    let signature = reports.reports[0].signature.clone();
    let mut all = Vec::new();
    for _ in 0..5 {
        for of in [None, Some("scenario-0"), Some(signature.as_str())] {
            let mut command = hotplug(root);
            command.args(["history", "--results"]).arg(results.path()).args(of);
            all.push(timed(&mut command)?.0 * 1000.0);
        }
    }
    Ok(all)
}

//! Makes the page of a run from its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Evidence, Parts, ScenarioHistory, Square, diff, page};
use crate::compare::Finding;
use crate::files::{read_json_if_there, write_whole};
use crate::guest::kernel_log;
use crate::history::History;
use crate::present::evidence;
use crate::record::RunResult;
use crate::trial::TrialRecord;
use crate::{Result, environment};

/// The file name of the page in a run's folder.
pub const FILE: &str = "report.html";

/// The maximum number of operations of the trials that are shown in full. Each takes 1 KB of the
/// page.
const SHOWN: usize = 800;

/// The maximum number of earlier runs, and of their findings, that are listed.
const EARLIER: u32 = 20;

/// Writes the page of `result` into its folder.
pub fn write(folder: &Path, result: &RunResult) -> Result<()> {
    Ok(write_whole(&folder.join(FILE), html(folder, result)?.as_bytes())?)
}

/// The page as HTML.
pub fn html(folder: &Path, result: &RunResult) -> Result<String> {
    let squares = squares(&folder.join("trials"))?;
    let mut parts = Parts {
        about: environment::about(folder, &result.run).unwrap_or_default(),
        folder: folder.to_owned(),
        past: past(folder, result),
        diffs: diff::kept(folder),
        ..Parts::default()
    };
    let mut operations = 0;
    for name in in_order(result, &squares) {
        // A trial's folder may have been deleted.
        let path = folder.join("trials").join(name).join("trial.json");
        let Some(trial) = read_json_if_there::<TrialRecord>(&path)? else { continue };
        operations += trial.operations.len();
        if operations > SHOWN && !parts.shown.is_empty() {
            break;
        }
        parts.shown.push(trial);
    }
    // One trial is often the example of several findings.
    let mut logs: BTreeMap<&str, String> = BTreeMap::new();
    for finding in &result.reports {
        let trial = parts.shown.iter().find(|trial| trial.folder == example(finding));
        parts.evidence.push(trial.and_then(|trial| {
            let log = logs.entry(&trial.folder).or_insert_with(|| {
                let text = kernel_log(&folder.join("trials").join(&trial.folder)).unwrap_or_default();
                String::from_utf8_lossy(&text).into_owned()
            });
            shown_for(finding, trial, log)
        }));
    }
    parts.squares = squares;
    Ok(page(result, &parts))
}

/// The earlier runs, if there is a history. Without it the page is still useful.
fn past(folder: &Path, result: &RunResult) -> ScenarioHistory {
    let run = &result.run;
    let asked = || -> Result<ScenarioHistory> {
        let Some(history) = folder.parent().map_or(Ok(None), History::there)? else {
            return Ok(ScenarioHistory::default());
        };
        let mut series = history.series(&run.scenario)?;
        series.retain(|series| series.points.iter().any(|(id, _)| *id == run.id));
        Ok(ScenarioHistory {
            runs: history.runs(Some(&run.scenario), EARLIER)?,
            bugs: history.bugs("", Some(&run.scenario), EARLIER)?,
            series,
        })
    };
    asked().unwrap_or_else(|error| {
        tracing::warn!(%error, "the page goes without earlier runs");
        ScenarioHistory::default()
    })
}

/// All trials, sorted by the names of their folders.
fn squares(trials: &Path) -> Result<Vec<Square>> {
    let mut all: Vec<Square> = Vec::new();
    for entry in fs_err::read_dir(trials).into_iter().flatten() {
        all.extend(read_json_if_there::<Square>(&entry?.path().join("trial.json"))?);
    }
    all.sort_by(|a, b| a.folder.cmp(&b.folder));
    Ok(all)
}

/// The folder of a finding's example trial.
fn example(finding: &Finding) -> &str {
    finding.example.strip_prefix("trials/").unwrap_or(&finding.example)
}

/// The names of the trials to show: the example of each finding, then the first of each outcome and
/// side, then the others.
fn in_order<'a>(result: &'a RunResult, squares: &'a [Square]) -> Vec<&'a str> {
    let mut seen = Vec::new();
    let (firsts, others): (Vec<&Square>, Vec<&Square>) = squares.iter().partition(|square| {
        let kind = (square.side, square.outcome);
        let is_first = !seen.contains(&kind);
        seen.extend(is_first.then_some(kind));
        is_first
    });
    let folders = firsts.into_iter().chain(others).map(|square| square.folder.as_str());
    let mut known = BTreeSet::new();
    result.reports.iter().map(example).chain(folders).filter(|name| known.insert(*name)).collect()
}

/// The report of a finding, and its lines of the kernel log.
fn shown_for(finding: &Finding, trial: &TrialRecord, text: &str) -> Option<Evidence> {
    let seen = evidence::seen_in(trial, finding)?;
    let log = evidence::lines(seen, &finding.example, text);
    Some(Evidence { locks: seen.first.locks.clone(), log })
}

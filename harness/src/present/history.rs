//! The results of earlier runs, as text.

use std::fmt::Write;

use hotplug_statistics::interval;

use super::mail;
use crate::compare::Count;
use crate::history::{Bug, MetricSeries, RunRow, ScenarioRow, changes};
use crate::text::{harmless, nanoseconds};

/// The width of a row, in characters.
const WIDTH: usize = 100;

/// All scenarios, and the latest findings.
pub fn overview(scenarios: &[ScenarioRow], found: &[Bug]) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:<40} {:>6} {:>10}  last run", "scenario", "runs", "regressed");
    for ScenarioRow { scenario, runs, regressed, last } in scenarios {
        let _ = writeln!(out, "{:<40} {runs:>6} {regressed:>10}  {}", harmless(scenario, 39), day(last));
    }
    out.push_str(&bugs(found));
    out
}

/// Findings: when they were first and last seen, and in how many trials.
pub fn bugs(found: &[Bug]) -> String {
    let mut out = String::new();
    if !found.is_empty() {
        out.push_str("\nfindings, the latest first\n");
    }
    for Bug { signature, title, first, last, runs, before, after } in found {
        let _ = writeln!(out, "{}  {}", harmless(signature, 12), harmless(title, WIDTH - 14));
        let _ = writeln!(
            out,
            "              {runs} runs, {} to {}; before {}, after {}",
            day(first),
            day(last),
            rate(*before),
            rate(*after)
        );
    }
    out
}

/// Runs: the compared kernels and the verdict. The numbers are trials, or trials that showed a
/// finding.
pub fn runs(all: &[RunRow]) -> String {
    let mut out = format!("\n{:<16} {:<13} {:>9}  what\n", "run of", "verdict", "trials");
    for run in all {
        let RunRow { started, verdict, trials: (before, after), .. } = run;
        let _ = writeln!(
            out,
            "{:<16} {:<13} {:>9}  {}",
            minute(started),
            verdict.as_deref().unwrap_or("none"),
            format!("{before} + {after}"),
            harmless(&what(run), WIDTH - 43)
        );
    }
    out
}

/// The latency of kernels without a patch over time, and its changes.
pub fn trends(all: &[MetricSeries]) -> String {
    let mut out = String::new();
    for MetricSeries { metric, ground, points } in all {
        let values: Vec<f64> = points.iter().map(|(_, nanoseconds)| *nanoseconds).collect();
        let [(_, first), .., (_, last)] = points.as_slice() else { continue };
        let _ = writeln!(
            out,
            "\n{}, without a patch, in {} runs: {} at first, {} at last",
            harmless(metric, 60),
            points.len(),
            nanoseconds(*first),
            nanoseconds(*last)
        );
        let _ = writeln!(out, "  {}", harmless(ground, WIDTH - 2));
        for change in changes(&values) {
            let percent = (change.ratio - 1.0) * 100.0;
            let since = harmless(&points[change.at].0, 60);
            let _ =
                writeln!(out, "  {percent:+.1} % since {since}, p = {}", crate::text::probability(change.p));
        }
    }
    out
}

/// The compared patch and kernel of a run.
pub(super) fn what(run: &RunRow) -> String {
    let RunRow { id, release, patches, .. } = run;
    match patches.lines().next() {
        Some(patch) => format!("{} on {release}", mail::name(patch)),
        None => format!("{} on {release}", id.get(20..).unwrap_or(id)),
    }
}

/// Formats a rate as `3/40 (2 % to 20 %)`.
pub(super) fn rate(count: Count) -> String {
    if count.trials == 0 {
        return "no trials".into();
    }
    let (low, high) = interval(count.seen, count.trials);
    format!("{count} ({:.0} % to {:.0} %)", low * 100.0, high * 100.0)
}

pub(super) fn day(time: &str) -> &str {
    time.get(..10).unwrap_or(time)
}

pub(super) fn minute(time: &str) -> String {
    time.get(..16).unwrap_or(time).replace('T', " ")
}

//! The screen of a proof: a row for each entry as soon as it ends, then the totals.

use std::fmt::Write;
use std::path::Path;

use super::{duration, host_line};
use crate::compare::Finding;
use crate::known_bugs::Group;
use crate::latency::MetricResult;
use crate::prove::{EntryResult, ProveResult, Proving, Sight, Totals};
use crate::text::harmless;

/// The lines that are printed while a proof runs.
pub fn proving(proving: &Proving<'_>) -> String {
    match proving {
        Proving::Begins(result) => head(result),
        Proving::Tried(entry) => row(entry),
    }
}

/// Width of the column with an entry's name. The columns of sight, trials and seconds follow, then
/// text of any length.
const NAME: usize = 32;
/// Widest text of a finding, in characters.
const TITLE: usize = 58;

/// The request, and the head of the table.
pub fn head(result: &ProveResult) -> String {
    let ProveResult { release, source, blind, head, .. } = result;
    let how = match blind {
        None => String::new(),
        Some(seconds) => {
            format!(
                "blind     the portfolio on wide kernels, at most {} of trials each\n",
                duration(*seconds)
            )
        }
    };
    let mut out = format!("hotplug prove   {source}, {release}\n{}\n{how}\n", host_line(&head.host));
    let _ = writeln!(out, "{:<NAME$} {:<10} {:>7} {:>6}  as", "known bug", "", "trials", "after");
    out
}

/// One entry: a row, and one more line for each unexpected finding.
pub fn row(entry: &EntryResult) -> String {
    let mut out = String::new();
    let sight = match &entry.sight {
        Sight::Found => "found",
        Sight::NotFound => "NOT FOUND",
        Sight::Silent => "silent",
        Sight::FalseReport => "FALSE",
        Sight::LeftOut { .. } => "left out",
        Sight::Failed { .. } => "FAILED",
    };
    let trials = match entry.group {
        Group::Clean => entry.tried.iter().map(|t| t.trials.after.trials).sum::<u32>().to_string(),
        _ if !entry.slower.is_empty() => boots(entry),
        _ => entry.count().to_string(),
    };
    let (trials, after) = match entry.sight {
        Sight::LeftOut { .. } | Sight::Failed { .. } => (String::new(), String::new()),
        _ => (trials, entry.seconds.map_or_else(|| "-".into(), |s| format!("{s:.0} s"))),
    };
    let what = match &entry.sight {
        Sight::LeftOut { why } | Sight::Failed { why } => first_line(why),
        Sight::Found if entry.seen.is_none() => {
            entry.told_slower().map(MetricResult::in_short).collect::<Vec<_>>().join(", ")
        }
        Sight::Found => entry.seen.as_ref().map_or_else(String::new, |f| harmless(&f.key, TITLE)),
        Sight::NotFound if entry.missed.is_some() => first_line(entry.missed.as_deref().unwrap_or_default()),
        Sight::NotFound => match &entry.not_found {
            Some(why) => format!("as its card expects: {}", harmless(&first_line(why), TITLE)),
            None => match entry.expect.first() {
                Some(expected) => harmless(&expected.key, TITLE),
                None if entry.slower.is_empty() => entry.traces.join(", "),
                None => format!("slower: {}", entry.slower.join(", ")),
            },
        },
        Sight::Silent | Sight::FalseReport => String::new(),
    };
    let line = format!("{:<NAME$} {sight:<10} {trials:>7} {after:>6}  {what}", harmless(&entry.name, NAME));
    let _ = writeln!(out, "{}", line.trim_end());
    for finding in &entry.other {
        let _ = writeln!(out, "{:<NAME$} {}", "", also(finding));
    }
    out
}

/// The number of timed boots of each kernel.
fn boots(entry: &EntryResult) -> String {
    entry
        .latency()
        .map_or_else(String::new, |latency| format!("{}+{}", latency.boots.before, latency.boots.after))
}

fn also(finding: &Finding) -> String {
    let title = harmless(&finding.title, TITLE);
    format!("also: {title}, before {}, after {}", finding.before, finding.after)
}

fn first_line(text: &str) -> String {
    harmless(text.lines().next().unwrap_or_default(), TITLE + 20)
}

/// The totals of all entries. `folder` is the proof's folder.
pub fn totals(result: &ProveResult, folder: &Path) -> String {
    let Totals { real, planted, clean, .. } = result.totals;
    let t = &result.totals;
    let mut out = String::new();
    let share = |share: f64| format!("{:.0} %", share * 100.0);
    let (low, high) = (share(t.real_interval.0), share(t.real_interval.1));
    let _ = writeln!(out, "\nfound     {} of {} real bugs ({low} to {high}, at 95 %)", real.0, real.1);
    if planted.1 > 0 {
        let _ = writeln!(out, "          {} of {} planted bugs", planted.0, planted.1);
    }
    if t.tried() == 0 {
        out.push_str("          no entry was tried, so this says nothing\n");
    }
    let left_out = result.entries.iter().filter(|entry| entry.is_left_out()).count();
    if left_out > 0 {
        let _ = writeln!(out, "          {left_out} left out, and not counted");
    }
    // A blind proof has no clean kernels, and the unmodified kernel may have findings of its own.
    if result.blind.is_none() {
        let _ = writeln!(
            out,
            "silent    {} of {} clean kernels; {} false reports in {} trials of them and of the unmodified one",
            clean.0, clean.1, t.false_reports, t.clean_trials
        );
    }
    let _ = writeln!(
        out,
        "cost      {} kernels built in {}, {} trials in {}; {} in all",
        t.builds,
        duration(t.build_seconds),
        t.bug_trials + t.clean_trials,
        duration(t.run_seconds),
        duration(result.seconds)
    );
    if t.failed > 0 {
        let _ = writeln!(out, "failed    {} could not be tried, and count as not found", t.failed);
    }
    let _ = writeln!(out, "result    {}/prove.json", folder.display());
    out
}

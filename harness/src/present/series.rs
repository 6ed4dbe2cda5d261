//! The screen of a series: a row for each patch as soon as it is judged, then the patch that
//! introduced each report.

use std::fmt::Write;
use std::path::Path;

use super::{bisect, duration, host_line};
use crate::record::HostRecord;
use crate::series::{Brought, Judged, Judging, SeriesResult, SeriesStep, State};
use crate::text::harmless;

/// The lines that are printed while a series runs.
pub fn judging(judging: &Judging<'_>) -> String {
    match judging {
        Judging::Begins(result, patches) => head(&result.source, *patches, &result.head.host),
        Judging::Patch(step) => row(step),
        Judging::Brought(result) => brought(result),
        Judging::Sought(title) => format!("\n{}\n", bisect::sought(title)),
        Judging::Bisecting(bisecting) => bisect::bisecting(bisecting),
    }
}

/// Width of the subject's column, in characters.
const SUBJECT: usize = 46;
/// Widest text of a finding, in characters.
const TITLE: usize = 70;

/// The request, and the head of the table.
pub fn head(source: &str, patches: usize, host: &HostRecord) -> String {
    let mut out = format!("hotplug series   {source}, {patches} patches\n{}\n\n", host_line(host));
    let _ = writeln!(
        out,
        "{:>3}  {:<SUBJECT$} {:<13} {:>3} {:>5}  {:<7} latency",
        "", "patch", "", "new", "fixed", "locks"
    );
    out
}

/// One patch: a row, and one more line for each report that it introduces or removes.
pub fn row(step: &SeriesStep) -> String {
    let mut out = format!("{:>3}  {:<SUBJECT$} ", step.number, harmless(&step.subject, SUBJECT));
    match &step.state {
        State::NoKernel { why } => {
            let _ = writeln!(out, "{:<13}", "NO KERNEL");
            for line in why.lines().take(3) {
                let _ = writeln!(out, "     {}", harmless(line, 100));
            }
        }
        State::NoTrial { why, .. } => {
            let _ = writeln!(out, "{:<13}\n     {}", "NO TRIAL", harmless(why, 100));
        }
        State::Judged(judged) => {
            let Judged { verdict, new, fixed, locks, latency, .. } = &**judged;
            let locks =
                locks.map_or_else(|| "-".to_owned(), |locks| format!("+{} -{}", locks.new, locks.gone));
            let latency = match latency.as_deref() {
                None => "-".to_owned(),
                Some([]) => "same".to_owned(),
                Some(all) => harmless(&all.join(", "), 40),
            };
            let verdict = verdict.to_string();
            let _ = writeln!(out, "{verdict:<13} {:>3} {:>5}  {locks:<7} {latency}", new.len(), fixed.len());
            for (word, all) in [("new", new), ("fixed", fixed)] {
                for one in all {
                    let _ = writeln!(out, "     {word:<5} {}", told(one));
                }
            }
        }
    }
    if step.against + 1 < step.number {
        let _ =
            writeln!(out, "     against the kernel with {} of the patches, the last that runs", step.against);
    }
    out
}

fn told(one: &Brought) -> String {
    let chance = if one.decided { "" } else { ", may be chance" };
    format!("{}   {} -> {}{chance}", harmless(&one.title, TITLE), one.before, one.after)
}

/// The patch that first introduced each report.
pub fn brought(result: &SeriesResult) -> String {
    let mut out = String::from("\n");
    let all = introduced(result);
    for (step, one) in &all {
        let _ = writeln!(out, "brought   by patch {}: {}", step.number, told(one));
        // A later patch may remove a report that an earlier one introduced.
        if let Some(later) =
            result.patches.iter().find(|later| later.number > step.number && takes(later, one))
        {
            let _ = writeln!(out, "          and taken away by patch {}", later.number);
        }
    }
    if all.is_empty() {
        let _ = writeln!(out, "brought   no report, by any of {} patches", result.patches.len());
    }
    out
}

/// The location of the result. `folder` is the folder of the series.
pub fn totals(result: &SeriesResult, folder: &Path) -> String {
    format!("result    {}/series.json, after {}\n", folder.display(), duration(result.seconds))
}

/// Each new report with the first patch that shows it.
fn introduced(result: &SeriesResult) -> Vec<(&SeriesStep, &Brought)> {
    let mut all: Vec<(&SeriesStep, &Brought)> = Vec::new();
    for step in &result.patches {
        let State::Judged(judged) = &step.state else { continue };
        for one in &judged.new {
            if !all.iter().any(|(_, known)| known.signature == one.signature) {
                all.push((step, one));
            }
        }
    }
    all
}

fn takes(step: &SeriesStep, what: &Brought) -> bool {
    matches!(&step.state, State::Judged(judged)
        if judged.fixed.iter().any(|one| one.signature == what.signature && one.decided))
}

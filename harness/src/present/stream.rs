//! What happens in a run, one JSON object a line, for programs that watch it.

use std::io::Write;

use hotplug_side::Side;
use serde::Serialize;

use crate::compare::{Class, Count, Verdict};
use crate::record::{Run, RunResult};
use crate::trial::{Again, Happened, TrialOutcome};
use crate::{Error, Result};

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    /// The run is about to begin its trials.
    Run {
        /// As in `run.json`.
        run: &'a Run,
    },
    /// A trial began.
    TrialBegan {
        /// Its folder.
        trial: String,
        /// Its kernel.
        side: Side,
    },
    /// A trial ended.
    TrialEnded {
        /// Its folder.
        trial: &'a str,
        /// Its kernel.
        side: Side,
        /// What came of it.
        outcome: TrialOutcome,
        /// In words.
        why: &'a str,
        /// It does not count, and is tried again.
        again: bool,
        /// Lockdep checked to the end.
        armed: bool,
        /// What the kernel reported, each signature once.
        reports: Vec<Seen<'a>>,
    },
    /// The verdict: first of the trials alone, and, once it is final, of all that was asked.
    Verdict {
        /// Nothing follows that could change it.
        r#final: bool,
        /// As in `result.json`.
        verdict: Option<Verdict>,
        /// Why, in one sentence.
        reason: &'a str,
        /// What the kernels reported.
        reports: Vec<Weighed<'a>>,
        /// What is asked next, and may take `unchanged` and `fixed` away.
        following: &'a [&'a str],
    },
    /// All of it, last.
    Result {
        /// As in `result.json`.
        result: &'a RunResult,
    },
}

#[derive(Debug, Serialize)]
struct Seen<'a> {
    signature: &'a str,
    title: &'a str,
    times: u64,
}

#[derive(Debug, Serialize)]
struct Weighed<'a> {
    signature: &'a str,
    title: &'a str,
    class: Class,
    before: Count,
    after: Count,
    p: f64,
    decided: bool,
}

/// Says that a run begins.
pub fn began(out: &mut dyn Write, run: &Run) -> Result<()> {
    say(out, &Line::Run { run })
}

/// Says what happened in it.
pub fn happened(out: &mut dyn Write, happened: &Happened) -> Result<()> {
    match happened {
        Happened::Began(plan) => say(out, &Line::TrialBegan { trial: plan.folder(), side: plan.side }),
        Happened::Ended(record, again) => say(
            out,
            &Line::TrialEnded {
                trial: &record.folder,
                side: record.side,
                outcome: record.outcome,
                why: &record.why,
                again: *again == Again::Yes,
                armed: record.armed_to_the_end(),
                reports: record
                    .reports
                    .iter()
                    .map(|seen| Seen {
                        signature: &seen.first.signature.hash,
                        title: &seen.first.title,
                        times: seen.times,
                    })
                    .collect(),
            },
        ),
    }
}

/// Says the verdict; final where nothing follows.
pub fn verdict(out: &mut dyn Write, result: &RunResult, following: &[&str]) -> Result<()> {
    let reports = result.reports.iter().map(|finding| Weighed {
        signature: &finding.signature,
        title: &finding.title,
        class: finding.class,
        before: finding.before,
        after: finding.after,
        p: finding.p,
        decided: finding.decided,
    });
    let reports = reports.collect();
    let RunResult { verdict, reason, .. } = result;
    let is_final = following.is_empty();
    say(out, &Line::Verdict { r#final: is_final, verdict: *verdict, reason, reports, following })
}

/// Says its verdict, and all of it.
pub fn ended(out: &mut dyn Write, result: &RunResult) -> Result<()> {
    verdict(out, result, &[])?;
    say(out, &Line::Result { result })
}

fn say(out: &mut dyn Write, line: &Line<'_>) -> Result<()> {
    let text = serde_json::to_string(line).map_err(Error::infrastructure)?;
    // Whoever watches sees it at once.
    out.write_all(format!("{text}\n").as_bytes())?;
    Ok(out.flush()?)
}

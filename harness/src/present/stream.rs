//! The events of a run for programs, one JSON object a line.

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
        /// The content of `run.json`.
        run: &'a Run,
    },
    /// A trial began.
    TrialBegan {
        /// The name of its folder.
        trial: String,
        /// The side of its kernel.
        side: Side,
    },
    /// A trial ended.
    TrialEnded {
        /// The name of its folder.
        trial: &'a str,
        /// The side of its kernel.
        side: Side,
        /// The outcome.
        outcome: TrialOutcome,
        /// The outcome in words.
        why: &'a str,
        /// Whether the trial does not count and is repeated.
        again: bool,
        /// Whether lockdep was armed to the end.
        armed: bool,
        /// The kernel's reports, each signature once.
        reports: Vec<Seen<'a>>,
    },
    /// The verdict: first that of the trials alone, and then the final one.
    Verdict {
        /// Whether no analysis follows that could change it.
        r#final: bool,
        /// The verdict as in `result.json`.
        verdict: Option<Verdict>,
        /// The reason, in one sentence.
        reason: &'a str,
        /// The reports of the kernels.
        reports: Vec<Weighed<'a>>,
        /// The analyses that follow, which may revoke `unchanged` and `fixed`.
        following: &'a [&'a str],
    },
    /// The complete result, as the last line.
    Result {
        /// The content of `result.json`.
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

/// Prints the start of a run.
pub fn began(out: &mut dyn Write, run: &Run) -> Result<()> {
    say(out, &Line::Run { run })
}

/// Prints an event of a trial.
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

/// Prints the verdict. It is final if nothing follows.
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

/// Prints the final verdict and the complete result.
pub fn ended(out: &mut dyn Write, result: &RunResult) -> Result<()> {
    verdict(out, result, &[])?;
    say(out, &Line::Result { result })
}

fn say(out: &mut dyn Write, line: &Line<'_>) -> Result<()> {
    let text = serde_json::to_string(line).map_err(Error::infrastructure)?;
    // Flushed, so that a reader receives each line at once.
    out.write_all(format!("{text}\n").as_bytes())?;
    Ok(out.flush()?)
}

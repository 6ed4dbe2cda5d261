//! What happens in a run, one JSON object a line, for programs that watch it.

use std::io::Write;

use serde::Serialize;

use crate::record::{Run, RunResult};
use crate::side::Side;
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
    /// The verdict, last.
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

/// Says that a run begins.
pub fn began(out: &mut impl Write, run: &Run) -> Result<()> {
    say(out, &Line::Run { run })
}

/// Says what happened in it.
pub fn happened(out: &mut impl Write, happened: &Happened) -> Result<()> {
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

/// Says its verdict.
pub fn ended(out: &mut impl Write, result: &RunResult) -> Result<()> {
    say(out, &Line::Result { result })
}

fn say(out: &mut impl Write, line: &Line<'_>) -> Result<()> {
    let text = serde_json::to_string(line).map_err(Error::infrastructure)?;
    // Whoever watches sees it at once.
    out.write_all(format!("{text}\n").as_bytes())?;
    Ok(out.flush()?)
}

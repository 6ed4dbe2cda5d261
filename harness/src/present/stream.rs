//! The events of a run for programs, one JSON object a line.

use std::io::Write;

use hotplug_side::Side;
use schemars::JsonSchema;
use serde::Serialize;

use crate::compare::{Bet, Class, Count, Verdict};
use crate::conclusion::Conclusion;
use crate::kernel::BuildEvent;
use crate::record::{Run, RunResult};
use crate::trial::{Again, Happened, TrialOutcome};
use crate::{Error, Result};

/// One line: an event and its time.
#[derive(Debug, Serialize, JsonSchema)]
struct Stamped<'a> {
    /// The time, in UTC.
    #[schemars(with = "String")]
    time: jiff::Timestamp,
    #[serde(flatten)]
    line: Line<'a>,
}

/// An event.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    /// A part of the work begins, such as the control or the checkpoints, or has a message.
    Note {
        /// The part of the work.
        label: &'a str,
        /// The message.
        text: &'a str,
    },
    /// A step of a build begins, or a build has ended.
    Build {
        /// The side of the kernel.
        side: Side,
        /// The step.
        step: BuildStep,
        /// Seconds of the whole build, at its end.
        seconds: Option<f64>,
    },
    /// The run is about to begin its trials.
    Run {
        /// The content of `run.json`.
        run: &'a Run,
    },
    /// Trials are about to run.
    TrialsBegin {
        /// What they are for: `trials` or `control`.
        label: &'a str,
        /// The number of trials of both sides; null if a time limit or a report ends them.
        all: Option<u64>,
        /// The number of these that an earlier process ran.
        done: u64,
    },
    /// A trial began.
    TrialBegan {
        /// Whether the trial is judged. The trials of analyses and of the control are not.
        judged: bool,
        /// The name of its folder.
        trial: String,
        /// The side of its kernel.
        side: Side,
    },
    /// A trial ended.
    TrialEnded {
        /// Whether the trial is judged.
        judged: bool,
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
    /// The trials that began have ended.
    TrialsEnd,
    /// An analysis has concluded.
    Concluded {
        /// The name of its expectation.
        expected: Option<String>,
        /// Its lines on the screen.
        lines: Vec<String>,
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
    /// The command failed, as the last line.
    Error {
        /// The message, with its evidence.
        message: String,
        /// The remedy, if one is known.
        help: Option<&'a str>,
        /// The exit status of the command.
        exit_status: u8,
    },
}

/// A step of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BuildStep {
    /// It waits for another build in the same tree.
    Waiting,
    /// The source is unpacked.
    Unpacking,
    /// The source is read.
    Syncing,
    /// Patches are applied.
    Patching,
    /// Objects of an earlier build are copied.
    CopyingObjects,
    /// The kernel is configured.
    Configuring,
    /// Files are compiled.
    Compiling,
    /// vmlinux is linked.
    Linking,
    /// The kernel is built.
    Finished,
    /// The kernel was in the cache.
    Cached,
}

impl BuildStep {
    /// The step of an event.
    pub fn of(event: &BuildEvent) -> Self {
        match event {
            BuildEvent::Waiting { .. } => Self::Waiting,
            BuildEvent::Unpacking { .. } => Self::Unpacking,
            BuildEvent::Syncing { .. } => Self::Syncing,
            BuildEvent::Patching { .. } => Self::Patching,
            BuildEvent::CopyingObjects => Self::CopyingObjects,
            BuildEvent::Configuring => Self::Configuring,
            BuildEvent::Compiling { .. } => Self::Compiling,
            BuildEvent::Linking => Self::Linking,
            BuildEvent::Finished { .. } => Self::Finished,
            BuildEvent::Cached => Self::Cached,
        }
    }
}

/// The JSON Schema of a line, which is published as `docs/events.schema.json`.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Stamped<'static>).to_value()
}

#[derive(Debug, Serialize, JsonSchema)]
struct Seen<'a> {
    signature: &'a str,
    title: &'a str,
    times: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Weighed<'a> {
    signature: &'a str,
    title: &'a str,
    class: Class,
    before: Count,
    after: Count,
    p: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bet: Option<Bet>,
    decided: bool,
}

/// Prints the start of a run.
pub fn began(out: &mut dyn Write, run: &Run) -> Result<()> {
    say(out, Line::Run { run })
}

/// Prints the beginning of a part of the work, or its message.
pub fn note(out: &mut dyn Write, label: &str, text: &str) -> Result<()> {
    say(out, Line::Note { label: label.trim_end_matches(':'), text })
}

/// Prints a step of a build.
pub fn build(out: &mut dyn Write, side: Side, event: &BuildEvent) -> Result<()> {
    let seconds = if let BuildEvent::Finished { seconds } = event { Some(*seconds) } else { None };
    say(out, Line::Build { side, step: BuildStep::of(event), seconds })
}

/// Prints the beginning of trials.
pub fn trials_begin(out: &mut dyn Write, label: &str, all: Option<u64>, done: u64) -> Result<()> {
    say(out, Line::TrialsBegin { label, all, done })
}

/// Prints the end of trials.
pub fn trials_end(out: &mut dyn Write) -> Result<()> {
    say(out, Line::TrialsEnd)
}

/// Prints the conclusion of an analysis.
pub fn concluded(out: &mut dyn Write, conclusion: &dyn Conclusion) -> Result<()> {
    let expected = conclusion.case().map(|case| case.name);
    say(out, Line::Concluded { expected, lines: conclusion.screen() })
}

/// Prints why a command failed.
pub fn error(out: &mut dyn Write, error: &Error) -> Result<()> {
    let (message, help) = (error.in_one_line(), error.remedy());
    say(out, Line::Error { message, help, exit_status: error.exit_status() })
}

/// Prints an event of a trial.
pub fn happened(out: &mut dyn Write, happened: &Happened, judged: bool) -> Result<()> {
    match happened {
        Happened::Began(plan) => say(out, Line::TrialBegan { judged, trial: plan.folder(), side: plan.side }),
        Happened::Ended(record, again) => say(
            out,
            Line::TrialEnded {
                judged,
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
        bet: finding.bet,
        decided: finding.decided,
    });
    let reports = reports.collect();
    let RunResult { verdict, reason, .. } = result;
    let is_final = following.is_empty();
    say(out, Line::Verdict { r#final: is_final, verdict: *verdict, reason, reports, following })
}

/// Prints the final verdict and the complete result.
pub fn ended(out: &mut dyn Write, result: &RunResult) -> Result<()> {
    verdict(out, result, &[])?;
    say(out, Line::Result { result })
}

fn say(out: &mut dyn Write, line: Line<'_>) -> Result<()> {
    let text = serde_json::to_string(&Stamped { time: jiff::Timestamp::now(), line })
        .map_err(Error::infrastructure)?;
    // Flushed, so that a reader receives each line at once.
    out.write_all(format!("{text}\n").as_bytes())?;
    Ok(out.flush()?)
}

//! Listeners of a run: lines for people, and JSON lines for programs.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::build::BuildReporter;
use super::{Progress, coverage, latency, locks, overlap, stream, terminal};
use crate::Result;
use crate::events::{Event, Listener, Part};
use crate::kernel::Events as _;
use crate::record::Beside;

/// Shows a run on standard error: the steps of builds, a bar of trials, the first verdict, and what each analysis
/// concludes.
#[derive(Debug, Default)]
pub struct Terminal {
    builds: Mutex<Option<BuildReporter>>,
    trials: Mutex<Option<Progress>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Standard error may be closed: the run goes on without it.
fn line(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", text.trim_end());
}

/// What the control or an analysis came to, as the whole screen has it.
fn lines(part: Part, beside: &Beside) -> Vec<String> {
    match part {
        Part::Control => beside.control.iter().map(terminal::control).collect(),
        Part::LockOrder => beside.lock_order.iter().flat_map(locks::short).collect(),
        Part::Coverage => beside.coverage.iter().flat_map(coverage::short).collect(),
        Part::Overlap => beside.overlap.iter().flat_map(overlap::short).collect(),
        Part::Latency => beside.latency.iter().flat_map(latency::short).collect(),
    }
}

impl Listener for Terminal {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Note { label, text } => line(&format!("{label:<10}{text}")),
            Event::Build(which, step) => {
                lock(&self.builds).get_or_insert_with(BuildReporter::new).event(*which, step.clone());
            }
            Event::BuildEnded => drop(lock(&self.builds).take()),
            Event::TrialsBegin { all, done } => *lock(&self.trials) = Some(Progress::of_trials(*all, *done)),
            Event::Trial(happened) | Event::FurtherTrial(happened) => {
                if let Some(progress) = &*lock(&self.trials) {
                    progress.tell(happened);
                }
            }
            Event::TrialsEnd => {
                if let Some(progress) = lock(&self.trials).take() {
                    progress.finish();
                }
            }
            Event::Verdict { result, following } => {
                for text in terminal::first_verdict(result, following) {
                    line(&text);
                }
            }
            Event::Concluded { part, beside } => {
                for text in lines(*part, beside) {
                    line(&text);
                }
            }
            Event::Began(_) => {}
        }
    }
}

/// Prints the run, its judged trials and its verdicts on standard output, one JSON object a line, and the progress of
/// builds and trials on standard error.
#[derive(Debug, Default)]
pub struct JsonLines {
    progress: Terminal,
}

impl Listener for JsonLines {
    fn event(&self, event: &Event<'_>) {
        let mut out = std::io::stdout();
        let written: Result<()> = match event {
            Event::Began(run) => stream::began(&mut out, run),
            Event::Trial(happened) => stream::happened(&mut out, happened),
            Event::Verdict { result, following } => stream::verdict(&mut out, result, following),
            _ => Ok(()),
        };
        // The reader may have gone away: the trials go on.
        if let Err(error) = written {
            tracing::warn!(%error, "the JSON lines have no reader");
        }
        if !matches!(event, Event::Verdict { .. } | Event::Concluded { .. }) {
            self.progress.event(event);
        }
    }
}

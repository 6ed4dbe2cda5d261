//! Listeners of a run: text for a terminal, and JSON lines for programs.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hotplug_side::Side;

use super::build::BuildReporter;
use super::stream::BuildStep;
use super::{Progress, stream, terminal};
use crate::Result;
use crate::events::{Listener, RunEvent};
use crate::kernel::BuildListener as _;

/// Shows a run on standard error: the steps of builds, a bar of trials, the first verdict, and the
/// conclusion of each analysis.
#[derive(Debug, Default)]
pub struct Terminal {
    builds: Mutex<Option<BuildReporter>>,
    trials: Mutex<Option<Progress>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a line. Standard error may be closed; the run continues without it.
fn line(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", text.trim_end());
}

impl Listener for Terminal {
    fn event(&self, event: &RunEvent<'_>) {
        match event {
            RunEvent::Note { label, text } => line(&format!("{label:<10}{text}")),
            RunEvent::Build(which, step) => {
                lock(&self.builds).get_or_insert_with(BuildReporter::new).event(*which, step.clone());
            }
            RunEvent::BuildEnded => drop(lock(&self.builds).take()),
            RunEvent::TrialsBegin { label, all, done } => {
                *lock(&self.trials) = Some(Progress::of_trials(label, *all, *done));
            }
            RunEvent::Trial(happened) | RunEvent::FurtherTrial(happened) => {
                if let Some(progress) = &*lock(&self.trials) {
                    progress.tell(happened);
                }
            }
            RunEvent::TrialsEnd => {
                if let Some(progress) = lock(&self.trials).take() {
                    progress.finish();
                }
            }
            RunEvent::Verdict { result, following } => {
                for text in terminal::first_verdict(result, following) {
                    line(&text);
                }
            }
            RunEvent::Concluded(conclusion) => {
                for text in conclusion.screen() {
                    line(&text);
                }
            }
            RunEvent::Began(_) => {}
        }
    }
}

/// Prints every event on standard output, one JSON object a line. The progress of builds and trials
/// goes to standard error.
#[derive(Debug, Default)]
pub struct JsonLines {
    progress: Terminal,
    /// The step of a build that was printed last, because each compiled file is an event.
    step: Mutex<Option<(Side, BuildStep)>>,
}

impl Listener for JsonLines {
    fn event(&self, event: &RunEvent<'_>) {
        let mut out = std::io::stdout();
        let written: Result<()> = match event {
            RunEvent::Note { label, text } => stream::note(&mut out, label, text),
            RunEvent::Build(side, event) => {
                let step = Some((*side, BuildStep::of(event)));
                let last = std::mem::replace(&mut *lock(&self.step), step);
                if last == step { Ok(()) } else { stream::build(&mut out, *side, event) }
            }
            RunEvent::BuildEnded => {
                *lock(&self.step) = None;
                Ok(())
            }
            RunEvent::Began(run) => stream::began(&mut out, run),
            RunEvent::TrialsBegin { label, all, done } => stream::trials_begin(&mut out, label, *all, *done),
            RunEvent::Trial(happened) => stream::happened(&mut out, happened, true),
            RunEvent::FurtherTrial(happened) => stream::happened(&mut out, happened, false),
            RunEvent::TrialsEnd => stream::trials_end(&mut out),
            RunEvent::Verdict { result, following } => stream::verdict(&mut out, result, following),
            RunEvent::Concluded(conclusion) => stream::concluded(&mut out, *conclusion),
        };
        // The reader may be gone. The trials continue.
        if let Err(error) = written {
            tracing::warn!(%error, "the JSON lines have no reader");
        }
        if !matches!(event, RunEvent::Verdict { .. } | RunEvent::Concluded(_)) {
            self.progress.event(event);
        }
    }
}

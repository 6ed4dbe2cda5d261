//! Listeners of a run: text for a terminal, and JSON lines for programs.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::build::BuildReporter;
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
            RunEvent::TrialsBegin { all, done } => {
                *lock(&self.trials) = Some(Progress::of_trials(*all, *done));
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

/// Prints the run, its judged trials and its verdicts on standard output, one JSON object a line.
/// The progress of builds and trials goes to standard error.
#[derive(Debug, Default)]
pub struct JsonLines {
    progress: Terminal,
}

impl Listener for JsonLines {
    fn event(&self, event: &RunEvent<'_>) {
        let mut out = std::io::stdout();
        let written: Result<()> = match event {
            RunEvent::Began(run) => stream::began(&mut out, run),
            RunEvent::Trial(happened) => stream::happened(&mut out, happened),
            RunEvent::Verdict { result, following } => stream::verdict(&mut out, result, following),
            _ => Ok(()),
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

//! The events of a comparison, as they occur: one stream of typed events, for a screen, a program
//! or a test.

use hotplug_side::Side;

use crate::conclusion::Conclusion;
use crate::kernel::{self, BuildEvent};
use crate::record::{Run, RunResult};
use crate::trial::Happened;

/// An event of a comparison, or of another command that runs trials.
#[expect(missing_debug_implementations, reason = "a conclusion has no short debug output")]
pub enum RunEvent<'a> {
    /// A part of the work begins, or has a message.
    Note {
        /// The part of the work, such as `coverage`.
        label: &'a str,
        /// The message.
        text: &'a str,
    },
    /// A step in building a kernel.
    Build(Side, BuildEvent),
    /// The kernels of a pair are available, or their build failed.
    BuildEnded,
    /// The judged trials of the run are about to begin.
    Began(&'a Run),
    /// Trials are about to run.
    TrialsBegin {
        /// What they are for: `trials`, or the name of the control.
        label: &'a str,
        /// The number of trials of both sides; `None` if a time limit or a report ends them.
        all: Option<u64>,
        /// The number of these that an earlier process ran.
        done: u64,
    },
    /// A judged trial began or ended.
    Trial(&'a Happened),
    /// A trial of an analysis, of the control, or of an inner comparison began or ended.
    FurtherTrial(&'a Happened),
    /// The trials that began with `TrialsBegin` have ended.
    TrialsEnd,
    /// The verdict of the trials alone.
    Verdict {
        /// The result so far.
        result: &'a RunResult,
        /// The analyses that follow. Each may revoke `unchanged` and `fixed`.
        following: &'a [&'static str],
    },
    /// An analysis that takes time has concluded.
    Concluded(&'a dyn Conclusion),
}

/// Receives events. It is called on the thread that causes them, and should return at once.
pub trait Listener: Sync {
    /// Handles one event.
    fn event(&self, event: &RunEvent<'_>);
}

impl<F: Fn(&RunEvent<'_>) + Sync> Listener for F {
    fn event(&self, event: &RunEvent<'_>) {
        self(event);
    }
}

/// Ignores every event.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Listener for Quiet {
    fn event(&self, _: &RunEvent<'_>) {}
}

/// The listener of a comparison inside a run. It passes on progress, but no verdict, to the
/// listener of that run.
pub(crate) struct Inner<'a>(pub(crate) &'a dyn Listener);

impl Listener for Inner<'_> {
    fn event(&self, event: &RunEvent<'_>) {
        match event {
            RunEvent::Began(_) | RunEvent::Verdict { .. } | RunEvent::Concluded(_) => {}
            RunEvent::Trial(happened) => self.0.event(&RunEvent::FurtherTrial(happened)),
            event => self.0.event(event),
        }
    }
}

/// Passes on all events, with another label for trials.
pub(crate) struct Labelled<'a> {
    pub(crate) label: &'a str,
    pub(crate) events: &'a dyn Listener,
}

impl Listener for Labelled<'_> {
    fn event(&self, event: &RunEvent<'_>) {
        match event {
            RunEvent::TrialsBegin { all, done, .. } => {
                self.events.event(&RunEvent::TrialsBegin { label: self.label, all: *all, done: *done });
            }
            event => self.events.event(event),
        }
    }
}

/// Passes on the steps of a build, and reports its end when it is dropped.
pub(crate) struct Builds<'a>(pub(crate) &'a dyn Listener);

impl kernel::BuildListener for Builds<'_> {
    fn event(&self, which: Side, event: BuildEvent) {
        self.0.event(&RunEvent::Build(which, event));
    }
}

impl Drop for Builds<'_> {
    fn drop(&mut self) {
        self.0.event(&RunEvent::BuildEnded);
    }
}

//! What happens in a comparison, as it happens: one stream of typed events, for a screen, a program or a test.

use hotplug_side::Side;

use crate::kernel::{self, BuildEvent};
use crate::record::{Beside, Run, RunResult};
use crate::trial::Happened;

/// Something that happens in a comparison, or in another command that runs trials.
#[derive(Debug)]
pub enum Event<'a> {
    /// A part of the work begins, or has something to say: its label, such as `coverage`, and the words.
    Note {
        /// The part of the work.
        label: &'a str,
        /// What it does.
        text: &'a str,
    },
    /// A step in building a kernel.
    Build(Side, BuildEvent),
    /// The kernels of a pair are there, or their build failed.
    BuildEnded,
    /// The judged trials of the run are about to begin.
    Began(&'a Run),
    /// Trials are about to run.
    TrialsBegin {
        /// How many, of both sides; none where time or a report ends them.
        all: Option<u64>,
        /// Those of them that an earlier process ran.
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
        /// The analyses that follow. Each may take `unchanged` and `fixed` away.
        following: &'a [&'static str],
    },
    /// The control or an analysis that takes time has ended.
    Concluded {
        /// Which.
        part: Part,
        /// What is known beside the trials so far.
        beside: &'a Beside,
    },
}

/// The control, or an analysis, of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Bugs planted into the before kernel, and whether they are found.
    Control,
    /// What differs in the lock order.
    LockOrder,
    /// Which of the changed lines ran.
    Coverage,
    /// Which critical sections overlapped.
    Overlap,
    /// What takes longer or shorter.
    Latency,
}

impl Part {
    /// Its name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::LockOrder => "lock order",
            Self::Coverage => "coverage",
            Self::Overlap => "overlap",
            Self::Latency => "latency",
        }
    }
}

/// Receives events. It is called from the thread where they happen and should return at once.
pub trait Listener: Sync {
    /// One event.
    fn event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Sync> Listener for F {
    fn event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Ignores every event.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Listener for Quiet {
    fn event(&self, _: &Event<'_>) {}
}

/// What the listener of a run receives of a comparison inside it: progress, and no verdict.
pub(crate) struct Inner<'a>(pub(crate) &'a dyn Listener);

impl Listener for Inner<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Began(_) | Event::Verdict { .. } | Event::Concluded { .. } => {}
            Event::Trial(happened) => self.0.event(&Event::FurtherTrial(happened)),
            event => self.0.event(event),
        }
    }
}

/// Passes the steps of a build on, and its end when it is dropped.
pub(crate) struct Builds<'a>(pub(crate) &'a dyn Listener);

impl kernel::Events for Builds<'_> {
    fn event(&self, which: Side, event: BuildEvent) {
        self.0.event(&Event::Build(which, event));
    }
}

impl Drop for Builds<'_> {
    fn drop(&mut self) {
        self.0.event(&Event::BuildEnded);
    }
}

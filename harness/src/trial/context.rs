//! The properties that the trials of a run share, where they start, what they collect, and the
//! properties of each trial.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotplug_lockorder::Layout;
use hotplug_side::{Side, Sides};

use super::checkpoint::Checkpoint;
use super::hand_over::HandOver;
use super::never_ended::NeverEnded;
use super::repro_script::OnDisk;
use super::timing::Watched;
use super::vmcore::VmcoreQuota;
use crate::arch::Platform;
use crate::host::{Accelerator, Qemu};
use crate::reach::CallbackLayout;
use crate::rendezvous::Places;
use crate::scenario::{Clock, Scenario, Schedule, Seed};
use crate::unavailable::Unavailable;
use crate::vmm::{Identity, LaunchMode, LaunchOptions, Sealed, command_line};

/// The part of a folder's name that marks a trial of the history of a replay.
const HISTORY: &str = "after";

/// The properties that all trials of a run share. They do not change while the trials run.
#[derive(Debug, Clone)]
pub struct TrialContext {
    /// The scenario.
    pub scenario: Scenario,
    /// QEMU.
    pub qemu: Qemu,
    /// The accelerator, which runs guest code.
    pub accelerator: Accelerator,
    /// The name of the host's processor.
    pub host_cpu: String,
    /// Whether QEMU was built with its seccomp sandbox.
    pub sandbox: bool,
    /// The machine's identity, which the guest reads from SMBIOS.
    pub platform: Platform,
    /// The calibration that the guest's kernel skips: see [`LaunchOptions`].
    pub loops_per_jiffy: Option<u64>,
    /// The clock that guest time follows.
    pub clock: Clock,
    /// The user that QEMU runs as.
    pub identity: Identity,
    /// The initramfs of each kernel: the agent, and the modules of a packaged kernel.
    pub initrd: Sides<Sealed>,
    /// The images of the two kernels.
    pub kernels: Sides<Sealed>,
    /// The vmlinux of each kernel, if it is known.
    pub vmlinux: Sides<Option<PathBuf>>,
    /// The files of the kernels and the initramfs, for a script that repeats a trial without the
    /// harness.
    pub on_disk: OnDisk,
    /// The layout of each kernel's lock order, or why it is not known.
    pub lock_layouts: Sides<Result<Arc<Layout>, Unavailable>>,
    /// The addresses of each kernel's probe points, if the scenario holds tasks or vCPUs.
    pub places: Option<Sides<Arc<Places>>>,
    /// The operations that did not end so far.
    pub never_ended: Arc<NeverEnded>,
}

impl TrialContext {
    /// The same context with guests that follow `clock`. `hz` is their kernels' `CONFIG_HZ`.
    #[must_use]
    pub fn with_clock(self, clock: Clock, hz: Option<u64>) -> Self {
        let loops_per_jiffy = match clock {
            // With this clock, the time stamp counter counts nanoseconds (QEMU's
            // system/cpu-timers.c, `cpus_get_elapsed_ticks`).
            Clock::Exact => hz.filter(|hz| *hz > 0).map(|hz| 1_000_000_000 / hz),
            Clock::Wall => self.loops_per_jiffy,
        };
        Self { loops_per_jiffy, clock, ..self }
    }

    /// The same context with another scenario.
    #[must_use]
    pub fn with_scenario(&self, scenario: Scenario) -> Self {
        Self { scenario, ..self.clone() }
    }

    /// Whether a guest with this launch mode has its tasks or vCPUs held. Checkpoints are made on
    /// the same machine with and without holds.
    pub(super) fn has_gdb(&self, start: LaunchMode) -> bool {
        self.places.is_some() && start != LaunchMode::Template
    }

    /// QEMU's arguments for a guest of this scenario with this launch mode.
    pub fn command_line(&self, start: LaunchMode) -> Vec<String> {
        command_line(&self.scenario, self.launch_options(start))
    }

    /// QEMU's options for a guest with this launch mode.
    pub(super) fn launch_options(&self, start: LaunchMode) -> LaunchOptions {
        let Self { accelerator, sandbox, platform, loops_per_jiffy, clock, .. } = *self;
        LaunchOptions {
            accelerator,
            sandbox,
            platform,
            loops_per_jiffy,
            clock,
            start,
            gdb: self.has_gdb(start),
        }
    }
}

/// Where trials start.
#[derive(Debug, Clone)]
pub enum TrialStart {
    /// Each guest boots.
    Cold {
        /// The reason.
        why: String,
    },
    /// Each guest is restored from the checkpoint of its side.
    Restored(Box<Sides<Checkpoint>>),
}

impl TrialStart {
    /// The checkpoint of this side, if trials start from checkpoints.
    pub(super) fn checkpoint(&self, side: Side) -> Option<&Checkpoint> {
        match self {
            Self::Cold { .. } => None,
            Self::Restored(checkpoints) => Some(checkpoints.of(side)),
        }
    }
}

/// The data that trials collect for an analysis, in addition to the reports and the lock order that
/// every trial collects.
#[derive(Debug, Clone, Default)]
pub struct Instruments {
    /// The source files whose executed lines each kernel counts.
    pub counted: Option<Sides<Vec<String>>>,
    /// The functions or locks to time, and the victims.
    pub watched: Option<Watched>,
    /// Where each kernel keeps its callbacks of hotplug, to record which there are and which run.
    pub callbacks: Option<Sides<Arc<CallbackLayout>>>,
    /// The vmcores of guests that panicked or hung, if they are kept.
    pub vmcores: Option<Arc<VmcoreQuota>>,
    /// The user who gets the guest at the end of its trial.
    pub hand_over: Option<Arc<HandOver>>,
}

impl Instruments {
    /// Whether the memory of a guest is used after its kernel has ended.
    pub(super) fn need_the_guest(&self) -> bool {
        self.vmcores.is_some() || self.hand_over.is_some()
    }
}

/// The setup of a batch of trials.
#[derive(Debug, Clone, Copy)]
pub struct TrialSetup<'a> {
    /// The properties that they share.
    pub context: &'a TrialContext,
    /// Where they start.
    pub start: &'a TrialStart,
    /// The data that they collect in addition to the reports.
    pub instruments: &'a Instruments,
    /// The most trials that one guest takes, one after the other; at least 1.
    pub rounds: u32,
}

/// One trial to be run.
#[derive(Debug, Clone)]
pub struct TrialPlan {
    /// The kernel.
    pub side: Side,
    /// Its scenario.
    pub scenario: ScenarioOfTrial,
    /// The number within the side and the scenario.
    pub number: u32,
    /// The seed of its schedule.
    pub seed: Seed,
    /// The recorded trial that it replays, if it replays one.
    pub replay: Option<Original>,
    /// The recorded trials that its guest takes before, in this order.
    pub history: Vec<PastTrial>,
    /// The number of earlier attempts, all of which were spoilt.
    pub attempt: u32,
}

/// The scenario of a trial, among those of its run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScenarioOfTrial {
    /// The place of its setup among those of the run.
    pub place: usize,
    /// Its name, with which the trial's folder begins. None if the run has one scenario.
    pub prefix: Option<Arc<str>>,
}

impl ScenarioOfTrial {
    /// That of the scenario `name`, which is one of several or the only one.
    pub fn new(place: usize, name: &str, several: bool) -> Self {
        Self { place, prefix: several.then(|| name.into()) }
    }

    /// The folder of the scenario's own files below `folder`: `folder` itself if the run has one
    /// scenario.
    pub fn below(&self, folder: PathBuf) -> PathBuf {
        match &self.prefix {
            None => folder,
            Some(name) => folder.join(&**name),
        }
    }

    /// The name of the folder of a trial `name`.
    pub(super) fn folder(&self, name: &str) -> String {
        self.prefix.as_ref().map_or_else(|| name.to_owned(), |prefix| format!("{prefix}-{name}"))
    }
}

/// A recorded trial that the guest of a replay takes before.
#[derive(Debug, Clone)]
pub struct PastTrial {
    /// Its place and its schedule.
    pub original: Original,
    /// Its seed.
    pub seed: Seed,
}

/// A recorded trial that is replayed.
#[derive(Debug, Clone)]
pub struct Original {
    /// The name of its folder.
    pub folder: String,
    /// Its schedule, as it was recorded. A newer harness may draw another one from the same seed.
    pub schedule: Schedule,
}

impl TrialPlan {
    /// What its guest must have: the place of its scenario, and its side.
    pub(super) fn seat(&self) -> (usize, Side) {
        (self.scenario.place, self.side)
    }

    /// The trials that one guest takes, in their order: those of the history, and last this one. Each
    /// has its folder below `folder`. Returns the first one apart.
    pub(super) fn steps(&self, folder: &Path) -> ((Self, PathBuf), VecDeque<(Self, PathBuf)>) {
        let own = folder.join(self.folder());
        let past = |past: &PastTrial| {
            let dir = folder.join(format!("{}-{}-{}", self.folder(), HISTORY, past.original.folder));
            let (replay, history) = (Some(past.original.clone()), Vec::new());
            (Self { seed: past.seed, replay, history, ..self.clone() }, dir)
        };
        let last = (Self { history: Vec::new(), ..self.clone() }, own);
        let mut steps: VecDeque<_> = self.history.iter().map(past).collect();
        let Some(first) = steps.pop_front() else { return (last, steps) };
        steps.push_back(last);
        (first, steps)
    }

    /// The name of its folder, such as `before-003`, or `before-003-again1` for a second attempt.
    /// In a run of several scenarios it begins with the scenario's name.
    pub fn folder(&self) -> String {
        let name = match &self.replay {
            None => self.scenario.folder(&format!("{}-{:03}", self.side, self.number)),
            Some(original) => format!("{}-replay-{:03}", original.folder, self.number),
        };
        match self.attempt {
            0 => name,
            attempt => format!("{name}-again{attempt}"),
        }
    }
}

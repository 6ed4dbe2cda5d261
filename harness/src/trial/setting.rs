//! What all trials of a run share, and what each has of its own.

use std::sync::Arc;

use hotplug_lockorder::Layout;
use hotplug_side::{Side, Sides};

use super::checkpoint::Checkpoint;
use super::repeat::OnDisk;
use super::timing::Watched;
use crate::host::{Accelerator, Qemu};
use crate::qemu::{self, Boot, Identity, Platform, Sealed, command_line};
use crate::rendezvous::Places;
use crate::scenario::{Clock, Scenario, Schedule, Seed};

/// What all trials of a run share.
#[derive(Debug)]
pub struct Setting {
    /// The scenario.
    pub scenario: Scenario,
    /// QEMU.
    pub qemu: Qemu,
    /// How guest code is run.
    pub accelerator: Accelerator,
    /// The host's processor, by name.
    pub host_cpu: String,
    /// Whether QEMU has its seccomp sandbox.
    pub sandbox: bool,
    /// Who the machine says it is.
    pub platform: Platform,
    /// What the guest's kernel need not measure: see [`Boot`].
    pub loops_per_jiffy: Option<u64>,
    /// What guest time is.
    pub clock: Clock,
    /// As whom QEMU runs.
    pub identity: Identity,
    /// The agent's initramfs.
    pub initrd: Sealed,
    /// The two kernels' images.
    pub kernels: Sides<Sealed>,
    /// Where kernels and initramfs are, for who repeats a trial without the harness.
    pub on_disk: OnDisk,
    /// What trials are restored from; none where each boots.
    pub checkpoints: Option<Sides<Checkpoint>>,
    /// Where each kernel keeps its lock order, or why that is not known.
    pub lock_layouts: Sides<Result<Arc<Layout>, String>>,
    /// The files whose lines each kernel counts, where that is what the trials are for.
    pub counted: Option<Sides<Vec<String>>>,
    /// What is timed, where that is what the trials are for.
    pub watched: Option<Watched>,
    /// Where each kernel has the places that vCPUs are held at, where the scenario names any.
    pub places: Option<Sides<Arc<Places>>>,
}

impl Setting {
    /// Has guests go by this clock. `hz` is their kernels' `CONFIG_HZ`.
    pub fn go_by(&mut self, clock: Clock, hz: Option<u64>) {
        self.clock = clock;
        if clock == Clock::Exact {
            // The time stamp counter then counts nanoseconds (QEMU's system/cpu-timers.c, `cpus_get_elapsed_ticks`).
            self.loops_per_jiffy = hz.filter(|hz| *hz > 0).map(|hz| 1_000_000_000 / hz);
        }
    }

    /// Whether a guest that begins there has its vCPUs held. What checkpoints are made on is the same machine with and
    /// without.
    pub(super) fn has_gdb(&self, start: qemu::Start) -> bool {
        self.places.is_some() && start != qemu::Start::Template
    }

    /// QEMU's arguments for a guest of this scenario that begins there.
    pub fn command_line(&self, start: qemu::Start) -> Vec<String> {
        self.command_line_of(&self.scenario, start)
    }

    /// The same for another scenario.
    pub fn command_line_of(&self, scenario: &Scenario, start: qemu::Start) -> Vec<String> {
        command_line(scenario, self.boot(start))
    }

    /// How a guest is run that begins there.
    pub(super) fn boot(&self, start: qemu::Start) -> Boot {
        let Self { accelerator, sandbox, platform, loops_per_jiffy, clock, .. } = *self;
        Boot { accelerator, sandbox, platform, loops_per_jiffy, clock, start, gdb: self.has_gdb(start) }
    }
}

/// One trial to be run.
#[derive(Debug, Clone)]
pub struct TrialPlan {
    /// Which kernel.
    pub side: Side,
    /// Number within the side.
    pub number: u32,
    /// What its schedule is drawn from.
    pub seed: Seed,
    /// The recorded trial that it replays, if it replays one.
    pub replay: Option<Original>,
    /// How often it was tried already, and spoilt each time.
    pub attempt: u32,
}

/// A recorded trial that is replayed.
#[derive(Debug, Clone)]
pub struct Original {
    /// The name of its folder.
    pub folder: String,
    /// Its schedule, as it was recorded: a newer harness may draw another from the same seed.
    pub schedule: Schedule,
}

impl TrialPlan {
    /// The name of its folder, such as `before-003`, or `before-003-again1` where it is tried again.
    pub fn folder(&self) -> String {
        let name = match &self.replay {
            None => format!("{}-{:03}", self.side, self.number),
            Some(original) => format!("{}-replay-{:03}", original.folder, self.number),
        };
        match self.attempt {
            0 => name,
            attempt => format!("{name}-again{attempt}"),
        }
    }
}

//! Scenarios: a TOML file becomes a checked model, and each seed turns the model into the schedule
//! of one trial.
//!
//! `docs/scenarios.md` is the reference, key by key.

mod built_in;
mod check;
mod clock;
mod concurrency;
mod file;
mod flatten;
mod join;
mod load;
mod machine;
mod operation;
mod probe_point;
mod program;
mod random;
mod rendezvous;
mod rounds;
mod schedule;
mod timing;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotplug_protocol::Load;
use serde::{Deserialize, Serialize};

pub use built_in::{BUILT_IN, DEFAULT, RACE, built_in, built_in_for, default_for, portfolio};
pub use clock::Clock;
pub use concurrency::{CriticalSection, OverlapSpec};
pub use flatten::flatten;
pub(crate) use flatten::tidy;
pub use machine::{Machine, MachineKind, NumaNode, Topology};
pub use operation::{Expect, FailAt, Offset, Operation, Part, Phase, Place, Policy, Trigger};
pub use probe_point::Point;
pub use program::{Program, ProgramFiles};
pub use random::{Move, Random};
pub use rendezvous::{Delay, Delays, First, Holding, Holds, Rendezvous, RendezvousOptions, Sweep};
pub use schedule::{Batch, LaneSchedule, Schedule, Seed};
pub use timing::{ClockSource, Mark, Metric, Span, Timing, Victim};

use crate::bytes::Bytes;
use crate::device::{Device, DeviceId};
use crate::{Error, Result};

/// The file name and the text of a scenario that many tests change.
#[cfg(test)]
pub(crate) const SAMPLE: (&str, &str) =
    ("dimm-and-cpu.toml", include_str!("../../../scenarios/dimm-and-cpu.toml"));

/// Every scenario file of the repository, including those for known bugs and of the tests.
#[cfg(test)]
pub(crate) fn shipped() -> Vec<std::path::PathBuf> {
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all: Vec<_> = [harness.join("../scenarios"), harness.join("cli/tests/scenarios")]
        .into_iter()
        .flat_map(walkdir::WalkDir::new)
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    assert!(all.len() >= 20, "{all:?}");
    all
}

/// A checked scenario: every device that a lane names exists, and every move is legal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scenario {
    /// Short name, as in file names and reports.
    pub name: String,
    /// What the scenario tests, in one sentence.
    pub about: String,
    /// Trials a side, unless the command line gives another number.
    pub trials: u32,
    /// When the lanes of a trial begin.
    pub start: Start,
    /// Seconds after which an operation that has neither ended nor been refused counts as hung.
    pub time_limit_s: u32,
    /// The machine before anything is plugged.
    pub machine: Machine,
    /// What the guest does while the lanes run.
    pub guest: Guest,
    /// Programs of the user, by name.
    pub programs: BTreeMap<String, Program>,
    /// Their files and the guest's root, as the guest unpacks them. `None` if there are none, or if
    /// they have not been read yet.
    #[serde(skip)]
    pub files: Option<Arc<ProgramFiles>>,
    /// Devices by name, such as `dimm0` and `cpu3`.
    pub devices: BTreeMap<DeviceId, Device>,
    /// Lanes, which run at the same time.
    pub lanes: Vec<Lane>,
    /// Further lanes, which are drawn anew for each trial.
    pub random: Option<Random>,
    /// The metrics to time, in separate boots.
    pub latency: Option<Timing>,
    /// The sections whose overlap is measured, in separate trials.
    pub overlap: Option<OverlapSpec>,
    /// The places where tasks and vCPUs are held to provoke races.
    pub holds: Holds,
}

/// When the lanes of a trial begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// When the agent in the guest answers. The guest is restored from a checkpoint, or booted.
    #[default]
    Ready,
    /// When QEMU starts: the lanes run while the guest boots. Every trial then boots.
    Boot,
}

/// What the guest does while devices are plugged and unplugged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// How new memory blocks come online: the kernel's `memhp_default_state`.
    #[serde(default)]
    pub memory_online: MemoryOnline,
    /// How much the host types at the serial console ten times a second, from before the first
    /// operation until after the last.
    #[serde(default, deserialize_with = "load::typing")]
    pub typing: Option<Bytes>,
    /// Loads that run from before the first operation until after the last.
    #[serde(default, deserialize_with = "load::list")]
    pub load: Vec<Load>,
    /// A folder of the host, or a tar archive, that is the root of the programs. A relative path
    /// begins at the folder of the scenario's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
}

impl Guest {
    /// Whether the guest does anything besides the operations.
    fn is_busy(&self) -> bool {
        self.typing.is_some() || !self.load.is_empty()
    }
}

/// How new memory blocks come online.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryOnline {
    /// In `ZONE_MOVABLE`, so that they can be removed again.
    #[default]
    Movable,
    /// In a kernel zone. The kernel may then rightly refuse an unplug.
    Kernel,
    /// They do not come online by themselves.
    Offline,
}

impl MemoryOnline {
    /// The zone in which new blocks come online by themselves. None: they stay offline.
    pub fn policy(self) -> Option<Policy> {
        match self {
            Self::Movable => Some(Policy::Movable),
            Self::Kernel => Some(Policy::Kernel),
            Self::Offline => None,
        }
    }

    /// The value of `memhp_default_state=` (Documentation/admin-guide/mm/memory-hotplug.rst).
    pub fn kernel_word(self) -> &'static str {
        match self {
            Self::Movable => "online_movable",
            Self::Kernel => "online_kernel",
            Self::Offline => "offline",
        }
    }
}

/// A sequence of steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lane {
    /// The lane's name in events and reports.
    pub name: String,
    /// How often the steps run, at least once.
    pub repeat: u32,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One step of a lane: operations of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The operations, in the order in which the step names the devices. The devices of a group
    /// follow in the order of their numbers. Empty if the step only waits.
    pub operations: Vec<Operation>,
    /// A barrier, which all lanes that name it pass together.
    pub barrier: Option<String>,
    /// The phase of another lane's operation that the step waits for.
    pub after: Option<Trigger>,
    /// Requests that may be in flight at once.
    pub in_flight: usize,
    /// The order in which the requests are sent.
    pub order: Order,
    /// The longest wait before the step, in milliseconds. The seed of each trial draws its wait,
    /// from 0 to this.
    pub pause_up_to_ms: u32,
    /// The expected outcome of each operation.
    pub expect: Expect,
}

/// The order in which the requests of a step are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The order of the step's list of operations.
    #[default]
    Given,
    /// An order drawn from the trial's seed.
    Shuffled,
}

impl Scenario {
    /// The number of trials that make all of its failures on purpose; 1 for a scenario without.
    pub fn parts(&self) -> u32 {
        let parts = self.operations().filter_map(|operation| match operation {
            Operation::Fail(_, _, part) => Some(part.of),
            _ => None,
        });
        parts.max().unwrap_or(1)
    }

    /// The options of the kernel without which its loads and operations cannot run, by name without
    /// `CONFIG_`.
    pub fn kernel_options(&self) -> BTreeSet<&'static str> {
        let loads = self.guest.load.iter().flat_map(|load| load::options(load.kind));
        let operations = self.operations().flat_map(Operation::kernel_options);
        loads.chain(operations).copied().collect()
    }

    /// Whether the guest suspends.
    pub fn suspends(&self) -> bool {
        self.operations().any(Operation::suspends)
    }

    /// Reads and checks a scenario file, or the scenario of this name that the binary carries. Also
    /// returns its text. The scenario's name is that of the file, without `.toml`.
    pub fn read(path: &Path) -> Result<(Self, String)> {
        let text = match built_in(path).filter(|_| !path.exists()) {
            Some(text) => text.to_owned(),
            None => fs_err::read_to_string(path).map_err(|error| {
                let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                Error::user(format!("cannot read the scenario: {error}"))
                    .help(format!("name a file, or one of: {}", names.join(", ")))
            })?,
        };
        let scenario = Self::parse(&path.display().to_string(), &text)?;
        Ok((scenario.with_paths_from(path.parent().unwrap_or(Path::new(""))), text))
    }

    /// The same scenario, with the paths of programs on the host absolute. Relative ones begin at
    /// `base`.
    #[must_use]
    pub fn with_paths_from(mut self, base: &Path) -> Self {
        let files = self.programs.values_mut().filter_map(|program| program.files.as_mut());
        files.chain(self.guest.rootfs.as_mut()).for_each(|path| program::resolve(path, base));
        self
    }

    /// Whether files of the host go into the guest.
    pub fn has_program_files(&self) -> bool {
        self.guest.rootfs.is_some() || self.programs.values().any(|program| program.files.is_some())
    }

    /// The program of this name, as the agent runs it.
    pub fn program(&self, name: &str) -> Option<hotplug_protocol::ProgramRun> {
        Some(self.programs.get(name)?.for_guest(self.guest.rootfs.is_some()))
    }

    /// Parses and checks the text of a scenario. `file` names the scenario in messages.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let table: file::File = toml::from_str(text).map_err(|error| {
            Error::user(format!("{file} is not a scenario"))
                .detail(error)
                .help("docs/scenarios.md lists every key")
        })?;
        let name =
            Path::new(file).file_stem().map_or_else(|| file.into(), |s| s.to_string_lossy().into_owned());
        check::check(name, table).map_err(|wrong| wrong.at(file, text))
    }

    /// The same scenario without holds, for kernels that count lines or trace functions, and for
    /// latency.
    #[must_use]
    pub fn unheld(self) -> Self {
        Self { holds: Holds::default(), ..self }
    }

    /// The number of vCPUs that a trial starts: those at boot, and one for each plug of a CPU.
    /// Under TCG, QEMU starts at most `maxcpus` vCPU threads in its life, including those of
    /// removed CPUs, and aborts at the next (tcg/tcg.c: `tcg_register_thread`).
    pub fn cpus_ever_started(&self) -> u32 {
        let plugs = |lane: &Lane| {
            // QEMU starts no thread for a plug that is refused on purpose: that CPU is plugged
            // already.
            let made = |step: &&Step| step.expect != Expect::Refused;
            let of = |step: &Step| step.operations.iter().filter(|o| self.plugs_cpu(o)).count();
            u32::try_from(lane.steps.iter().filter(made).map(of).sum::<usize>())
                .unwrap_or(u32::MAX)
                .saturating_mul(lane.repeat)
        };
        // Random lanes use only the plugs that remain (`random::Model::cpu_plugs`).
        self.lanes.iter().map(plugs).fold(self.machine.cpus, u32::saturating_add)
    }

    /// The most CPUs that a trial plugs.
    pub fn cpu_plugs(&self) -> u32 {
        let most = if self.random.is_some() { self.machine.max_cpus } else { self.cpus_ever_started() };
        most.saturating_sub(self.machine.cpus)
    }

    fn plugs_cpu(&self, operation: &Operation) -> bool {
        matches!(operation, Operation::Plug(id) if self.is_cpu(id))
    }

    /// Whether a device is a CPU.
    pub fn is_cpu(&self, id: &DeviceId) -> bool {
        self.devices.get(id).is_some_and(|device| device.cpu_slot().is_some())
    }

    /// The offset of each file-backed DIMM in the file that they share, and the size of this file.
    pub fn dimm_file(&self) -> (BTreeMap<&DeviceId, Bytes>, Bytes) {
        let mut end = Bytes(0);
        let mut places = BTreeMap::new();
        for (id, device) in &self.devices {
            let Bytes(size) = device.file_bytes();
            if size > 0 {
                places.insert(id, end);
                end = Bytes(end.0 + size);
            }
        }
        (places, end)
    }

    /// The number of 2 MiB huge pages that a guest takes from the host when all devices are
    /// plugged.
    pub fn huge_pages(&self) -> u64 {
        self.devices.values().map(|device| device.huge_pages()).sum()
    }

    /// The memory of a guest when all devices are plugged.
    pub fn largest(&self) -> Bytes {
        let sizes = self.devices.values().map(|device| device.memory().0);
        Bytes(sizes.fold(self.machine.memory.0, u64::saturating_add))
    }

    /// Whether the scenario ever removes a CPU, which QEMU before 9 cannot do under TCG.
    pub fn removes_cpus(&self) -> bool {
        self.operations().any(|o| matches!(o, Operation::Unplug(id) if self.is_cpu(id)))
    }

    /// Whether the scenario plugs or unplugs memory.
    pub fn changes_memory(&self) -> bool {
        let moved = self.operations().filter_map(|operation| match operation {
            Operation::Plug(id) | Operation::Unplug(id) => Some(id),
            _ => None,
        });
        moved.filter_map(|id| self.devices.get(id)).any(|device| device.memory().0 > 0)
    }

    /// The operations of all lanes, and those that random lanes may draw.
    pub(crate) fn operations(&self) -> impl Iterator<Item = &Operation> {
        let moves = self.random.iter().flat_map(|random| &random.of).map(|one| &one.step);
        let steps = self.lanes.iter().flat_map(|lane| &lane.steps).chain(moves);
        steps.flat_map(|step| &step.operations)
    }
}

//! Scenario: a TOML file -> a checked model -> for each seed, the schedule of one trial.
//!
//! `docs/scenarios.md` is the reference, key by key.

mod check;
mod clock;
mod device;
mod file;
mod load;
mod machine;
mod operation;
mod point;
mod racing;
mod random;
mod rendezvous;
mod schedule;
mod timing;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use hotplug_protocol::Load;
use serde::{Deserialize, Serialize};

pub use clock::Clock;
pub use device::{Backend, Device, DeviceId, Dimm, VirtioMem};
pub use machine::{Machine, MachineKind, Node, Topology};
pub use operation::{Expect, Offset, Operation, Phase, Place, Policy, Trigger};
pub use point::Point;
pub use racing::{Critical, Racing};
pub use random::{Move, Random};
pub use rendezvous::{Delay, Delays, First, Holding, Holds, Manner, Rendezvous, Sweep};
pub use schedule::{Batch, LaneSchedule, Schedule, Seed};
pub use timing::{Mark, Metric, Part, Teller, Timing, Victim};

use crate::bytes::Bytes;
use crate::{Error, Result};

/// The scenario of a sweep unless another is named, and its file's name.
pub const RACE: (&str, &str) = ("race.toml", include_str!("../../../scenarios/race.toml"));

/// The scenario that `hotplug compare` runs when none is named, carried in the binary.
pub const DEFAULT: (&str, &str) = ("dimm-and-cpu.toml", include_str!("../../../scenarios/dimm-and-cpu.toml"));

/// Every scenario file of the repository, those for known bugs and of the tests included.
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

/// Machine, guest, devices and lanes, checked: every device a lane names exists and every move is legal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scenario {
    /// Short name, as in file names and reports.
    pub name: String,
    /// One sentence: what it is aimed at.
    pub about: String,
    /// Trials a side, unless the command line says otherwise.
    pub trials: u32,
    /// Where a trial begins.
    pub start: Start,
    /// An operation that neither ends nor is refused for this long has hung, seconds.
    pub time_limit_s: u32,
    /// The machine before anything is plugged.
    pub machine: Machine,
    /// What the guest does meanwhile.
    pub guest: Guest,
    /// Devices by name, `dimm0`, `cpu3`, ...
    pub devices: BTreeMap<DeviceId, Device>,
    /// Lanes, which run at the same time.
    pub lanes: Vec<Lane>,
    /// More lanes, made up for each trial.
    pub random: Option<Random>,
    /// What of the kernel is timed, in boots of their own.
    pub latency: Option<Timing>,
    /// What is to be seen running at the same time, in trials of their own.
    pub overlap: Option<Racing>,
    /// Where vCPUs are held, so that a race is met on purpose.
    pub holds: Holds,
}

/// Where a trial begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// When the guest is there to be asked: restored from a checkpoint, or booted.
    #[default]
    Ready,
    /// With QEMU: the lanes run while the guest boots. Every trial then boots.
    Boot,
}

/// What the guest does while devices come and go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// How new memory blocks come online: the kernel's `memhp_default_state`.
    #[serde(default)]
    pub memory_online: MemoryOnline,
    /// What the host types at the serial console ten times a second, from before the first operation until after the
    /// last.
    #[serde(default, deserialize_with = "load::typing")]
    pub typing: Option<Bytes>,
    /// Loads that run from before the first operation until after the last.
    #[serde(default, deserialize_with = "load::list")]
    pub load: Vec<Load>,
}

impl Guest {
    /// Whether it does anything beside the operations.
    fn is_busy(&self) -> bool {
        self.typing.is_some() || !self.load.is_empty()
    }
}

/// How new memory blocks come online.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryOnline {
    /// In `ZONE_MOVABLE`, so that they can go again.
    #[default]
    Movable,
    /// In a kernel zone: an unplug may then be refused, rightly.
    Kernel,
    /// Not by themselves.
    Offline,
}

impl MemoryOnline {
    /// Where new blocks come online by themselves; none where they do not.
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
    /// Its name in events and reports.
    pub name: String,
    /// How often its steps run, at least once.
    pub repeat: u32,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// One step of a lane: operations of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is done, in the order of the devices' numbers. Empty where the step only waits.
    pub operations: Vec<Operation>,
    /// A barrier that all lanes which name it pass together.
    pub barrier: Option<String>,
    /// A phase of another lane's operation that it waits for.
    pub after: Option<Trigger>,
    /// Requests that may be in flight at once.
    pub in_flight: usize,
    /// In which order they are asked for.
    pub order: Order,
    /// Longest wait before the step, in milliseconds; each trial's seed draws from 0 to this.
    pub pause_up_to_ms: u32,
    /// What should come of each.
    pub expect: Expect,
}

/// In which order the requests of a step go out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// By number.
    #[default]
    Given,
    /// Drawn from the trial's seed.
    Shuffled,
}

impl Scenario {
    /// Reads and checks a scenario file, and gives its text too. Its name is the file's, without `.toml`.
    pub fn read(path: &Path) -> Result<(Self, String)> {
        let text = fs_err::read_to_string(path).map_err(|error| {
            Error::user(format!("cannot read the scenario: {error}"))
                .help("name a file such as scenarios/dimm-and-cpu.toml")
        })?;
        Ok((Self::parse(&path.display().to_string(), &text)?, text))
    }

    /// Checks the text of a scenario; `file` names it in messages.
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

    /// The same with nobody held: for kernels that count or trace, and for times.
    #[must_use]
    pub fn unheld(self) -> Self {
        Self { holds: Holds::default(), ..self }
    }

    /// vCPUs that a trial starts in all: those at boot and every plug. QEMU under TCG starts at most `maxcpus` vCPU
    /// threads in its life, removed ones included, and aborts at the next (tcg/tcg.c: `tcg_register_thread`).
    pub fn cpus_ever_started(&self) -> u32 {
        let plugs = |lane: &Lane| {
            // QEMU starts none for a plug that is refused on purpose: of what is plugged already.
            let made = |step: &&Step| step.expect != Expect::Refused;
            let of = |step: &Step| step.operations.iter().filter(|o| self.plugs_cpu(o)).count();
            u32::try_from(lane.steps.iter().filter(made).map(of).sum::<usize>())
                .unwrap_or(u32::MAX)
                .saturating_mul(lane.repeat)
        };
        // Random lanes keep to what is left (`random::Model::cpu_plugs`).
        self.lanes.iter().map(plugs).fold(self.machine.cpus, u32::saturating_add)
    }

    fn plugs_cpu(&self, operation: &Operation) -> bool {
        matches!(operation, Operation::Plug(id) if self.is_cpu(id))
    }

    fn is_cpu(&self, id: &DeviceId) -> bool {
        matches!(self.devices.get(id), Some(Device::Cpu { .. }))
    }

    /// DIMMs that are backed by a file, and where each begins there; the end of the last is the file's size.
    pub fn dimm_file(&self) -> (BTreeMap<&DeviceId, Bytes>, Bytes) {
        let mut end = Bytes(0);
        let mut places = BTreeMap::new();
        for (id, device) in &self.devices {
            if let Device::Dimm(Dimm { size, backend: Backend::File, .. }) = device {
                places.insert(id, end);
                end = Bytes(end.0 + size.0);
            }
        }
        (places, end)
    }

    /// Huge pages of 2 MiB that a guest takes from the host with everything plugged.
    pub fn huge_pages(&self) -> u64 {
        let pages = self.devices.values().map(|device| match device {
            Device::Dimm(Dimm { size, backend: Backend::HugePages, .. }) => size.0 / (2 * Bytes::MIB),
            _ => 0,
        });
        pages.sum()
    }

    /// Memory of a guest with everything plugged.
    pub fn largest(&self) -> Bytes {
        let sizes = self.devices.values().map(|device| match device {
            Device::Dimm(Dimm { size, .. })
            | Device::VirtioMem(VirtioMem { size, .. })
            | Device::Nvdimm { size, .. } => size.0,
            Device::Cpu { .. } => 0,
        });
        Bytes(sizes.fold(self.machine.memory.0, u64::saturating_add))
    }

    /// True where a CPU is ever removed, which QEMU before 9 cannot do under TCG.
    pub fn removes_cpus(&self) -> bool {
        let moves = self.random.iter().flat_map(|random| &random.of).map(|one| &one.step);
        self.lanes
            .iter()
            .flat_map(|lane| &lane.steps)
            .chain(moves)
            .any(|step| step.operations.iter().any(|o| matches!(o, Operation::Unplug(id) if self.is_cpu(id))))
    }
}

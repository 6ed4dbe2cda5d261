//! Scenario: a TOML file -> a checked model -> for each seed, the schedule of one trial.
//!
//! `docs/scenarios.md` is the reference, key by key.

mod check;
mod load;
mod schedule;

use std::collections::BTreeMap;
use std::path::Path;

use hotplug_protocol::Load;
use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use schedule::{Batch, LaneSchedule, Schedule, Seed, Verb};

use crate::bytes::Bytes;
use crate::{Error, Result};

/// The scenario that `hotplug compare` runs when none is named, carried in the binary.
pub const DEFAULT: (&str, &str) = ("dimm-and-cpu.toml", include_str!("../../../scenarios/dimm-and-cpu.toml"));

/// Machine, guest, devices and lanes, checked: every device a lane names exists and every move is legal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scenario {
    /// Short name, as in file names and reports.
    pub name: String,
    /// One sentence: what it is aimed at.
    pub about: String,
    /// Trials a side, unless the command line says otherwise.
    pub trials: u32,
    /// The machine before anything is plugged.
    pub machine: Machine,
    /// What the guest does meanwhile.
    pub guest: Guest,
    /// Devices by name, `dimm0`, `cpu3`, ...
    pub devices: BTreeMap<DeviceId, Device>,
    /// Lanes, which run at the same time.
    pub lanes: Vec<Lane>,
}

/// The machine before anything is plugged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// CPUs at boot.
    pub cpus: u32,
    /// CPUs at most: QEMU's `maxcpus`.
    pub max_cpus: u32,
    /// Memory at boot.
    pub memory: Bytes,
    /// Memory at most: QEMU's `maxmem`.
    pub max_memory: Bytes,
    /// DIMM slots.
    pub slots: u32,
    /// Appended to the kernel's command line.
    #[serde(default)]
    pub kernel_args: String,
}

/// What the guest does while devices come and go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// How new memory blocks come online: the kernel's `memhp_default_state`.
    #[serde(default)]
    pub memory_online: MemoryOnline,
    /// Loads that run from before the first operation until after the last.
    #[serde(default, deserialize_with = "load::list")]
    pub load: Vec<Load>,
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
}

impl MemoryOnline {
    /// The value of `memhp_default_state=` (Documentation/admin-guide/mm/memory-hotplug.rst).
    pub fn kernel_word(self) -> &'static str {
        match self {
            Self::Movable => "online_movable",
            Self::Kernel => "online_kernel",
        }
    }
}

/// Name of one device in a scenario, and its QEMU id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceId(pub String);

impl DeviceId {
    /// The name of its group: `dimm` of `dimm3`.
    pub fn group(&self) -> &str {
        self.0.trim_end_matches(|c: char| c.is_ascii_digit())
    }
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that can be plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// A `pc-dimm` over `memory-backend-ram`.
    Dimm {
        /// A multiple of 128 MiB, x86's section size (arch/x86/include/asm/sparsemem.h).
        size: Bytes,
    },
    /// The next free slot of `query-hotpluggable-cpus`.
    Cpu,
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

/// One move of a lane: the same verb for one device or a group of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Plug or unplug.
    pub verb: Verb,
    /// Whom, in the order of their numbers.
    pub devices: Vec<DeviceId>,
    /// Requests that may be in flight at once.
    pub in_flight: usize,
    /// In which order they are asked for.
    pub order: Order,
    /// Longest wait before the step, in milliseconds; each trial's seed draws from 0 to this.
    pub pause_up_to_ms: u32,
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

/// The file as it is written; [`check`] makes a [`Scenario`] of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    trials: Spanned<u32>,
    machine: Spanned<Machine>,
    #[serde(default)]
    guest: Guest,
    #[serde(default)]
    dimm: Vec<Spanned<DimmGroup>>,
    #[serde(default)]
    cpu: Vec<Spanned<CpuGroup>>,
    lane: Vec<Spanned<LaneTable>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DimmGroup {
    name: Spanned<String>,
    #[serde(default = "one")]
    count: u32,
    size: Spanned<Bytes>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CpuGroup {
    name: Spanned<String>,
    #[serde(default = "one")]
    count: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LaneTable {
    name: String,
    #[serde(default = "one")]
    repeat: u32,
    steps: Vec<Spanned<StepTable>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepTable {
    plug: Option<Spanned<String>>,
    unplug: Option<Spanned<String>>,
    in_flight: Option<Spanned<usize>>,
    #[serde(default)]
    order: Order,
    #[serde(default)]
    pause_up_to_ms: u32,
}

fn one() -> u32 {
    1
}

impl Scenario {
    /// Reads and checks a scenario file, and gives its text too. Its name is the file's, without `.toml`.
    pub fn read(path: &Path) -> Result<(Self, String)> {
        let text = fs_err::read_to_string(path).map_err(|error| {
            Error::user(format!("cannot read the scenario: {error}"))
                .mend("name a file such as scenarios/dimm-and-cpu.toml")
        })?;
        Ok((Self::parse(&path.display().to_string(), &text)?, text))
    }

    /// Checks the text of a scenario; `file` names it in messages.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let table: File = toml::from_str(text).map_err(|error| {
            Error::user(format!("{file} is not a scenario"))
                .detail(error)
                .mend("docs/scenarios.md lists every key")
        })?;
        let name =
            Path::new(file).file_stem().map_or_else(|| file.into(), |s| s.to_string_lossy().into_owned());
        check::check(name, table).map_err(|wrong| wrong.at(file, text))
    }

    /// vCPUs that a trial starts in all: those at boot and every plug. QEMU under TCG starts at most `maxcpus` vCPU
    /// threads in its life, removed ones included, and aborts at the next (tcg/tcg.c: `tcg_register_thread`).
    pub fn cpus_ever_started(&self) -> u32 {
        let plugs = |lane: &Lane| {
            let of = |step: &Step| match step.verb {
                Verb::Plug => {
                    step.devices.iter().filter(|id| self.devices.get(id) == Some(&Device::Cpu)).count()
                }
                Verb::Unplug => 0,
            };
            u32::try_from(lane.steps.iter().map(of).sum::<usize>())
                .unwrap_or(u32::MAX)
                .saturating_mul(lane.repeat)
        };
        self.lanes.iter().map(plugs).fold(self.machine.cpus, u32::saturating_add)
    }

    /// Memory of a guest with everything plugged.
    pub fn largest(&self) -> Bytes {
        let dimms = self.devices.values().map(|device| match device {
            Device::Dimm { size } => size.0,
            Device::Cpu => 0,
        });
        Bytes(dimms.fold(self.machine.memory.0, u64::saturating_add))
    }

    /// True where a CPU is ever removed, which QEMU before 9 cannot do under TCG.
    pub fn removes_cpus(&self) -> bool {
        self.lanes.iter().flat_map(|lane| &lane.steps).any(|step| {
            step.verb == Verb::Unplug
                && step.devices.iter().any(|id| matches!(self.devices.get(id), Some(Device::Cpu)))
        })
    }
}

//! The machine before anything is plugged.

use serde::{Deserialize, Serialize};

use crate::arch::{Arch, Architecture};
use crate::bytes::Bytes;
use crate::host::Accelerator;

/// The machine before anything is plugged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// QEMU's machine type.
    #[serde(default)]
    pub kind: MachineKind,
    /// The accelerator, if the test depends on it.
    pub accelerator: Option<Accelerator>,
    /// QEMU's CPU model. None: the best one of the accelerator.
    pub cpu_model: Option<String>,
    /// CPUs at boot.
    pub cpus: u32,
    /// CPUs at most: QEMU's `maxcpus`.
    pub max_cpus: u32,
    /// How the CPUs are arranged.
    #[serde(default)]
    pub topology: Topology,
    /// Memory at boot.
    pub memory: Bytes,
    /// Memory at most: QEMU's `maxmem`.
    pub max_memory: Bytes,
    /// DIMM slots.
    pub slots: u32,
    /// NUMA nodes. Empty: one node with all memory and all CPUs.
    #[serde(default, rename = "node")]
    pub nodes: Vec<NumaNode>,
    /// Whether the firmware describes the speed of each node's memory (ACPI's HMAT).
    #[serde(default)]
    pub hmat: bool,
    /// Further options of QEMU's `-machine`, such as `resize-hpt=enabled`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Further devices that the machine has from the beginning, as QEMU's `-device` takes them.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Appended to the kernel's command line.
    #[serde(default)]
    pub kernel_args: String,
}

/// QEMU's machine types that support hotplug of DIMMs and CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineKind {
    /// x86-64 with PCI Express.
    #[default]
    Q35,
    /// x86-64, i440FX.
    Pc,
    /// POWER with the firmware interface of PAPR.
    Pseries,
}

impl MachineKind {
    /// The architecture of its guests.
    pub fn arch(self) -> &'static Arch {
        match self {
            Self::Q35 | Self::Pc => Architecture::X86.table(),
            Self::Pseries => Architecture::Power.table(),
        }
    }

    /// QEMU's name of the machine type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
            // TCG has neither transactional memory nor the mitigations of speculation
            // (hw/ppc/spapr_caps.c).
            Self::Pseries => "pseries,cap-htm=off,cap-cfpc=broken,cap-ibs=broken,cap-ccf-assist=off",
        }
    }
}

/// How the CPUs are arranged. The product of the four numbers is `max_cpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Sockets.
    #[serde(default = "one")]
    pub sockets: u32,
    /// Dies of a socket.
    #[serde(default = "one")]
    pub dies: u32,
    /// Threads of a core.
    #[serde(default = "one")]
    pub threads: u32,
    /// Cores of a die. None: as many as `max_cpus` needs.
    pub cores: Option<u32>,
}

impl Default for Topology {
    fn default() -> Self {
        Self { sockets: 1, dies: 1, threads: 1, cores: None }
    }
}

fn one() -> u32 {
    1
}

impl Topology {
    /// Cores of a die, for `cpus` CPUs in all. None if the numbers do not multiply to `cpus`.
    pub fn cores(self, cpus: u32) -> Option<u32> {
        let others = self.sockets.checked_mul(self.dies)?.checked_mul(self.threads)?;
        let cores = self.cores.or_else(|| cpus.checked_div(others))?;
        (cores.checked_mul(others)? == cpus && cpus > 0).then_some(cores)
    }
}

/// A NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaNode {
    /// The node's memory at boot. None: the node has no memory.
    pub memory: Option<Bytes>,
    /// The slots of the node's CPUs, including CPUs that are plugged later. A slot that no node
    /// names belongs to node 0.
    #[serde(default)]
    pub cpus: Vec<u32>,
}

impl NumaNode {
    /// The node's memory at boot.
    pub fn memory(&self) -> Bytes {
        self.memory.unwrap_or(Bytes(0))
    }
}

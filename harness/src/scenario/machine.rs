//! The machine before anything is plugged.

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::host::Accelerator;

/// The machine before anything is plugged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// QEMU's machine.
    #[serde(default)]
    pub kind: MachineKind,
    /// How guest code must be run, where that matters.
    pub accelerator: Option<Accelerator>,
    /// QEMU's CPU model; the accelerator's best where none is given.
    pub cpu_model: Option<String>,
    /// CPUs at boot.
    pub cpus: u32,
    /// CPUs at most: QEMU's `maxcpus`.
    pub max_cpus: u32,
    /// How they are arranged.
    #[serde(default)]
    pub topology: Topology,
    /// Memory at boot.
    pub memory: Bytes,
    /// Memory at most: QEMU's `maxmem`.
    pub max_memory: Bytes,
    /// DIMM slots.
    pub slots: u32,
    /// NUMA nodes; where none is named there is one, with everything.
    #[serde(default, rename = "node")]
    pub nodes: Vec<Node>,
    /// Appended to the kernel's command line.
    #[serde(default)]
    pub kernel_args: String,
}

/// QEMU's x86 machines that take DIMMs and CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineKind {
    /// PCI Express.
    #[default]
    Q35,
    /// i440FX.
    Pc,
}

impl MachineKind {
    /// QEMU's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
        }
    }
}

/// How CPUs are arranged. All together are `max_cpus`.
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
    /// Cores of a die; as many as it takes where it is not said.
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
    /// Cores of a die, for so many CPUs; none where the numbers do not give them.
    pub fn cores(self, cpus: u32) -> Option<u32> {
        let others = self.sockets.checked_mul(self.dies)?.checked_mul(self.threads)?;
        let cores = self.cores.or_else(|| cpus.checked_div(others))?;
        (cores.checked_mul(others)? == cpus && cpus > 0).then_some(cores)
    }
}

/// A NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its memory at boot; none where it is not said.
    pub memory: Option<Bytes>,
    /// Slots of its CPUs, those that come later too. A slot that no node names is node 0's.
    #[serde(default)]
    pub cpus: Vec<u32>,
}

impl Node {
    /// Its memory at boot.
    pub fn memory(&self) -> Bytes {
        self.memory.unwrap_or(Bytes(0))
    }
}

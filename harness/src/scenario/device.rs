//! The devices that can be plugged, and their places in the machine.

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;

/// Name of one device in a scenario, and its QEMU id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceId(pub String);

impl DeviceId {
    /// The name of its group: `dimm` of `dimm3`.
    pub fn group(&self) -> &str {
        self.0.trim_end_matches(|c: char| c.is_ascii_digit())
    }

    /// Its number in the group: 3 of `dimm3`.
    pub fn number(&self) -> u32 {
        self.0[self.group().len()..].parse().unwrap_or(0)
    }
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A device that is plugged and unplugged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// A `pc-dimm`.
    Dimm(Dimm),
    /// The CPU of one slot of `query-hotpluggable-cpus`.
    Cpu {
        /// The place in ACPI's list of possible CPUs. A CPU keeps its slot, so that a replayed
        /// trial moves the same CPU.
        slot: u32,
    },
    /// A `virtio-mem-pci`. The device is present from the start, and the memory that it provides
    /// changes.
    VirtioMem(VirtioMem),
    /// An `nvdimm`, which QEMU can plug but not unplug.
    Nvdimm {
        /// Size, a multiple of 128 MiB.
        size: Bytes,
        /// NUMA node.
        node: u32,
    },
}

/// A `pc-dimm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimm {
    /// Size, a multiple of 128 MiB, the section size of x86 (arch/x86/include/asm/sparsemem.h).
    pub size: Bytes,
    /// NUMA node.
    pub node: u32,
    /// Guest-physical address. None: QEMU chooses it.
    pub address: Option<Bytes>,
    /// The memory behind the DIMM.
    pub backend: Backend,
}

/// The memory behind a DIMM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// `memory-backend-ram`: anonymous memory of QEMU.
    #[default]
    Ram,
    /// `memory-backend-memfd`: shared memory.
    Memfd,
    /// `memory-backend-memfd` with huge pages of 2 MiB, of which the host must have enough.
    HugePages,
    /// `memory-backend-file` with a file of the harness, mapped shared.
    File,
}

/// A `virtio-mem-pci`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioMem {
    /// The most memory that the device can provide.
    pub size: Bytes,
    /// The granularity: the device provides multiples of this.
    pub block: Bytes,
    /// NUMA node.
    pub node: u32,
}

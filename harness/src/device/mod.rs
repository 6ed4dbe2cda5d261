//! The devices that a scenario plugs and unplugs. Each kind has a file: its keys in a scenario,
//! QEMU's arguments, how its arrival and its departure are recognised, the guest's accounts that it
//! changes, and what it needs of the machine, which decides how far a scenario shrinks with it.

mod cpu;
mod dimm;
mod nvdimm;
mod virtio_mem;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use toml::Spanned;

pub(crate) use cpu::CpuTable;
pub(crate) use dimm::DimmTable;
pub(crate) use nvdimm::NvdimmTable;
pub(crate) use virtio_mem::VirtioMemTable;

pub use cpu::Cpu;
pub use dimm::{Backend, Dimm};
pub use nvdimm::Nvdimm;
pub use virtio_mem::VirtioMem;

use crate::bytes::Bytes;
use crate::fault::Fault;

/// The name of a device in a scenario, which is also its QEMU id.
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

    /// The id of the memory backend behind it.
    pub fn backend(&self) -> String {
        format!("mem-{self}")
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
    /// A CPU.
    Cpu(Cpu),
    /// A `virtio-mem-pci`.
    VirtioMem(VirtioMem),
    /// An `nvdimm`.
    Nvdimm(Nvdimm),
}

impl std::ops::Deref for Device {
    type Target = dyn DeviceKind;

    /// Its kind, which has all other properties.
    fn deref(&self) -> &Self::Target {
        match self {
            Self::Dimm(dimm) => dimm,
            Self::Cpu(cpu) => cpu,
            Self::VirtioMem(device) => device,
            Self::Nvdimm(nvdimm) => nvdimm,
        }
    }
}

impl Device {
    /// Its slot, if it is a CPU.
    pub fn cpu_slot(&self) -> Option<u32> {
        match self {
            Self::Cpu(cpu) => Some(cpu.slot),
            _ => None,
        }
    }
}

/// The properties of a kind of device. The defaults are those of a device that is neither memory
/// nor a CPU.
pub trait DeviceKind {
    /// The name of its tables in a scenario: `dimm` of `[[dimm]]`.
    fn table(&self) -> &'static str;

    /// Its keys in such a table, beside `name` and `count`. Keys with their default values are left
    /// out.
    fn keys(&self) -> Vec<(&'static str, Value)>;

    /// The most memory that it adds to the guest.
    fn memory(&self) -> Bytes {
        Bytes(0)
    }

    /// Its NUMA node. 0 for a CPU, whose node follows from its slot.
    fn node(&self) -> u32 {
        0
    }

    /// Whether it takes one of the machine's memory slots.
    fn takes_memory_slot(&self) -> bool {
        false
    }

    /// Whether the scenario gives its guest-physical address.
    fn has_address(&self) -> bool {
        false
    }

    /// The bytes that it takes of the file that all DIMMs with `backend = "file"` share.
    fn file_bytes(&self) -> Bytes {
        Bytes(0)
    }

    /// The number of huge pages of 2 MiB that it takes from the host.
    fn huge_pages(&self) -> u64 {
        0
    }

    /// The option of `-machine` that it needs, such as `nvdimm=on`.
    fn machine_option(&self) -> Option<&'static str> {
        None
    }

    /// QEMU's arguments, if it is present from the start.
    fn at_start(&self, _: &DeviceId) -> Vec<String> {
        Vec::new()
    }

    /// The request that plugs it, or `None` if it is present from the start and is resized. `file`
    /// is the place for its memory in the file that DIMMs share.
    fn plug(&self, id: &DeviceId, file: &FilePlace) -> Option<Plug>;

    /// Whether QEMU can unplug it.
    fn can_unplug(&self) -> bool {
        true
    }

    /// How its arrival in the guest is recognised, and its departure.
    fn presence(&self) -> Presence;

    /// The counters of the guest that it changes.
    fn account(&self) -> Option<Account> {
        None
    }

    /// The granularity and the limit of its size, if it is resized.
    fn sizes(&self) -> Option<(Bytes, Bytes)> {
        None
    }
}

/// A request to plug a device.
#[derive(Debug, Clone, PartialEq)]
pub enum Plug {
    /// `device_add`, after `object-add` for the memory behind it.
    Device {
        /// The arguments of `object-add`.
        memory: Map<String, Value>,
        /// The arguments of `device_add`, with driver and id.
        device: Map<String, Value>,
    },
    /// `device_add` of the CPU that `query-hotpluggable-cpus` lists at this slot.
    Cpu {
        /// The slot.
        slot: u32,
    },
}

/// A place in the file that all DIMMs with `backend = "file"` share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlace {
    /// The file's path in QEMU.
    pub path: String,
    /// The offset of the DIMM's memory.
    pub offset: Bytes,
}

/// How the guest shows that a device has arrived, and that it has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// A DIMM: the firmware's acknowledgement of its memory slot, and uevents of its memory blocks.
    MemorySlot,
    /// A CPU: the firmware's acknowledgement of its slot, and the agent, which brings the CPU
    /// online.
    CpuSlot(u32),
    /// An nvdimm: a uevent of its region. It does not leave.
    Region,
    /// It is present from the start; an event of QEMU shows each change of its size.
    Resized,
}

/// Counters of the guest that an operation changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// Memory blocks.
    Memory,
    /// CPUs.
    Cpus,
}

/// The values that the tables of a scenario are checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The number of NUMA nodes.
    pub(crate) nodes: u32,
    /// The unit of memory hotplug.
    pub(crate) unit: Bytes,
}

impl Rules {
    /// The node that a table names, or node 0.
    fn node(&self, named: Option<&Spanned<u32>>) -> Result<u32, Fault> {
        match named {
            Some(number) if *number.get_ref() >= self.nodes => {
                let what = format!("there is no node {}", number.get_ref());
                Err(Fault::new(number.span(), what, "add a [[machine.node]]"))
            }
            number => Ok(number.map_or(0, |number| *number.get_ref())),
        }
    }

    /// A size or address that is a multiple of the unit of memory hotplug. QEMU for x86 accepts a
    /// smaller DIMM, but the guest then refuses it, and the next DIMM is misaligned.
    fn sections(&self, size: &Spanned<Bytes>, what: &str) -> Result<Bytes, Fault> {
        let (bytes, unit) = (*size.get_ref(), self.unit);
        if bytes.0 == 0 || !bytes.0.is_multiple_of(unit.0) {
            let what = format!("{what} of {bytes} is not a multiple of {unit}, the unit of memory hotplug");
            let help = format!("\"{unit}\", \"{}\", ...", Bytes(2 * unit.0));
            return Err(Fault::new(size.span(), what, help));
        }
        Ok(bytes)
    }
}

/// The members of a JSON object.
fn members(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The key of a node, unless it is node 0.
fn node_key(node: u32) -> Option<(&'static str, Value)> {
    (node > 0).then(|| ("node", json!(node)))
}

fn one() -> u32 {
    1
}

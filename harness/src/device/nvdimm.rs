//! An nvdimm, which QEMU can plug but not unplug. The kernel does not use its memory as RAM.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toml::Spanned;

use super::dimm::memory;
use super::{Backend, DeviceId, DeviceKind, FilePlace, Plug, Presence, Rules, members, node_key};
use crate::bytes::Bytes;
use crate::fault::Fault;

/// An `nvdimm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nvdimm {
    /// Size, a multiple of the architecture's section size.
    pub size: Bytes,
    /// NUMA node.
    pub node: u32,
}

impl DeviceKind for Nvdimm {
    fn table(&self) -> &'static str {
        "nvdimm"
    }

    fn keys(&self) -> Vec<(&'static str, Value)> {
        std::iter::once(("size", json!(self.size))).chain(node_key(self.node)).collect()
    }

    fn memory(&self) -> Bytes {
        self.size
    }

    fn node(&self) -> u32 {
        self.node
    }

    fn takes_memory_slot(&self) -> bool {
        true
    }

    fn machine_option(&self) -> Option<&'static str> {
        Some("nvdimm=on")
    }

    fn plug(&self, id: &DeviceId, file: &FilePlace) -> Option<Plug> {
        let device = json!({ "driver": "nvdimm", "id": id, "memdev": id.backend(), "node": self.node });
        Some(Plug::Device { memory: memory(id, self.size, Backend::Ram, file), device: members(device) })
    }

    fn can_unplug(&self) -> bool {
        false
    }

    fn presence(&self) -> Presence {
        Presence::Region
    }
}

/// `[[nvdimm]]` of a scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NvdimmTable {
    pub(crate) name: Spanned<String>,
    #[serde(default = "super::one")]
    pub(crate) count: u32,
    size: Spanned<Bytes>,
    node: Option<Spanned<u32>>,
}

impl NvdimmTable {
    /// Checks the table, and returns the description of every nvdimm of the group.
    pub(crate) fn check(&self, rules: &Rules) -> Result<Nvdimm, Fault> {
        let size = rules.sections(&self.size, "an nvdimm")?;
        Ok(Nvdimm { size, node: rules.node(self.node.as_ref())? })
    }
}

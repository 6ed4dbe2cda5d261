//! A DIMM: QEMU's `pc-dimm` over a memory backend of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use toml::Spanned;

use super::{Account, DeviceId, DeviceKind, FilePlace, Plug, Presence, Rules, members, node_key};
use crate::bytes::Bytes;
use crate::fault::Fault;

/// A `pc-dimm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimm {
    /// Size, a multiple of the architecture's unit of memory hotplug.
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
    /// `memory-backend-memfd` with huge pages of 2 MiB. The host must have enough of them.
    HugePages,
    /// `memory-backend-file` with a file of the harness, mapped shared.
    File,
}

impl DeviceKind for Dimm {
    fn table(&self) -> &'static str {
        "dimm"
    }

    fn keys(&self) -> Vec<(&'static str, Value)> {
        let mut keys = vec![("size", json!(self.size))];
        keys.extend(node_key(self.node));
        keys.extend(self.address.map(|address| ("address", json!(address))));
        keys.extend((self.backend != Backend::default()).then(|| ("backend", json!(self.backend))));
        keys
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

    fn has_address(&self) -> bool {
        self.address.is_some()
    }

    fn file_bytes(&self) -> Bytes {
        if self.backend == Backend::File { self.size } else { Bytes(0) }
    }

    fn huge_pages(&self) -> u64 {
        if self.backend == Backend::HugePages { self.size.0 / (2 * Bytes::MIB) } else { 0 }
    }

    fn plug(&self, id: &DeviceId, file: &FilePlace) -> Option<Plug> {
        let mut device = json!({ "driver": "pc-dimm", "id": id, "memdev": id.backend(), "node": self.node });
        if let Some(Bytes(address)) = self.address {
            device["addr"] = address.into();
        }
        Some(Plug::Device { memory: memory(id, self.size, self.backend, file), device: members(device) })
    }

    fn presence(&self) -> Presence {
        Presence::MemorySlot
    }

    fn account(&self) -> Option<Account> {
        Some(Account::Memory)
    }
}

/// The arguments of `object-add` for the memory behind a device.
pub(super) fn memory(id: &DeviceId, size: Bytes, backend: Backend, file: &FilePlace) -> Map<String, Value> {
    let (kind, more) = match backend {
        Backend::Ram => ("memory-backend-ram", json!({})),
        Backend::Memfd => ("memory-backend-memfd", json!({})),
        Backend::HugePages => {
            ("memory-backend-memfd", json!({ "hugetlb": true, "hugetlbsize": 2 * Bytes::MIB }))
        }
        Backend::File => {
            ("memory-backend-file", json!({ "share": true, "offset": file.offset.0, "mem-path": file.path }))
        }
    };
    let mut arguments = members(json!({ "qom-type": kind, "id": id.backend(), "size": size.0 }));
    arguments.extend(members(more));
    arguments
}

/// `[[dimm]]` of a scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DimmTable {
    pub(crate) name: Spanned<String>,
    #[serde(default = "super::one")]
    pub(crate) count: u32,
    size: Spanned<Bytes>,
    node: Option<Spanned<u32>>,
    address: Option<Spanned<Bytes>>,
    #[serde(default)]
    backend: Backend,
}

impl DimmTable {
    /// Checks the table, and returns the description of every DIMM of the group.
    pub(crate) fn check(&self, rules: &Rules) -> Result<Dimm, Fault> {
        let size = rules.sections(&self.size, "a DIMM")?;
        let node = rules.node(self.node.as_ref())?;
        let address =
            self.address.as_ref().map(|address| rules.sections(address, "a DIMM's address")).transpose()?;
        if let (Some(address), true) = (&self.address, self.count > 1) {
            let help = "give each DIMM a group of its own";
            return Err(Fault::new(address.span(), "two DIMMs cannot share an address", help));
        }
        Ok(Dimm { size, node, address, backend: self.backend })
    }
}

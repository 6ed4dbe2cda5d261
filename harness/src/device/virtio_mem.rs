//! A virtio-mem device. It is present from the start, and the memory that it provides changes.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toml::Spanned;

use super::{Account, DeviceId, DeviceKind, FilePlace, Plug, Presence, Rules, node_key};
use crate::bytes::Bytes;
use crate::fault::Fault;

/// The smallest block that Linux accepts: a huge page (QEMU, hw/virtio/virtio-mem.c,
/// `VIRTIO_MEM_MIN_BLOCK_SIZE`).
const LEAST: Bytes = Bytes(2 * Bytes::MIB);

/// A `virtio-mem-pci`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioMem {
    /// The most memory that the device can provide.
    pub size: Bytes,
    /// The granularity: the device provides multiples of this.
    pub block: Bytes,
    /// NUMA node.
    pub node: u32,
}

impl DeviceKind for VirtioMem {
    fn table(&self) -> &'static str {
        "virtio_mem"
    }

    fn keys(&self) -> Vec<(&'static str, Value)> {
        let sizes = [("size", json!(self.size)), ("block", json!(self.block))];
        sizes.into_iter().chain(node_key(self.node)).collect()
    }

    fn memory(&self) -> Bytes {
        self.size
    }

    fn node(&self) -> u32 {
        self.node
    }

    fn at_start(&self, id: &DeviceId) -> Vec<String> {
        let (size, block, node, backend) = (self.size, self.block, self.node, id.backend());
        let object = format!("memory-backend-ram,id={backend},size={size}");
        let device = format!(
            "virtio-mem-pci,id={id},memdev={backend},node={node},block-size={block},requested-size=0"
        );
        vec!["-object".into(), object, "-device".into(), device]
    }

    fn plug(&self, _: &DeviceId, _: &FilePlace) -> Option<Plug> {
        None
    }

    fn can_unplug(&self) -> bool {
        false
    }

    fn presence(&self) -> Presence {
        Presence::Resized
    }

    fn account(&self) -> Option<Account> {
        Some(Account::Memory)
    }

    fn sizes(&self) -> Option<(Bytes, Bytes)> {
        Some((self.block, self.size))
    }
}

/// `[[virtio_mem]]` of a scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VirtioMemTable {
    pub(crate) name: Spanned<String>,
    #[serde(default = "super::one")]
    pub(crate) count: u32,
    size: Spanned<Bytes>,
    block: Option<Spanned<Bytes>>,
    node: Option<Spanned<u32>>,
}

impl VirtioMemTable {
    /// Checks the table, and returns the description of every device of the group.
    pub(crate) fn check(&self, rules: &Rules) -> Result<VirtioMem, Fault> {
        let size = rules.sections(&self.size, "virtio-mem")?;
        let node = rules.node(self.node.as_ref())?;
        let block = self.block.as_ref().map_or(LEAST, |block| *block.get_ref());
        if let Some(wrong) = self.block.as_ref().filter(|_| !block.0.is_power_of_two() || block < LEAST) {
            let what = format!("virtio-mem's block of {block} is not a power of two of at least {LEAST}");
            return Err(Fault::new(wrong.span(), what, "block = \"2M\", \"4M\", ..."));
        }
        Ok(VirtioMem { size, block, node })
    }
}

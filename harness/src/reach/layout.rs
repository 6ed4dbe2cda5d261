//! Where a kernel keeps its notifier chains and its table of CPU hotplug states.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use hotplug_lockorder::Layout;
use hotplug_vmlinux::{Structure, structures};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unavailable::Unavailable;

/// A chain of notifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Chain {
    /// Blocks of memory that go online or offline (drivers/base/memory.c).
    Memory,
    /// The first and the last memory of a node, since 6.17 (drivers/base/node.c).
    Node,
    /// Suspend and hibernation (kernel/power/main.c).
    Suspend,
    /// Reboot (kernel/reboot.c).
    Reboot,
}

impl Chain {
    /// All chains.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Node, Self::Suspend, Self::Reboot];

    /// The variable with its head.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Memory => "memory_chain",
            Self::Node => "node_chain",
            Self::Suspend => "pm_chain_head",
            Self::Reboot => "reboot_notifier_list",
        }
    }

    /// The built-in scenario that calls it.
    pub fn scenario(self) -> Option<&'static str> {
        match self {
            Self::Memory => Some("dimm-and-cpu"),
            Self::Node => Some("memoryless-node"),
            Self::Suspend => Some("suspend-against-pmem"),
            Self::Reboot => None,
        }
    }
}

/// The addresses and offsets that [`walk`](super::walk) needs.
#[derive(Debug)]
pub struct CallbackLayout {
    /// Symbols, and the map of physical memory.
    pub(super) kernel: Arc<Layout>,
    /// The address of the pointer to the first notifier of each chain that the kernel has.
    pub(super) heads: Vec<(Chain, u64)>,
    /// The offset of the function, and of the pointer to the next notifier.
    pub(super) notifier: (u64, u64),
    /// `cpuhp_hp_states`.
    pub(super) states: StateTable,
    /// Whether the kernel has the trace event `notifier_run` (6.2 and later).
    pub traces_notifiers: bool,
}

/// The table of CPU hotplug states (kernel/cpu.c).
#[derive(Debug, Clone, Copy)]
pub(super) struct StateTable {
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) stride: u64,
    pub(super) name: u64,
    pub(super) startup: u64,
    pub(super) teardown: u64,
    pub(super) list: u64,
    pub(super) multi_instance: u64,
}

impl CallbackLayout {
    /// Reads the layout from a vmlinux. Returns the reason if its debug information lacks a
    /// structure.
    pub fn of(vmlinux: &Path, kernel: Arc<Layout>) -> Result<Self, Unavailable> {
        let bytes = fs_err::read(vmlinux).map_err(Unavailable::because)?;
        let file = object::File::parse(&*bytes).map_err(Unavailable::because)?;
        let of = |unit: &str| structures(&file, unit).map_err(Unavailable::because);
        // Reduced debug information has a header's structures in the source file of the same name.
        let (notifiers, cpus) = (of("kernel/notifier.c")?, of("kernel/cpu.c")?);
        Self::from_parts(kernel, &notifiers, &cpus)
            .map_err(|what| Unavailable::because(format!("{}: {what}", vmlinux.display())))
    }

    fn from_parts(
        kernel: Arc<Layout>,
        notifiers: &HashMap<String, Structure>,
        cpus: &HashMap<String, Structure>,
    ) -> Result<Self, String> {
        let member = |all: &HashMap<String, Structure>, structure: &str, name: &str| {
            let found = all.get(structure).and_then(|structure| structure.members.get(name).copied());
            found.ok_or_else(|| format!("its debug information has no {structure}.{name}"))
        };
        let head = member(notifiers, "blocking_notifier_head", "head")?;
        let heads = Chain::ALL
            .into_iter()
            .filter_map(|chain| Some((chain, kernel.variable_named(chain.variable())?.address + head)))
            .collect();
        let table = kernel.variable_named("cpuhp_hp_states").ok_or("it has no cpuhp_hp_states")?;
        let step = |name: &str| member(cpus, "cpuhp_step", name);
        let states = StateTable {
            address: table.address,
            bytes: table.bytes,
            stride: cpus.get("cpuhp_step").map_or(0, |structure| structure.bytes),
            name: step("name")?,
            startup: step("startup")?,
            teardown: step("teardown")?,
            list: step("list")?,
            multi_instance: step("multi_instance")?,
        };
        if states.stride == 0 || !states.bytes.is_multiple_of(states.stride) {
            return Err("its cpuhp_hp_states is malformed".into());
        }
        Ok(Self {
            heads,
            notifier: (
                member(notifiers, "notifier_block", "notifier_call")?,
                member(notifiers, "notifier_block", "next")?,
            ),
            states,
            traces_notifiers: kernel.variable_named("__tracepoint_notifier_run").is_some(),
            kernel,
        })
    }

    /// The function that begins at an address.
    pub(super) fn function(&self, address: u64) -> Option<String> {
        let symbol = self.kernel.function(address.checked_add(1)?)?;
        (symbol.address == address).then(|| symbol.name.clone())
    }
}

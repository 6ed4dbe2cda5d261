//! Where a kernel keeps its notifier chains and its table of CPU hotplug states.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use hotplug_lockorder::Layout;
use hotplug_vmlinux::{SourceMap, Structure, enumerators, structures};
use object::{Object as _, ObjectSymbol as _};
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

    /// The names of its transitions in a kernel whose debug information does not have them, because
    /// they are macros: `MEM_...` before 7.2 (include/linux/memory.h), `NODE_...`
    /// (include/linux/node.h), `PM_...` (include/linux/suspend.h), `SYS_...`
    /// (include/linux/notifier.h).
    fn macros(self) -> &'static [(u64, &'static str)] {
        match self {
            Self::Memory => &[
                (1 << 0, "MEM_ONLINE"),
                (1 << 1, "MEM_GOING_OFFLINE"),
                (1 << 2, "MEM_OFFLINE"),
                (1 << 3, "MEM_GOING_ONLINE"),
                (1 << 4, "MEM_CANCEL_ONLINE"),
                (1 << 5, "MEM_CANCEL_OFFLINE"),
                (1 << 6, "MEM_PREPARE_ONLINE"),
                (1 << 7, "MEM_FINISH_OFFLINE"),
            ],
            Self::Node => &[
                (1 << 0, "NODE_ADDING_FIRST_MEMORY"),
                (1 << 1, "NODE_ADDED_FIRST_MEMORY"),
                (1 << 2, "NODE_CANCEL_ADDING_FIRST_MEMORY"),
                (1 << 3, "NODE_REMOVING_LAST_MEMORY"),
                (1 << 4, "NODE_REMOVED_LAST_MEMORY"),
                (1 << 5, "NODE_CANCEL_REMOVING_LAST_MEMORY"),
            ],
            Self::Suspend => &[
                (1, "PM_HIBERNATION_PREPARE"),
                (2, "PM_POST_HIBERNATION"),
                (3, "PM_SUSPEND_PREPARE"),
                (4, "PM_POST_SUSPEND"),
                (5, "PM_RESTORE_PREPARE"),
                (6, "PM_POST_RESTORE"),
            ],
            Self::Reboot => &[(1, "SYS_RESTART"), (2, "SYS_HALT"), (3, "SYS_POWER_OFF")],
        }
    }

    /// Whether its notifiers run in the sections of memory hotplug.
    pub fn is_of_memory(self) -> bool {
        matches!(self, Self::Memory | Self::Node)
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
    /// The names of the transitions that a notifier hears of, by their numbers.
    pub transitions: BTreeMap<Chain, BTreeMap<u64, String>>,
    /// The address of `_text`, the beginning of the image.
    text: u64,
    /// The source files of functions.
    files: SourceMap,
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
        let memory = enumerators(&file, "drivers/base/memory.c").map_err(Unavailable::because)?;
        let files = SourceMap::of(&file).map_err(Unavailable::because)?;
        let text = file.symbol_by_name("_text").map(|symbol| symbol.address());
        let text = text.ok_or_else(|| Unavailable::because("its vmlinux has no _text"))?;
        Self::from_parts(kernel, &notifiers, &cpus, &memory, files, text)
            .map_err(|what| Unavailable::because(format!("{}: {what}", vmlinux.display())))
    }

    fn from_parts(
        kernel: Arc<Layout>,
        notifiers: &HashMap<String, Structure>,
        cpus: &HashMap<String, Structure>,
        memory: &HashMap<String, i64>,
        files: SourceMap,
        text: u64,
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
        let transitions = Chain::ALL.map(|chain| (chain, transitions(chain, memory)));
        Ok(Self {
            heads,
            transitions: transitions.into(),
            files,
            text,
            notifier: (
                member(notifiers, "notifier_block", "notifier_call")?,
                member(notifiers, "notifier_block", "next")?,
            ),
            states,
            traces_notifiers: kernel.variable_named("__tracepoint_notifier_run").is_some(),
            kernel,
        })
    }

    /// A function as the definition of a kprobe names it. Only by a symbol is it known to begin a
    /// function, whose arguments can then be recorded (6.1 `kernel/trace/trace_kprobe.c`,
    /// `__trace_kprobe_create`), and names of functions need not be unique.
    pub fn probe_place(&self, address: u64) -> String {
        format!("_text+{:#x}", address.wrapping_sub(self.text))
    }

    /// The function that begins at an address.
    pub(super) fn function(&self, address: u64) -> Option<String> {
        let symbol = self.kernel.function(address.checked_add(1)?)?;
        (symbol.address == address).then(|| symbol.name.clone())
    }

    /// The source file with the code at an address, relative to the source.
    pub(super) fn file(&self, address: u64) -> Option<String> {
        self.files.file(address).and_then(in_source)
    }
}

/// The path of a file in the source, of the absolute path in the copy of the source that the
/// compiler was given. Makefiles may go up: `arch/x86/kvm/../../../virt/kvm/kvm_main.c`.
pub fn in_source(path: &str) -> Option<String> {
    let (_, inside) = path.split_once("/src/")?;
    let mut parts: Vec<&str> = Vec::new();
    for part in inside.split('/') {
        match part {
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The transitions of a chain. Constants in the debug information are those of this kernel; macros
/// are not in it.
fn transitions(chain: Chain, constants: &HashMap<String, i64>) -> BTreeMap<u64, String> {
    let own = chain.macros().iter().filter_map(|(_, name)| {
        let value = constants.get(*name)?;
        Some((u64::try_from(*value).ok()?, (*name).to_owned()))
    });
    let own: BTreeMap<u64, String> = own.collect();
    if own.is_empty() {
        chain.macros().iter().map(|(value, name)| (*value, (*name).to_owned())).collect()
    } else {
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_compiler_is_one_of_the_source() {
        assert_eq!(in_source("/cache/x/src/mm/slub.c").unwrap(), "mm/slub.c");
        let up = "/cache/x/src/arch/x86/kvm/../../../virt/kvm/kvm_main.c";
        assert_eq!(in_source(up).unwrap(), "virt/kvm/kvm_main.c");
        assert_eq!(in_source("/cache/x/src/../../../a.c"), None);
        assert_eq!(in_source("kernel/cpu.c"), None);
    }

    #[test]
    fn transitions_are_those_of_the_kernel() {
        // Macros have no debug information.
        let macros = transitions(Chain::Memory, &HashMap::new());
        assert_eq!(macros[&2], "MEM_GOING_OFFLINE");
        // 7.3 has an enumeration.
        let constants = [("MEM_ONLINE", 0), ("MEM_GOING_OFFLINE", 1), ("MEM_OFFLINE", 2), ("MEM_OTHER", 3)];
        let constants = constants.map(|(name, value)| (name.to_owned(), value)).into();
        let own = transitions(Chain::Memory, &constants);
        assert_eq!((own[&1].as_str(), own.len()), ("MEM_GOING_OFFLINE", 3));
    }
}

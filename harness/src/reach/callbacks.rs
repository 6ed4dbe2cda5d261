//! The callbacks that are registered in a guest, read from its memory. The memory is not trusted:
//! addresses are checked, and lists are bounded.

use std::collections::{BTreeMap, BTreeSet};

use object::Endian as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layout::{CallbackLayout, Chain};

/// The most notifiers of a chain that are read. A chain of a 7.3 kernel has fewer than 20.
const MOST: usize = 256;

/// The longest name of a state that is read, in bytes. The longest in a 7.3 kernel has 40.
const NAME: usize = 64;

/// The names of the first state whose functions run on a CPU that is not online, and of the first
/// one after them (kernel/cpu.c).
const ATOMIC: [&str; 2] = ["idle:dead", "ap:online"];

/// The registered callbacks of one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callbacks {
    /// The functions of each chain, in the order of their calls. A chain that the kernel lacks is
    /// absent.
    pub chains: BTreeMap<Chain, Vec<Notifier>>,
    /// The CPU hotplug states that have a callback, in the order of a CPU that comes.
    pub states: Vec<CpuState>,
}

impl Callbacks {
    /// The functions that run on a CPU that is not online, with their addresses.
    pub fn atomic(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.states.iter().flat_map(|state| &state.addresses);
        all.map(|(name, address)| (name.as_str(), *address))
    }
}

/// A registered notifier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notifier {
    /// Its function.
    pub function: String,
    /// The address of the function.
    #[serde(default)]
    pub address: u64,
    /// The address of its `struct notifier_block`, which tells two notifiers with one function
    /// apart.
    #[serde(default)]
    pub block: u64,
    /// The source file of the function.
    #[serde(default)]
    pub file: Option<String>,
}

/// A CPU hotplug state with callbacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CpuState {
    /// Its number.
    pub step: u32,
    /// Its name, as in `/sys/devices/system/cpu/hotplug/states`.
    pub name: String,
    /// The function that runs when a CPU comes.
    pub startup: Option<String>,
    /// The function that runs when a CPU goes.
    pub teardown: Option<String>,
    /// Whether its functions run on the CPU itself while it is not online (`cpuhp_is_atomic_state`
    /// of kernel/cpu.c). Trace events on such a CPU are dropped (include/linux/tracepoint.h), so
    /// only a kprobe can show that they ran.
    #[serde(default)]
    pub is_atomic: bool,
    /// The source files of its functions.
    #[serde(default)]
    pub files: BTreeSet<String>,
    /// The addresses of its functions, if they run on a CPU that is not online.
    #[serde(skip)]
    pub(super) addresses: Vec<(String, u64)>,
    /// For a state with instances: whether there is one. Without an instance, its functions are
    /// never called.
    pub has_instance: Option<bool>,
}

/// Reads the callbacks of a guest. `memory` reads a number of bytes at a physical address.
///
/// Returns the reason if the memory cannot be that of this kernel.
pub async fn walk(
    layout: &CallbackLayout,
    mut memory: impl AsyncFnMut(u64, u64) -> Result<Vec<u8>, String>,
) -> Result<Callbacks, String> {
    let order = layout.kernel.byte_order;
    let word = |bytes: &[u8], at: u64| {
        let at = usize::try_from(at).ok()?;
        let bytes = bytes.get(at..at.checked_add(8)?)?;
        Some(order.read_u64_bytes(bytes.try_into().ok()?))
    };
    let base = match layout.kernel.page_offset_base {
        Some(variable) => {
            let at = layout.kernel.physical(variable).ok_or("page_offset_base is not in the image")?;
            word(&memory(at, 8).await?, 0)
        }
        None => None,
    };
    let kernel = &layout.kernel;
    let physical = |address: u64| kernel.physical(address).or_else(|| kernel.physical_of_map(address, base));
    let mut at = async |address: u64, bytes: u64| {
        let place = physical(address).ok_or_else(|| format!("{address:#x} is no address of data"))?;
        let read = memory(place, bytes).await?;
        if read.len() as u64 == bytes { Ok(read) } else { Err(format!("{place:#x} could not be read")) }
    };

    let mut all = Callbacks::default();
    let (call, next) = layout.notifier;
    let notifier = call.max(next) + 8;
    for (chain, head) in &layout.heads {
        let mut functions = Vec::new();
        let mut pointer = word(&at(*head, 8).await?, 0).unwrap_or(0);
        while pointer != 0 {
            if functions.len() >= MOST {
                return Err(format!("{} does not end", chain.variable()));
            }
            let block = at(pointer, notifier).await?;
            let function = word(&block, call).unwrap_or(0);
            functions.push(Notifier {
                // A function without a symbol is in a module.
                function: layout.function(function).unwrap_or_else(|| format!("{function:#x}")),
                address: function,
                block: pointer,
                file: layout.file(function),
            });
            pointer = word(&block, next).unwrap_or(0);
        }
        all.chains.insert(*chain, functions);
    }

    let table = layout.states;
    let bytes = at(table.address, table.bytes).await?;
    let mut is_atomic = false;
    for (step, state) in (0..).zip(bytes.chunks_exact(usize::try_from(table.stride).unwrap_or(usize::MAX))) {
        let address = |at: u64| word(state, at).filter(|address| *address != 0);
        let addresses = [table.startup, table.teardown].map(address);
        let [startup, teardown] = addresses
            .map(|address| address.map(|at| layout.function(at).unwrap_or_else(|| format!("{at:#x}"))));
        let name = word(state, table.name).and_then(|address| layout.kernel.image_at(address));
        let name = name.unwrap_or_default();
        let end = name.iter().take(NAME).position(|byte| *byte == 0).unwrap_or(0);
        let name = String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned();
        is_atomic = (is_atomic || name == ATOMIC[0]) && name != ATOMIC[1];
        if startup.is_none() && teardown.is_none() {
            continue;
        }
        let names = [&startup, &teardown].map(Clone::clone);
        let functions = names.into_iter().zip(addresses).filter_map(|(name, at)| name.zip(at));
        let many = usize::try_from(table.multi_instance).ok().and_then(|at| state.get(at)) == Some(&1);
        all.states.push(CpuState {
            step,
            name,
            startup,
            teardown,
            is_atomic,
            files: addresses.into_iter().flatten().filter_map(|at| layout.file(at)).collect(),
            addresses: if is_atomic { functions.collect() } else { Vec::new() },
            has_instance: many.then(|| word(state, table.list).is_some_and(|first| first != 0)),
        });
    }
    Ok(all)
}

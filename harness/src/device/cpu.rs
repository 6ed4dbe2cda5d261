//! A CPU of a slot that `query-hotpluggable-cpus` lists.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toml::Spanned;

use super::{Account, DeviceId, DeviceKind, FilePlace, Plug, Presence};

/// The CPU of one slot of `query-hotpluggable-cpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// The place in the list of possible CPUs. A CPU keeps its slot, so that a replayed trial plugs
    /// the same CPU.
    pub slot: u32,
}

impl DeviceKind for Cpu {
    fn table(&self) -> &'static str {
        "cpu"
    }

    /// A group has one key with the slots of its CPUs, which replaces the key of each CPU.
    fn keys(&self) -> Vec<(&'static str, Value)> {
        vec![("slots", json!([self.slot]))]
    }

    fn plug(&self, _: &DeviceId, _: &FilePlace) -> Option<Plug> {
        Some(Plug::Cpu { slot: self.slot })
    }

    fn presence(&self) -> Presence {
        Presence::CpuSlot(self.slot)
    }

    fn account(&self) -> Option<Account> {
        Some(Account::Cpus)
    }
}

/// `[[cpu]]` of a scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CpuTable {
    pub(crate) name: Spanned<String>,
    #[serde(default = "super::one")]
    pub(crate) count: u32,
    #[serde(default)]
    pub(crate) slots: Vec<Spanned<u32>>,
}

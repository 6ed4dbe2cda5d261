//! The syntax of a scenario file. `check` turns it into a [`super::Scenario`].

use serde::Deserialize;
use toml::Spanned;

use super::{
    Delay, Delays, Expect, FailAt, Guest, Machine, Order, OverlapSpec, Phase, Policy, Program, Rendezvous,
    Sweep, Timing,
};
use crate::bytes::Bytes;
use crate::device::{CpuTable, DimmTable, NvdimmTable, VirtioMemTable};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) about: String,
    pub(super) trials: Spanned<u32>,
    #[serde(default)]
    pub(super) start: super::Start,
    pub(super) time_limit_s: Option<Spanned<u32>>,
    pub(super) machine: Spanned<Machine>,
    #[serde(default)]
    pub(super) guest: Guest,
    #[serde(default)]
    pub(super) program: Vec<Spanned<Program>>,
    #[serde(default)]
    pub(super) dimm: Vec<Spanned<DimmTable>>,
    #[serde(default)]
    pub(super) cpu: Vec<Spanned<CpuTable>>,
    #[serde(default)]
    pub(super) virtio_mem: Vec<Spanned<VirtioMemTable>>,
    #[serde(default)]
    pub(super) nvdimm: Vec<Spanned<NvdimmTable>>,
    #[serde(default)]
    pub(super) lane: Vec<Spanned<LaneTable>>,
    pub(super) random: Option<Spanned<RandomTable>>,
    pub(super) latency: Option<Spanned<Timing>>,
    pub(super) overlap: Option<Spanned<OverlapSpec>>,
    #[serde(default)]
    pub(super) rendezvous: Vec<Spanned<Rendezvous>>,
    pub(super) sweep: Option<Spanned<Sweep>>,
    #[serde(default)]
    pub(super) delay: Vec<Spanned<Delay>>,
    pub(super) delays: Option<Spanned<Delays>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LaneTable {
    pub(super) name: String,
    #[serde(default = "one")]
    pub(super) repeat: u32,
    pub(super) steps: Vec<Spanned<StepTable>>,
}

/// The objects of a step: a group, a device, or a list of these.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a name, or a list of names")]
pub(super) enum Names {
    One(String),
    Several(Vec<String>),
}

impl Names {
    pub(super) fn all(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

/// A step of a lane, or a random move. One of the first keys names its operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepTable {
    pub(super) plug: Option<Spanned<Names>>,
    pub(super) unplug: Option<Spanned<Names>>,
    pub(super) resize: Option<Spanned<Names>>,
    pub(super) online: Option<Spanned<Names>>,
    pub(super) offline: Option<Spanned<Names>>,
    pub(super) write: Option<Spanned<String>>,
    pub(super) read: Option<Spanned<String>>,
    pub(super) fail: Option<Spanned<Names>>,
    pub(super) program: Option<Spanned<String>>,
    pub(super) reboot: Option<Spanned<bool>>,
    pub(super) barrier: Option<Spanned<String>>,

    /// A key of `resize`.
    pub(super) to: Option<Spanned<Bytes>>,
    /// Keys of `fail`.
    pub(super) at: Option<Spanned<FailAt>>,
    pub(super) parts: Option<Spanned<u32>>,
    pub(super) part: Option<Spanned<u32>>,
    /// A key of `online`.
    pub(super) policy: Option<Spanned<Policy>>,
    /// A key of `write`.
    pub(super) data: Option<Spanned<String>>,
    /// Keys of `read`.
    pub(super) offset: Option<u64>,
    pub(super) length: Option<u64>,
    pub(super) shows: Option<Spanned<String>>,

    pub(super) in_flight: Option<Spanned<usize>>,
    #[serde(default)]
    pub(super) order: Order,
    #[serde(default)]
    pub(super) pause_up_to_ms: u32,
    #[serde(default)]
    pub(super) expect: Expect,
    pub(super) after: Option<Spanned<AfterTable>>,
    /// Keys of a random move.
    pub(super) weight: Option<Spanned<u32>>,
    pub(super) at_most: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AfterTable {
    /// A step of another lane, such as `unplug dimm0`.
    pub(super) step: Spanned<String>,
    pub(super) phase: Phase,
    pub(super) offset_us: Option<u64>,
    pub(super) random_us: Option<[u64; 2]>,
    pub(super) sweep_us: Option<[u64; 3]>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RandomTable {
    pub(super) lanes: Spanned<u32>,
    pub(super) moves: Spanned<u32>,
    #[serde(default)]
    pub(super) pause_up_to_ms: u32,
    pub(super) illegal_percent: Option<Spanned<u32>>,
    #[serde(rename = "move")]
    pub(super) of: Vec<Spanned<StepTable>>,
}

pub(super) fn one() -> u32 {
    1
}

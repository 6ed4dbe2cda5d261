//! What a step does, when it begins, and what should come of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::DeviceId;
use crate::bytes::Bytes;

/// One thing that is done to the machine or in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Add a device, and see it online in the guest.
    Plug(DeviceId),
    /// Ask the guest for a device, and see it gone.
    Unplug(DeviceId),
    /// Have a virtio-mem device give this much.
    Resize(DeviceId, Bytes),
    /// Bring memory blocks or a CPU online, by sysfs.
    Online(Place, Policy),
    /// Take memory blocks or a CPU offline, by sysfs.
    Offline(Place),
    /// One write(2) to a file in the guest.
    Write {
        /// Absolute.
        path: String,
        /// All of it.
        data: String,
    },
    /// Read a file in the guest.
    Read {
        /// Absolute.
        path: String,
        /// Where to begin, bytes.
        offset: u64,
        /// How much at most, bytes.
        length: Option<u64>,
    },
    /// Restart the guest.
    Reboot,
}

/// What is taken offline and brought online.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// All memory blocks of a DIMM, one after another, or a CPU.
    Device(DeviceId),
    /// `/sys/devices/system/memory/memoryN`.
    Block(u64),
    /// `/sys/devices/system/cpu/cpuN`.
    Cpu(u32),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(id) => id.fmt(f),
            Self::Block(number) => write!(f, "memory:{number}"),
            Self::Cpu(number) => write!(f, "cpu:{number}"),
        }
    }
}

/// Into which zone a memory block goes (`state` in Documentation/ABI/testing/sysfs-devices-memory).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// `ZONE_MOVABLE`, from where it can go again.
    #[default]
    Movable,
    /// A kernel zone.
    Kernel,
    /// The kernel's choice.
    Any,
}

impl Policy {
    /// What is written to a block's `state`.
    pub fn kernel_word(self) -> &'static str {
        match self {
            Self::Movable => "online_movable",
            Self::Kernel => "online_kernel",
            Self::Any => "online",
        }
    }
}

impl Operation {
    /// The device it moves.
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Plug(id)
            | Self::Unplug(id)
            | Self::Resize(id, _)
            | Self::Online(Place::Device(id), _)
            | Self::Offline(Place::Device(id)) => Some(id),
            _ => None,
        }
    }

    /// Whether it can be done while these devices are plugged; `plugged` is then what is afterwards.
    pub fn takes_its_turn(&self, plugged: &mut BTreeSet<DeviceId>) -> bool {
        match self {
            Self::Plug(id) => plugged.insert(id.clone()),
            Self::Unplug(id) => plugged.remove(id),
            Self::Online(Place::Device(id), _) | Self::Offline(Place::Device(id)) => plugged.contains(id),
            _ => true,
        }
    }

    /// What it does, in one word.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Plug(_) => "plug",
            Self::Unplug(_) => "unplug",
            Self::Resize(..) => "resize",
            Self::Online(..) => "online",
            Self::Offline(_) => "offline",
            Self::Write { .. } => "write",
            Self::Read { .. } => "read",
            Self::Reboot => "reboot",
        }
    }

    /// To whom: a device, a block, a path.
    pub fn object(&self) -> String {
        match self {
            Self::Plug(id) | Self::Unplug(id) | Self::Resize(id, _) => id.to_string(),
            Self::Online(place, _) | Self::Offline(place) => place.to_string(),
            Self::Write { path, .. } | Self::Read { path, .. } => path.clone(),
            Self::Reboot => String::new(),
        }
    }

    /// Whether `words` name it, such as `unplug dimm3`, or its kind, such as `unplug dimm`.
    pub fn matches(&self, words: &str) -> bool {
        self.to_string() == words || self.kind() == words
    }

    /// What all operations of its kind have in common, such as `unplug dimm`.
    pub fn kind(&self) -> String {
        let object = self.object();
        let group = match self {
            Self::Write { .. } | Self::Read { .. } => object.as_str(),
            _ => object.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':'),
        };
        format!("{} {group}", self.verb()).trim_end().to_owned()
    }
}

/// Such as `unplug dimm3`.
impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reboot => f.write_str("reboot"),
            Self::Resize(id, to) => write!(f, "resize {id} to {to}"),
            _ => write!(f, "{} {}", self.verb(), self.object()),
        }
    }
}

/// What should come of an operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// It happens.
    #[default]
    Done,
    /// The guest or QEMU says no.
    Refused,
    /// Either.
    Any,
}

/// How far an operation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// QEMU, or the agent, has taken the request.
    Accepted,
    /// The guest has heard of it: the first uevent of what comes, or its word that it works on what goes.
    Notified,
    /// The first memory block or the CPU is online.
    Online,
    /// The first memory block or the CPU is offline.
    Offline,
    /// QEMU has deleted the device.
    Ejected,
    /// It has ended, whatever came of it.
    Ended,
}

/// A phase of another lane's operation, for which a step waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// The operation, by its words, such as `unplug dimm0`.
    pub operation: String,
    /// How far it must have come, once more than when this lane waited for it last.
    pub phase: Phase,
    /// How long after that the step begins, microseconds.
    pub offset: Offset,
}

/// A time after a trigger, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offset {
    /// Always the same.
    Fixed(u64),
    /// Drawn from the trial's seed, between the first and the second.
    Random(u64, u64),
    /// From the first to the second in steps of the third, one step further each trial, and again from the first.
    Sweep(u64, u64, u64),
}

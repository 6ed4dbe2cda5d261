//! The operations of a step, the trigger that starts it, and the expected outcome.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::device::DeviceId;

/// An operation on the machine, or in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Plug a device, and wait until the guest has it online.
    Plug(DeviceId),
    /// Ask the guest to release a device, and wait until the device is gone.
    Unplug(DeviceId),
    /// Have a virtio-mem device provide this much memory.
    Resize(DeviceId, Bytes),
    /// Bring memory blocks or a CPU online, by sysfs.
    Online(Place, Policy),
    /// Take memory blocks or a CPU offline, by sysfs.
    Offline(Place),
    /// One write(2) to a file in the guest.
    Write {
        /// Absolute path.
        path: String,
        /// The data, in full.
        data: String,
    },
    /// Read a file in the guest.
    Read {
        /// Absolute path.
        path: String,
        /// Offset of the first byte.
        offset: u64,
        /// The most bytes to read.
        length: Option<u64>,
        /// A regular expression that the content must match.
        #[serde(default)]
        shows: Option<String>,
    },
    /// Take memory blocks or a CPU offline and online again and again, by sysfs, each time with one
    /// failure on purpose.
    Fail(Place, FailAt, Part),
    /// Run a program of the user to its end.
    Program(String),
    /// Restart the guest.
    Reboot,
}

/// What fails on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailAt {
    /// Each state of CPU hotplug in turn (`cpuN/hotplug/fail`).
    States,
    /// Each memory allocation of the write to sysfs in turn, up to a limit
    /// (`CONFIG_FAULT_INJECTION`).
    Allocations,
    /// The last notifier of memory hotplug (`CONFIG_MEMORY_NOTIFIER_ERROR_INJECT`).
    Notifiers,
}

/// A part of all failures: each trial makes the next one, because a CPU that goes and comes takes a
/// tenth of a second under TCG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// The number of the part, from 0. In a scenario's step: none, until a trial takes its own.
    pub number: Option<u32>,
    /// The number of all parts.
    pub of: u32,
}

impl Part {
    /// The part of a trial.
    pub(super) fn of_trial(self, trial: u32) -> Self {
        Self { number: Some(self.number.unwrap_or(trial % self.of.max(1))), ..self }
    }

    /// Whether it has the failure with this number, from 0.
    pub fn has(self, failure: u32) -> bool {
        failure % self.of.max(1) == self.number.unwrap_or(0)
    }
}

impl FailAt {
    /// Its name in a scenario.
    pub fn name(self) -> &'static str {
        match self {
            Self::States => "states",
            Self::Allocations => "allocations",
            Self::Notifiers => "notifiers",
        }
    }
}

/// The object of an `online` or `offline`.
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

/// The zone that a memory block comes online in (`state` in
/// Documentation/ABI/testing/sysfs-devices-memory).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// `ZONE_MOVABLE`, from which the block can be removed again.
    #[default]
    Movable,
    /// A kernel zone.
    Kernel,
    /// The kernel's choice.
    Any,
}

impl Policy {
    /// The word that is written to a block's `state`.
    pub fn kernel_word(self) -> &'static str {
        match self {
            Self::Movable => "online_movable",
            Self::Kernel => "online_kernel",
            Self::Any => "online",
        }
    }
}

impl Operation {
    /// The device that the operation acts on, if it acts on one.
    pub fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::Plug(id)
            | Self::Unplug(id)
            | Self::Resize(id, _)
            | Self::Online(Place::Device(id), _)
            | Self::Offline(Place::Device(id))
            | Self::Fail(Place::Device(id), ..) => Some(id),
            _ => None,
        }
    }

    /// Whether the operation is possible while these devices are plugged. If it is, `plugged` is
    /// updated to the state after it.
    pub fn takes_its_turn(&self, plugged: &mut BTreeSet<DeviceId>) -> bool {
        match self {
            Self::Plug(id) => plugged.insert(id.clone()),
            Self::Unplug(id) => plugged.remove(id),
            Self::Online(Place::Device(id), _)
            | Self::Offline(Place::Device(id))
            | Self::Fail(Place::Device(id), ..) => plugged.contains(id),
            _ => true,
        }
    }

    /// The operation as the trial of this number performs it.
    pub(super) fn of_trial(&self, number: u32) -> Self {
        match self {
            Self::Fail(place, at, part) => Self::Fail(place.clone(), *at, part.of_trial(number)),
            other => other.clone(),
        }
    }

    /// The options of the kernel without which it cannot run, by name without `CONFIG_`.
    pub(super) fn kernel_options(&self) -> &'static [&'static str] {
        match self {
            Self::Fail(_, FailAt::Allocations, _) => &["FAILSLAB", "FAIL_PAGE_ALLOC"],
            Self::Fail(_, FailAt::Notifiers, _) => &["MEMORY_NOTIFIER_ERROR_INJECT"],
            _ => &[],
        }
    }

    /// Whether it suspends the guest (Documentation/admin-guide/pm/sleep-states.rst).
    pub fn suspends(&self) -> bool {
        matches!(self, Self::Write { path, .. } if path == "/sys/power/state")
    }

    /// The name of the operation, one word.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Plug(_) => "plug",
            Self::Unplug(_) => "unplug",
            Self::Resize(..) => "resize",
            Self::Online(..) => "online",
            Self::Offline(_) => "offline",
            Self::Write { .. } => "write",
            Self::Read { .. } => "read",
            Self::Fail(..) => "fail",
            Self::Program(_) => "program",
            Self::Reboot => "reboot",
        }
    }

    /// The object of the operation: a device, a block, a CPU or a path.
    pub fn object(&self) -> String {
        match self {
            Self::Plug(id) | Self::Unplug(id) | Self::Resize(id, _) => id.to_string(),
            Self::Online(place, _) | Self::Offline(place) | Self::Fail(place, ..) => place.to_string(),
            Self::Write { path, .. } | Self::Read { path, .. } => path.clone(),
            Self::Program(name) => name.clone(),
            Self::Reboot => String::new(),
        }
    }

    /// Whether `words` name the operation, such as `unplug dimm3`, or its kind, such as
    /// `unplug dimm`.
    pub fn matches(&self, words: &str) -> bool {
        self.to_string() == words || self.kind() == words
    }

    /// The kind of the operation, such as `unplug dimm`.
    pub fn kind(&self) -> String {
        let object = self.object();
        let group = match self {
            Self::Write { .. } | Self::Read { .. } | Self::Program(_) => object.as_str(),
            _ => object.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':'),
        };
        format!("{} {group}", self.verb()).trim_end().to_owned()
    }
}

/// In words, such as `unplug dimm3`.
impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reboot => f.write_str("reboot"),
            Self::Resize(id, to) => write!(f, "resize {id} to {to}"),
            Self::Fail(place, at, part) => {
                write!(f, "fail {place} at {}", at.name())?;
                match part.number {
                    Some(number) if part.of > 1 => write!(f, ", part {} of {}", number + 1, part.of),
                    _ => Ok(()),
                }
            }
            _ => write!(f, "{} {}", self.verb(), self.object()),
        }
    }
}

/// The expected outcome of an operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// It is done.
    #[default]
    Done,
    /// The guest or QEMU refuses it.
    Refused,
    /// Either of the two.
    Any,
}

/// A phase in the course of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// QEMU, or the agent, has accepted the request.
    Accepted,
    /// The guest has received the request: its first uevent for a plug, or its `_OST` status "in
    /// progress" for an unplug.
    Notified,
    /// The first memory block or the CPU is online.
    Online,
    /// The first memory block or the CPU is offline.
    Offline,
    /// QEMU has deleted the device.
    Ejected,
    /// The operation has ended, with any outcome.
    Ended,
}

/// A phase of another lane's operation that a step waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// The operation in words, such as `unplug dimm0`.
    pub operation: String,
    /// The phase that the operation must have reached, once more since this lane last waited for
    /// it.
    pub phase: Phase,
    /// The time from that phase to the beginning of the step, in microseconds.
    pub offset: Offset,
}

/// A time after a trigger, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offset {
    /// A fixed time.
    Fixed(u64),
    /// Drawn from the trial's seed, between the first and the second.
    Random(u64, u64),
    /// From the first to the second in steps of the third. Each trial is one step further, and
    /// after the second the sweep begins again.
    Sweep(u64, u64, u64),
}

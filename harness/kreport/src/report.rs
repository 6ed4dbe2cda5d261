//! What the reader makes of a kernel's message.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Kind;

/// One message of the kernel's own checkers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What it is about.
    pub kind: Kind,
    /// One line for people.
    pub title: String,
    /// What makes two reports the same bug.
    pub signature: Signature,
    /// First and last line of the log it came from, counted from 1.
    pub lines: RangeInclusive<u64>,
    /// Why it is not to be trusted in full; `None` when it is whole.
    pub corrupted: Option<Corruption>,
    /// The kernel's clock at the headline, in microseconds since boot.
    pub time: Option<u64>,
    /// The task that was running.
    pub process: Option<Process>,
    /// The CPU it was running on.
    pub cpu: Option<u32>,
    /// The function to blame: the first one that is not a checker's or a lock's own helper.
    pub blame: Option<String>,
    /// The `lockdep_assert_*` helper that a WARNING came from: such a WARNING is silent while lockdep is off.
    pub assertion: Option<String>,
    /// `file:line` of a WARNING, a BUG or an RCU complaint, as the kernel printed it.
    pub source: Option<String>,
    /// The checker's own words: a WARN's text, KASAN's "slab-use-after-free Read", a panic's reason.
    pub detail: Option<String>,
    /// The stack of the task that the report is about, innermost first.
    pub frames: Vec<Frame>,
    /// Further stacks: of allocation, of free, of each link of a lock cycle, of other CPUs.
    pub stacks: Vec<Stack>,
    /// What lockdep said about the locks.
    pub locks: Option<Locks>,
    /// The panic that this report led to, in the kernel's words.
    pub panic: Option<String>,
}

impl Report {
    /// Whether only an armed lockdep could have printed it: its absence from a blind trial means nothing.
    pub fn needs_armed_lockdep(&self) -> bool {
        self.kind.needs_armed_lockdep() || self.assertion.is_some()
    }
}

/// What makes two reports the same bug, across boots, builds and the kernel pair. `docs/kernel-reports.md` explains.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signature {
    /// Twelve hexadecimal digits, made of `key` alone.
    pub hash: String,
    /// The same, readable.
    pub key: String,
}

/// Why a report is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// The log ended first.
    CutByEnd,
    /// Another report began first.
    CutByReport,
    /// The kernel started anew first.
    CutByReboot,
    /// Records are missing: a gap in the sequence numbers, or "printk messages dropped".
    LostRecords,
    /// It is longer than the reader keeps.
    TooLong,
    /// Other lines follow where its stack should be.
    NoStack,
}

/// A task, as the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `task->comm`, at most 15 bytes; workers may carry their workqueue's name behind a `+` or `-`.
    pub comm: String,
    /// Process id in the initial namespace.
    pub pid: u32,
}

/// One entry of a call stack.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// The symbol as printed, suffixes such as `.constprop.0` included.
    pub function: String,
    /// Bytes from the start of the function.
    pub offset: Option<u64>,
    /// The function's length in bytes.
    pub size: Option<u64>,
    /// The module, when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// False where the unwinder printed `?` or `(unreliable)`.
    pub reliable: bool,
    /// `file:line`, when the log has it or a vmlinux told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The function was inlined into the next frame.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
}

/// A named stack beside the task's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// The kernel's heading for it, without the colon.
    pub title: String,
    /// Innermost first.
    pub frames: Vec<Frame>,
}

/// What lockdep said about the locks of a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    /// The lock that was wanted, released, or changed its state.
    pub wanted: Option<Lock>,
    /// The lock that was held against it.
    pub held: Option<Lock>,
    /// The links of the cycle in the order of acquisition: each lock was once taken while the one before it was
    /// held, and the first while the last was.
    pub cycle: Vec<Lock>,
    /// The drawing under "Possible unsafe locking scenario", line by line.
    pub scenario: Vec<String>,
    /// All that the task held, outermost first, as "N locks held by" lists them.
    pub held_by_task: Vec<Lock>,
}

/// One lock as lockdep prints it: `(class#3/1){+.+.}-{3:3}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lock {
    /// The class, without the `#N` that tells equal names apart: that number moves between builds.
    pub class: String,
    /// The nesting level, `/N`; 0 is not printed.
    pub subclass: u32,
    /// The usage mask between braces, such as `+.+.`; a character a context, see
    /// Documentation/locking/lockdep-design.rst.
    pub mask: String,
    /// Outer and inner wait type, `{3:3}`.
    pub wait: Option<String>,
    /// Where it was taken: the function, when a line or stack says so.
    pub at: Option<String>,
    /// The stack that took it, innermost first; empty when none was printed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<Frame>,
}

impl Lock {
    /// Class and nesting level, as a signature names it.
    pub fn name(&self) -> String {
        if self.subclass == 0 { self.class.clone() } else { format!("{}/{}", self.class, self.subclass) }
    }
}

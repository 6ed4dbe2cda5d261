//! The data of one kernel report.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::title::INT3;
use super::{Container, Kind};

/// One report of one of the kernel's own checkers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The kind of failure.
    pub kind: Kind,
    /// A summary of one line, for display.
    pub title: String,
    /// The identity of the bug: reports with equal signatures are about the same bug.
    pub signature: Signature,
    /// The first and the last line of the report in the log, counted from 1.
    pub lines: RangeInclusive<u64>,
    /// The reason why the report is incomplete; `None` if it is complete.
    pub corrupted: Option<Corruption>,
    /// The kernel's clock at the headline, in microseconds since boot.
    pub time: Option<u64>,
    /// The task that was running.
    pub process: Option<Process>,
    /// The CPU it was running on.
    pub cpu: Option<u32>,
    /// The function to blame: the first one in the stack that is not a helper of a checker or a
    /// lock.
    pub blame: Option<String>,
    /// The `lockdep_assert_*` helper that printed a WARNING. It prints nothing while lockdep is
    /// off.
    pub assertion: Option<String>,
    /// `file:line` of a WARNING, a BUG or an RCU complaint, as the kernel printed it.
    pub source: Option<String>,
    /// The text of the checker: a WARN's message, KASAN's "slab-use-after-free Read", a panic's
    /// reason.
    pub detail: Option<String>,
    /// The stack of the task that the report is about, innermost first.
    pub frames: Vec<Frame>,
    /// Further stacks: of the allocation, of the free, of each link of a lock cycle, of other CPUs.
    pub stacks: Vec<Stack>,
    /// The locks that lockdep printed.
    pub locks: Option<Locks>,
    /// The reason of the panic that this report led to, as the kernel printed it.
    pub panic: Option<String>,
    /// How its text came into the log that was read. Reports of a kernel's own log have the
    /// default.
    #[serde(default, skip_serializing_if = "is_plain")]
    pub excerpt: Excerpt,
}

/// How the text of a report came into the log that was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// What the log stands in.
    pub container: Container,
    /// A person or a program quotes the report: it stands in a mail or a page, or after `> `.
    pub quoted: bool,
    /// A mail client broke its lines, so that frames may be missing.
    pub wrapped: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_plain(excerpt: &Excerpt) -> bool {
    *excerpt == Excerpt::default()
}

impl Report {
    /// Whether only an armed lockdep can print this report. If so, its absence from a log in which
    /// lockdep was off is no evidence.
    pub fn needs_armed_lockdep(&self) -> bool {
        self.kind.needs_armed_lockdep() || self.assertion.is_some()
    }

    /// Whether this is the Oops of a CPU that ran a breakpoint which nothing in the kernel handles.
    pub fn is_of_breakpoint(&self) -> bool {
        self.kind == Kind::Oops && self.detail.as_deref() == Some(INT3)
    }
}

/// The identity of a bug, which is the same in every boot and build.
///
/// The key consists of the kind and the parts that identify a bug of this kind, such as the lock
/// classes of a cycle, or the text of the checker and the function to blame. It contains no
/// addresses, offsets, line numbers, CPUs, pids, times, or suffixes that the compiler adds to the
/// name of a function. `docs/kernel-reports.md` in the repository lists the parts for each kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signature {
    /// The first twelve hexadecimal digits of the BLAKE3 hash of `key`.
    pub hash: String,
    /// The readable form: the name of the kind and the parts, separated by ` | `.
    pub key: String,
}

/// The reason why a report is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// The log ended before the report did.
    CutByEnd,
    /// Another report began before this one ended.
    CutByReport,
    /// The kernel started again before the report ended.
    CutByReboot,
    /// Records are missing: a gap in the sequence numbers, or "printk messages dropped".
    LostRecords,
    /// The report exceeds a limit of the scanner: its own lines or bytes, or the number of open
    /// reports.
    TooLong,
    /// Other lines follow in the place of its stack.
    NoStack,
}

/// A task, as the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `task->comm`, at most 15 bytes. Workers may have the name of their workqueue after a `+` or
    /// `-`.
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
    /// The module that the function belongs to, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// False where the unwinder printed `?` or `(unreliable)`.
    pub reliable: bool,
    /// `file:line`, from the log or from a vmlinux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The function was inlined into the next frame.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
}

/// A further stack, with its heading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// The kernel's heading for it, without the colon.
    pub title: String,
    /// The frames, innermost first.
    pub frames: Vec<Frame>,
}

/// The locks that lockdep printed in a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    /// The lock that the task tried to take or release, or whose state changed.
    pub wanted: Option<Lock>,
    /// The held lock that conflicts with it.
    pub held: Option<Lock>,
    /// The locks of the cycle, in the order of acquisition: each was once taken while the one
    /// before it was held, and the first while the last was held.
    pub cycle: Vec<Lock>,
    /// The diagram under "Possible unsafe locking scenario", line by line.
    pub scenario: Vec<String>,
    /// All locks that the task held, outermost first, as "N locks held by" lists them.
    pub held_by_task: Vec<Lock>,
}

/// One lock as lockdep prints it: `(class#3/1){+.+.}-{3:3}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lock {
    /// The class, without the `#N` that distinguishes equal names: this number changes between
    /// builds.
    pub class: String,
    /// The nesting level, `/N`. Lockdep does not print level 0.
    pub subclass: u32,
    /// The usage mask between braces, such as `+.+.`. It has one character for each context, see
    /// Documentation/locking/lockdep-design.rst.
    pub mask: String,
    /// Outer and inner wait type, `{3:3}`.
    pub wait: Option<String>,
    /// The function that took the lock, if a line or a stack names it.
    pub at: Option<String>,
    /// The stack that took the lock, innermost first; empty if the log has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<Frame>,
}

impl Lock {
    /// The class and the nesting level, in the form that signatures contain.
    pub fn name(&self) -> String {
        if self.subclass == 0 { self.class.clone() } else { format!("{}/{}", self.class, self.subclass) }
    }
}

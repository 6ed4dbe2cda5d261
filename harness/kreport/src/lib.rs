//! Finds the reports of a Linux kernel's own checkers in its log, and identifies the bug behind
//! each.
//!
//! A report is the text that the kernel prints when a check fails: a WARN, an Oops, a lockdep
//! splat, a KASAN report, an RCU stall, a panic. [`Kind`] lists all of them. [`scan`] reads a whole
//! log, and a [`Scanner`] reads a log that still grows. Each [`Report`] holds the task, the CPU,
//! the call stacks, the locks, the function to blame, and a [`Signature`] that is the same in every
//! boot and build. [`fold`] groups reports by bug.
//!
//! ```
//! use hotplug_kreport::{Kind, scan};
//!
//! let log = b"\
//! [   10.000000] ------------[ cut here ]------------
//! [   10.000000] WARNING: CPU: 1 PID: 27 at kernel/cpu.c:347 lockdep_assert_cpus_held+0x38/0x50
//! [   10.000000] CPU: 1 PID: 27 Comm: kworker/u8:1 Not tainted 6.1.192 #2
//! [   10.000000] RIP: 0010:lockdep_assert_cpus_held+0x38/0x50
//! [   10.000000] Call Trace:
//! [   10.000000]  <TASK>
//! [   10.000000]  flush_all_cpus_locked+0x2a/0x130
//! [   10.000000]  slab_memory_callback+0x7c/0x110
//! [   10.000000]  </TASK>
//! [   10.000000] ---[ end trace 0000000000000000 ]---
//! ";
//! let reports = scan(log);
//! assert_eq!(reports.len(), 1);
//! assert_eq!(reports[0].kind, Kind::Warning);
//! assert_eq!(reports[0].title, "WARNING: lockdep_assert_cpus_held in flush_all_cpus_locked");
//! assert_eq!(reports[0].blame.as_deref(), Some("flush_all_cpus_locked"));
//! ```
//!
//! # What it reads
//! - Logs as bytes, from the serial console, `dmesg` (plain, `-x`, `-T`, ISO times), `journalctl`
//!   (text and JSON), syslog, `/dev/kmsg` and CI systems. Timestamps, levels, caller ids, host
//!   names, colours and carriage returns are removed.
//! - Logs that a mail or a page of an issue tracker quotes ([`Excerpt`]), with one prefix before all
//!   lines, and with lines that a mail client broke.
//! - Lines in which the kernel refuses hotplug ([`Scanner::with_refusals`]).
//! - Reports of all architectures and of old kernels, as far as the table of forms has them.
//! - Hostile input: bytes need not be UTF-8, no log causes an error, and memory is bounded. A line
//!   counts up to 16 KiB, a report up to 4000 lines or 512 KiB, and 16 reports can be open at once.
//! - A vmlinux with debug information, for source lines and inlined functions
//!   ([`symbols::Symbols`]).
//! - The text of a TOML file of known issues ([`KnownIssues`]).
//!
//! # What it does not read
//! - Lines that syslog, the journal or `/dev/kmsg` attribute to a program.
//! - Logs that a commit message, a patch, documentation or source code quotes. They are counted
//!   ([`LeftOut`]).
//! - Compressed logs and memory dumps. Only [`symbols::Symbols::open`] reads a file.
//! - Missing lines: nothing is guessed, and an incomplete report has [`Report::corrupted`] set.
//! - Lines that two CPUs printed at the same time, if the log has no caller ids
//!   (`CONFIG_PRINTK_CALLER`): they cannot be separated.
//! - Debug information of modules: their frames get no source lines.
//!
//! # Modules
//! `docs/kernel-reports.md` in the repository lists the kinds and shows how a signature is made.
//! [`Scanner`] finds the lines that can begin a report (`triggers`). `line`, `prefix` and `quote`
//! remove the text that the kernel did not print, `join` repairs lines, and `container` tells a log
//! from a text that quotes one. `grouper` groups lines into reports by caller. `patterns` is the
//! table of first lines, `body` classifies the lines after them, and `assemble` makes the
//! [`Report`], which leaves by way of `outbox` and `echo`.

mod assemble;
mod blame;
mod body;
mod container;
mod dedup;
mod echo;
mod error;
mod frame;
mod grouper;
mod join;
mod kind;
mod known;
mod line;
mod locks;
mod outbox;
mod partial;
mod patterns;
mod prefix;
mod quote;
mod refusal;
mod refusal_forms;
mod report;
mod ring;
mod scanner;
mod signature;
mod stacks;
pub mod symbols;
#[cfg(test)]
mod tests;
mod title;
mod triggers;

pub use blame::is_machinery;
pub use container::{Container, LeftOutReason};
pub use dedup::{Bugs, Folded, fold};
pub use error::InputError;
pub use frame::plain_name;
pub use kind::Kind;
pub use known::{KnownIssue, KnownIssues};
pub use outbox::LeftOut;
pub use refusal::{Refusal, Refused, refusals_of};
pub use report::{Corruption, Excerpt, Frame, Lock, Locks, Process, Report, Signature, Stack};
pub use ring::draw_ring;
pub use scanner::{Remainder, Scanner, scan, scan_own};
pub use signature::same_bug;

/// The kind of the report that a line begins, or `None` if it begins none. `text` is the kernel's
/// text, without a timestamp or another prefix.
pub fn headline(text: &str) -> Option<Kind> {
    patterns::find(text).map(|form| form.kind)
}

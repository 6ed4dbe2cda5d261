//! Kernel log -> reports -> signatures. Pure: bytes come in by [`Scanner::feed`], reports go out.
//!
//! `docs/kernel-reports.md` lists the kinds and says how a signature is made. Inside: [`Scanner`] finds lines that
//! can begin a report (`triggers`), `line` and `prefix` strip what is not the kernel's, `gather` sorts lines into
//! reports by caller, `forms` is the table of first lines, `body` knows the lines behind them, and `assemble` makes
//! the [`Report`].

mod assemble;
mod blame;
mod body;
mod error;
mod fold;
mod forms;
mod frame;
mod gather;
mod kind;
mod known;
mod line;
mod locks;
mod open;
mod prefix;
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
pub use error::Error;
pub use fold::{Bugs, Folded, fold};
pub use frame::plain_name;
pub use kind::Kind;
pub use known::{KnownIssue, KnownIssues};
pub use report::{Corruption, Frame, Lock, Locks, Process, Report, Signature, Stack};
pub use ring::draw_ring;
pub use scanner::{Scanner, scan};
pub use signature::same_bug;

/// The kind of report that a line of the kernel's begins, with its prefix taken off; none where it begins no report.
pub fn headline(text: &str) -> Option<Kind> {
    forms::find(text).map(|form| form.kind)
}

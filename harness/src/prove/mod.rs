//! Proves that the harness finds known bugs ([`crate::known_bugs`]), and reports nothing that is
//! not there.

mod outcome;
mod result;
mod run;

pub use outcome::{ComparedEntry, EntryResult, Sight, Totals};
pub use result::ProveResult;
pub use run::{ProveSpec, Proving, prove};

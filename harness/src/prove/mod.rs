//! Whether known bugs are found ([`crate::known_bugs`]), and nothing that is not there.

mod outcome;
mod result;
mod run;

pub use outcome::{EntryResult, Sight, Totals, Tried};
pub use result::ProveResult;
pub use run::{ProveSpec, Proving, prove};

//! Known bugs: patches that introduce one each, and the findings that are expected of each.
//! `docs/known-bugs.md` describes the entries.

mod card;
mod suite;

pub use card::{Card, Expected, Follows, Origin, SeriesPatches, Sure};
pub use suite::{Entry, Group, Suite};

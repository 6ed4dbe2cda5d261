//! Known bugs: kernels that are known to go wrong, and whether the harness sees it. `docs/known-bugs.md` describes the
//! entries. Pure, but for reading and writing the suite's files.

mod card;
mod outcome;
mod suite;

pub use card::{Card, Expected, Follows, Origin, Series, Sure};
pub use outcome::{EntryResult, Group, Sight, Totals, Tried};
pub use suite::{Entry, Suite};

//! Known bugs: patches that bring one, and what each is expected to show. `docs/known-bugs.md` describes the entries.

mod card;
mod suite;

pub use card::{Card, Expected, Follows, Origin, Series, Sure};
pub use suite::{Entry, Group, Suite};

//! The two sides of a comparison.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which kernel of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Without the patch.
    Before,
    /// With it.
    After,
}

impl Side {
    /// Both, in their order.
    pub const BOTH: [Self; 2] = [Self::Before, Self::After];

    /// The one that it is compared with.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Before => Self::After,
            Self::After => Self::Before,
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// One value a side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sides<T> {
    /// Without the patch.
    pub before: T,
    /// With it.
    pub after: T,
}

impl<T> Sides<T> {
    /// One side's.
    pub fn of(&self, side: Side) -> &T {
        match side {
            Side::Before => &self.before,
            Side::After => &self.after,
        }
    }

    /// One side's, to be changed.
    pub fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Before => &mut self.before,
            Side::After => &mut self.after,
        }
    }

    /// The same of each.
    pub fn map<U>(self, mut to: impl FnMut(T) -> U) -> Sides<U> {
        Sides { before: to(self.before), after: to(self.after) }
    }
}

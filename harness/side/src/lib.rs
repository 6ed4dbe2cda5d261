//! The two sides of a comparison.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One kernel of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The kernel without the patch.
    Before,
    /// The kernel with the patch.
    After,
}

impl Side {
    /// Both sides, in their order.
    pub const BOTH: [Self; 2] = [Self::Before, Self::After];

    /// The side that this one is compared with.
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

/// One value for each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sides<T> {
    /// The value of the kernel without the patch.
    pub before: T,
    /// The value of the kernel with the patch.
    pub after: T,
}

impl<T> Sides<T> {
    /// The value of one side.
    pub fn of(&self, side: Side) -> &T {
        match side {
            Side::Before => &self.before,
            Side::After => &self.after,
        }
    }

    /// The value of one side, to be changed.
    pub fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Before => &mut self.before,
            Side::After => &mut self.after,
        }
    }

    /// Applies a function to the value of each side.
    pub fn map<U>(self, mut to: impl FnMut(T) -> U) -> Sides<U> {
        Sides { before: to(self.before), after: to(self.after) }
    }
}

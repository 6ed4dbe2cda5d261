//! The clock of a guest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The clock that guest time follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The host's time.
    #[default]
    Wall,
    /// The number of executed instructions, one a nanosecond, under TCG with all CPUs taking turns
    /// in one thread. While all CPUs are idle, the clock jumps to the next timer
    /// (docs/devel/tcg-icount.rst of QEMU, `-icount` in its manual).
    Exact,
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Wall => "wall",
            Self::Exact => "exact",
        })
    }
}

//! The reason why a result is not available.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The reason why something that was requested is not available. A result without a reason and
/// without content would read as "nothing was found".
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Unavailable(String);

impl Unavailable {
    /// Creates the reason from a clause without a full stop.
    pub fn because(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl std::ops::Deref for Unavailable {
    type Target = str;

    /// The reason.
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

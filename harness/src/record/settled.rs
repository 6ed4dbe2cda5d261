//! A verdict that needed no trial.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A verdict that needed no trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Settled {
    /// Both kernels are the same, bit for bit.
    Identical,
    /// The after kernel does not compile, and the before kernel does.
    DoesNotCompile {
        /// The first line of the first error.
        first: String,
        /// The lines of the first error, with paths relative to the source.
        lines: Vec<String>,
        /// The file with the whole output of `make`, in the run's folder.
        log: String,
    },
}

impl std::fmt::Display for Settled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Identical => f.write_str("both kernels are the same, bit for bit"),
            Self::DoesNotCompile { first, .. } => write!(f, "the after kernel does not compile: {first}"),
        }
    }
}

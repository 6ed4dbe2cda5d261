//! A verdict that needed no trial.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A verdict that needed no trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Settled {
    /// Both kernels are the same, bit for bit.
    Identical {
        /// Files that the patches change and that these kernels are not built from, so that the
        /// kernels say nothing about the change.
        not_built: Vec<String>,
    },
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
            Self::Identical { not_built } if not_built.is_empty() => {
                f.write_str("both kernels are the same, bit for bit")
            }
            Self::Identical { not_built } => {
                write!(
                    f,
                    "both kernels are the same, because they are built without {}",
                    not_built.join(", ")
                )
            }
            Self::DoesNotCompile { first, .. } => write!(f, "the after kernel does not compile: {first}"),
        }
    }
}

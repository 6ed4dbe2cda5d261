//! What can be wrong with the files that the reader is given.

use std::path::PathBuf;

/// What lies behind an error.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// A vmlinux or a file of known issues that cannot be used. A kernel log never causes an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is no vmlinux, or has no symbols.
    #[error("cannot read symbols from {}", path.display())]
    Symbols {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Source,
    },
    /// A file of known issues is not the TOML that is expected.
    #[error("{file} does not parse")]
    Syntax {
        /// The name of the file.
        file: String,
        /// Why, with the place.
        source: toml::de::Error,
    },
    /// An entry of such a file names no report, or names it in a way that is not understood.
    #[error("known issue {reason:?}: {what}")]
    KnownIssue {
        /// The reason that the entry gives.
        reason: String,
        /// What is wrong with it.
        what: String,
        /// Why, where a library reported it.
        source: Option<Source>,
        /// What to write instead.
        help: Option<&'static str>,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Symbols { .. } => {
                Some("give the vmlinux of the build (ELF, with CONFIG_DEBUG_INFO), not its bzImage")
            }
            Self::Syntax { .. } => None,
            Self::KnownIssue { help, .. } => *help,
        }
    }
}

//! Errors in the files that the crate reads besides logs.

use std::path::PathBuf;

/// The underlying error.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// A vmlinux or a file of known issues that cannot be used. A kernel log never causes an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The file is not a vmlinux, or it has no symbols.
    #[error("cannot read symbols from {}", path.display())]
    Symbols {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Source,
    },
    /// A file of known issues is not valid TOML, or it has another structure than expected.
    #[error("{file} does not parse")]
    Syntax {
        /// The name of the file.
        file: String,
        /// The reason, with its position in the file.
        source: toml::de::Error,
    },
    /// An entry of such a file selects no report, or one of its values is invalid.
    #[error("known issue {reason:?}: {what}")]
    KnownIssue {
        /// The reason that the entry gives.
        reason: String,
        /// The mistake in the entry.
        what: String,
        /// The underlying error, if a library reported it.
        source: Option<Source>,
        /// The correction to make.
        help: Option<&'static str>,
    },
}

impl InputError {
    /// The text for a `help:` line, which tells the user how to fix the error.
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

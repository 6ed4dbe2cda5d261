//! The one error type of the harness: what happened, whose fault it was, and how to mend it.

use std::fmt;

/// Whose fault an error was. Decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The user's: a missing file, a patch that does not apply, an option that does not exist. Exit status 2.
    User,
    /// The machine's or ours: QEMU died, a disk is full. Exit status 4.
    Infrastructure,
    /// Ctrl-C. Exit status 130, as a shell gives it.
    Interrupted,
}

/// One clear message: the thing, the evidence, the mend.
#[derive(Debug)]
pub struct Error {
    blame: Blame,
    what: String,
    detail: Option<String>,
    mend: Option<String>,
}

/// The harness's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The user can mend it. `what` names the thing, in lower case, without a full stop.
    pub fn user(what: impl fmt::Display) -> Self {
        Self::new(Blame::User, what)
    }

    /// The machine or the harness is at fault.
    pub fn infrastructure(what: impl fmt::Display) -> Self {
        Self::new(Blame::Infrastructure, what)
    }

    /// Ctrl-C.
    pub fn interrupted() -> Self {
        Self::new(Blame::Interrupted, "interrupted")
    }

    fn new(blame: Blame, what: impl fmt::Display) -> Self {
        Self { blame, what: what.to_string(), detail: None, mend: None }
    }

    /// Adds the evidence: the hunk, the compiler's lines, the place in a file. May have several lines.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string().trim_end().to_owned());
        self
    }

    /// Adds what to do about it, best as a command.
    #[must_use]
    pub fn mend(mut self, mend: impl fmt::Display) -> Self {
        self.mend = Some(mend.to_string());
        self
    }

    /// Whose fault it was.
    pub fn blame(&self) -> Blame {
        self.blame
    }

    /// The process's exit status for it.
    pub fn exit_status(&self) -> u8 {
        match self.blame {
            Blame::User => 2,
            Blame::Infrastructure => 4,
            Blame::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(detail) = &self.detail {
            for line in detail.lines() {
                write!(f, "\n    {line}")?;
            }
        }
        match &self.mend {
            Some(mend) => write!(f, "\n  mend: {mend}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// An I/O error says its path (fs-err) and is the machine's fault unless the caller knows better.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        let this = Self::infrastructure(error);
        if full {
            this.mend("free some space; `hotplug kernel prune` empties the kernel cache")
        } else {
            this
        }
    }
}

//! The one error type of the harness: what happened, whose fault it was, and what helps.

use std::fmt;

use hotplug_lockorder::LayoutError;

/// Whose fault an error was. Decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The user's: a missing file, a patch that does not apply, an option that does not exist. Exit status 2.
    User,
    /// The machine's or ours: QEMU died, a disk is full. Exit status 4.
    Infrastructure,
    /// Ctrl-C. Exit status 130, as a shell gives it.
    Interrupted,
}

/// One clear message: the thing, the evidence, the help.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    detail: Option<String>,
    help: Option<String>,
}

/// The harness's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The user can correct it. `what` names the thing, in lower case, without a full stop.
    pub fn user(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::User, what)
    }

    /// The machine or the harness is at fault.
    pub fn infrastructure(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Infrastructure, what)
    }

    /// Ctrl-C.
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted")
    }

    fn new(kind: ErrorKind, what: impl fmt::Display) -> Self {
        Self { kind, what: what.to_string(), detail: None, help: None }
    }

    /// Adds the evidence: the hunk, the compiler's lines, the place in a file. May have several lines.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string().trim_end().to_owned());
        self
    }

    /// Adds what to do about it, best as a command.
    #[must_use]
    pub fn help(mut self, help: impl fmt::Display) -> Self {
        self.help = Some(help.to_string());
        self
    }

    /// Whose fault it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The process's exit status for it.
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            ErrorKind::User => 2,
            ErrorKind::Infrastructure => 4,
            ErrorKind::Interrupted => 130,
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
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
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
            this.help("free some space; `hotplug kernel prune` empties the kernel cache")
        } else {
            this
        }
    }
}

impl From<hotplug_kreport::Error> for Error {
    fn from(error: hotplug_kreport::Error) -> Self {
        let mut this = Self::user(&error);
        this.help = error.help().map(str::to_owned);
        match std::error::Error::source(&error) {
            Some(source) => this.detail(source),
            None => this,
        }
    }
}

impl From<LayoutError> for Error {
    fn from(error: LayoutError) -> Self {
        let help = error.help().map(str::to_owned);
        match error {
            LayoutError::Io(error) => error.into(),
            error @ LayoutError::Unknown { .. } => Self { help, ..Self::user(error) },
        }
    }
}

//! The error type of the harness: a message, the party at fault, and help.

use std::fmt;
use std::path::PathBuf;

use hotplug_lockorder::LayoutError;
use hotplug_side::Side;

/// The party at fault. It determines the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The user: a missing file, a patch that does not apply, an option that does not exist. Exit
    /// status 2.
    User,
    /// The machine or the harness: QEMU died, a disk is full. Exit status 4.
    Infrastructure,
    /// Ctrl-C. Exit status 130, which a shell also uses.
    Interrupted,
}

/// A kernel that `make` could not build because of its source, its patches or its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedBuild {
    /// The side of the kernel.
    pub side: Side,
    /// The first line of the first error.
    pub first: String,
    /// The lines of the first error, or the last lines of the build, with paths relative to the
    /// source.
    pub lines: Vec<String>,
    /// The whole output of `make`.
    pub log: PathBuf,
}

/// One clear message, with evidence and help.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    detail: Option<String>,
    help: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    build: Option<Box<FailedBuild>>,
    patch: Option<Box<str>>,
}

/// The harness's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that the user can correct. `what` is the message, in lower case, without a full
    /// stop.
    pub fn user(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::User, what)
    }

    /// An error of the machine or the harness.
    pub fn infrastructure(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Infrastructure, what)
    }

    /// The error after Ctrl-C.
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted")
    }

    fn new(kind: ErrorKind, what: impl fmt::Display) -> Self {
        Self {
            kind,
            what: what.to_string(),
            detail: None,
            help: None,
            source: None,
            build: None,
            patch: None,
        }
    }

    /// Adds the evidence: the hunk, the compiler's lines, the place in a file. It may have several
    /// lines.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string().trim_end().to_owned());
        self
    }

    /// Adds the remedy, preferably as a command.
    #[must_use]
    pub fn help(mut self, help: impl fmt::Display) -> Self {
        self.help = Some(help.to_string());
        self
    }

    /// Keeps the error behind this one. The message already has its words.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Records the build that failed.
    #[must_use]
    pub(crate) fn of_build(mut self, build: FailedBuild) -> Self {
        self.build = Some(Box::new(build));
        self
    }

    /// The build that failed, if the source, a patch or the configuration of a kernel is at fault.
    pub fn failed_build(&self) -> Option<&FailedBuild> {
        self.build.as_deref()
    }

    /// Records the patch that does not apply.
    #[must_use]
    pub(crate) fn of_patch(mut self, patch: &str) -> Self {
        self.patch = Some(patch.into());
        self
    }

    /// The name of the patch that does not apply, if that is the reason. It begins with its file.
    pub fn unapplied_patch(&self) -> Option<&str> {
        self.patch.as_deref()
    }

    /// The party at fault.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message with its evidence, in one line and without the remedy.
    pub fn in_one_line(&self) -> String {
        let lines = self.detail.iter().flat_map(|detail| detail.lines().map(str::trim));
        [self.what.as_str()].into_iter().chain(lines).collect::<Vec<_>>().join("; ")
    }

    /// The remedy, if there is one.
    pub fn remedy(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The process's exit status for this error.
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Converts an I/O error. Its message has the path (fs-err), and the machine is at fault unless the
/// caller makes a user error of it.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        let this = Self::infrastructure(&error).caused_by(error);
        if full {
            this.help("free some space; `hotplug kernel prune` empties the kernel cache")
        } else {
            this
        }
    }
}

impl From<hotplug_kreport::InputError> for Error {
    fn from(error: hotplug_kreport::InputError) -> Self {
        let mut this = Self::user(&error);
        this.help = error.help().map(str::to_owned);
        if let Some(source) = std::error::Error::source(&error) {
            this = this.detail(source);
        }
        this.caused_by(error)
    }
}

impl From<LayoutError> for Error {
    fn from(error: LayoutError) -> Self {
        let help = error.help().map(str::to_owned);
        match error {
            LayoutError::Io(error) => error.into(),
            error @ LayoutError::Unknown { .. } => Self { help, ..Self::user(&error) }.caused_by(error),
        }
    }
}

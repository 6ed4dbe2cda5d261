//! Programs of the user that run in the guest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The folder in the guest that has the files of the user's programs: those of the program `a` are
/// in `/programs/a`.
pub const PROGRAMS: &str = "/programs";

/// The folder in the guest that the user's programs have as their root, if there is one.
pub const ROOTFS: &str = "/rootfs";

/// The folders in which a program without a path is looked for, as in `PATH`.
pub const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program of the user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramRun {
    /// Its name in the scenario.
    pub name: String,
    /// The file and its arguments.
    pub run: Vec<String>,
    /// Its environment, in addition to `PATH` and `HOME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Its working folder, below its root.
    pub folder: String,
    /// Whether [`ROOTFS`] is its root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_rootfs: bool,
    /// CPUs that it may run on, all of them online at its start; any if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// The time after which it and all that it started are killed, in milliseconds.
    pub limit_ms: u64,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgramEnd {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It was killed at its limit.
    TimedOut,
}

impl std::fmt::Display for ProgramEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Signalled(signal) => write!(f, "ended by signal {signal}"),
            Self::TimedOut => f.write_str("killed at its limit"),
        }
    }
}

/// The result of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// How it ended.
    pub end: ProgramEnd,
    /// What it printed on both outputs: the beginning, and the end.
    pub output: Output,
}

/// The output of a program. Bytes that are not UTF-8 are replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The beginning.
    pub start: String,
    /// The number of bytes between the beginning and the end, which were not kept.
    #[serde(default)]
    pub left_out: u64,
    /// The end. Empty if the beginning is all.
    #[serde(default)]
    pub end: String,
}

impl Output {
    /// Its last line that is not blank.
    pub fn last_line(&self) -> &str {
        let last = |text: &'_ str| -> Option<usize> { text.trim_end().rfind('\n').map(|at| at + 1) };
        let text = if self.end.trim().is_empty() { &self.start } else { &self.end };
        text.trim_end().get(last(text).unwrap_or(0)..).unwrap_or_default().trim()
    }
}

//! A place in the kernel where a task or a vCPU can be held.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether `name` can be the name of a function.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A place in the kernel where a task or a vCPU can be held.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub enum Point {
    /// The first instruction of a function: `offline_pages`.
    Entry(String),
    /// The instruction that a function has just returned to: `offline_pages:return`.
    Return(String),
    /// The first instruction of a source line: `mm/memory_hotplug.c:1820`.
    Line {
        /// Path from the top of the kernel's source.
        file: String,
        /// Line number, from 1.
        line: u32,
    },
    /// A place of one of the other kinds that only one kernel has to have: `new_function?`.
    IfAny(Box<Self>),
}

impl Point {
    /// Whether the place is the entry of a function.
    pub fn is_entry(&self) -> bool {
        match self {
            Self::Entry(_) => true,
            Self::IfAny(point) => point.is_entry(),
            Self::Return(_) | Self::Line { .. } => false,
        }
    }

    /// Whether the place is the return of a function.
    pub fn is_return(&self) -> bool {
        match self {
            Self::Return(_) => true,
            Self::IfAny(point) => point.is_return(),
            Self::Entry(_) | Self::Line { .. } => false,
        }
    }

    /// The function that the place names, if it names one.
    pub fn function(&self) -> Option<&str> {
        match self {
            Self::Entry(name) | Self::Return(name) => Some(name),
            Self::Line { .. } => None,
            Self::IfAny(point) => point.function(),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(name) => f.pad(name),
            Self::Return(name) => f.pad(&format!("{name}:return")),
            Self::Line { file, line } => f.pad(&format!("{file}:{line}")),
            Self::IfAny(point) => f.pad(&format!("{point}?")),
        }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(point) = text.strip_suffix('?').filter(|point| !point.ends_with('?')) {
            return Ok(Self::IfAny(Box::new(point.parse()?)));
        }
        let is_file = |file: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
            [".c", ".h", ".S"].iter().any(|end| file.ends_with(end))
                && !file.starts_with('/')
                && file.chars().all(plain)
        };
        let found = match text.split_once(':') {
            None if is_name(text) => Some(Self::Entry(text.to_owned())),
            Some((name, "return")) if is_name(name) => Some(Self::Return(name.to_owned())),
            Some((file, line)) if is_file(file) => {
                let line = line.parse().ok().filter(|line| *line > 0);
                line.map(|line| Self::Line { file: file.to_owned(), line })
            }
            _ => None,
        };
        found.ok_or_else(|| {
            format!(
                "`{text}` is not a place to hold at; write \"offline_pages\", \"offline_pages:return\" or \
                 \"mm/memory_hotplug.c:1820\""
            )
        })
    }
}

impl From<Point> for String {
    fn from(point: Point) -> Self {
        point.to_string()
    }
}

impl TryFrom<String> for Point {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::Point;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for text in [
            "offline_pages",
            "offline_pages:return",
            "mm/memory_hotplug.c:1820",
            "arch/x86/entry/entry_64.S:9",
            "f?",
            "mm/x.c:3?",
        ] {
            assert_eq!(text.parse::<Point>().unwrap().to_string(), text);
        }
        for wrong in
            ["", "a b", "f:enter", "mm/x.c:0", "mm/x.c", "/mm/x.c:1", "f()", "mm/x:3", "a..b", "*", "f??"]
        {
            let error = wrong.parse::<Point>().unwrap_err();
            assert!(error.contains("offline_pages:return") && error.contains('`'), "{error}");
        }
    }
}

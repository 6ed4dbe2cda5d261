//! A mark for the comparison that began last and has no folder yet. Without it, `last` would name
//! an older run after a comparison that failed or was killed before its run began, and a CI job
//! would show yesterday's verdict as today's.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{read_json_if_there, remove_file, write_json};
use crate::{Error, Result};

/// The name of the mark, in the folder of the results.
const FILE: &str = "unfinished.json";

/// A comparison without a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unfinished {
    /// When it began, in UTC.
    pub(super) began: jiff::Timestamp,
    /// Its command line.
    pub(super) command: Vec<String>,
    /// Why it failed. Null if it runs, or if it was killed.
    pub(super) error: Option<String>,
}

/// Marks that a comparison begins. A folder that does not exist has no older run, and is not
/// created.
pub fn begins(results: &Path, command: &[String]) -> Result<()> {
    if !results.is_dir() {
        return Ok(());
    }
    let mark = Unfinished { began: jiff::Timestamp::now(), command: command.to_vec(), error: None };
    write_json(&results.join(FILE), &mark)
}

/// Adds to the mark that the comparison failed. If its run has a folder, there is no mark.
pub fn failed(results: &Path, error: &Error) -> Result<()> {
    match read(results)? {
        Some(mark) => {
            write_json(&results.join(FILE), &Unfinished { error: Some(error.in_one_line()), ..mark })
        }
        None => Ok(()),
    }
}

/// Removes the mark: the run has a folder.
pub(super) fn has_folder(results: &Path) -> Result<()> {
    remove_file(&results.join(FILE))
}

/// The comparison that is marked.
pub(super) fn read(results: &Path) -> Result<Option<Unfinished>> {
    read_json_if_there(&results.join(FILE))
}

impl Unfinished {
    /// The error for a reader who asks for the newest run.
    pub(super) fn error(&self) -> Error {
        let began = self.began.strftime("%Y-%m-%d %H:%M:%S UTC");
        let error = match &self.error {
            Some(why) => Error::user(format!("the newest comparison, of {began}, has no result: {why}")),
            None => Error::user(format!(
                "the newest comparison, of {began}, has no result: it has not begun its trials, or was killed"
            )),
        };
        error.detail(self.command.join(" ")).help("name an older run by its folder, or the start of its name")
    }
}

//! Reads the records of a run.

use std::path::Path;

use super::{Run, RunResult};
use crate::{Error, Result, files};

/// Reads the `run.json` of the run in `folder`.
pub fn read_run(folder: &Path) -> Result<Run> {
    let path = folder.join("run.json");
    let text = fs_err::read(&path).map_err(|error| {
        Error::user(format!("{} is not the folder of a run: {error}", folder.display())).help(
            "name a folder below results/; a run without run.json ended before its first trial and must be started again",
        )
    })?;
    files::parse_json(&path, &text)
}

/// Reads the `result.json` of the run in `folder`.
pub fn read_result(folder: &Path) -> Result<RunResult> {
    let path = folder.join("result.json");
    let text = fs_err::read(&path).map_err(|error| {
        Error::user(format!("{} is not the folder of a finished run: {error}", folder.display()))
            .help("name a folder below results/; hotplug compare --continue resumes an interrupted run")
    })?;
    files::parse_json(&path, &text)
}

//! All formats of a result in one folder, for a CI job that keeps them.

use std::path::Path;

use super::cases::cases;
use super::{github, gitlab, junit, kcidb, ktap, mail, page, patchwork, terminal};
use crate::record::RunResult;
use crate::{Error, Result, environment, files};

/// The names of the files, in the order in which they are made.
const NAMES: [&str; 11] = [
    "screen.txt",
    "report.html",
    "mail.txt",
    "junit.xml",
    "ktap.txt",
    "github-summary.md",
    "github-annotations.txt",
    "gitlab-code-quality.json",
    "kcidb.json",
    "patchwork.json",
    "result.json",
];

/// Writes a result into `to`, in every format. `folder` is the run's, `origin` the name of the CI
/// system, and `url` where the page will be.
pub fn write(to: &Path, folder: &Path, result: &RunResult, origin: &str, url: Option<&str>) -> Result<()> {
    let cases = cases(result);
    let about = environment::about(folder, &result.run).unwrap_or_default();
    let screen = anstream::adapter::strip_str(&terminal::screen(result, folder)).to_string();
    let all = [
        screen,
        page::html(folder, result)?,
        mail::mail(result, &about, folder),
        junit::junit(result)?,
        ktap::ktap(&result.run.scenario, &cases),
        github::summary(result, &cases),
        github::annotations(result, &cases),
        gitlab::code_quality(result, &cases)?,
        kcidb::kcidb(result, &cases, origin)?,
        patchwork::checks(result, &cases, url)?,
        serde_json::to_string_pretty(result).map_err(Error::infrastructure)?,
    ];
    fs_err::create_dir_all(to)?;
    for (name, text) in NAMES.into_iter().zip(all) {
        files::write_whole(&to.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Writes that a comparison failed before its run began. Files of an earlier run are removed, so
/// that none of them is taken for its result.
pub fn write_failed(to: &Path, error: &Error) -> Result<()> {
    fs_err::create_dir_all(to)?;
    for name in NAMES {
        files::remove_file(&to.join(name))?;
    }
    files::write_whole(&to.join("screen.txt"), format!("hotplug: {error}\n").as_bytes())?;
    Ok(files::write_whole(&to.join("junit.xml"), junit::failed(error)?.as_bytes())?)
}

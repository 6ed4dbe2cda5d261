//! `hotplug report`: prints a finished comparison for mails and CI systems.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use super::results::ResultsArgs;
use hotplug::present::cases::cases;
use hotplug::present::{formats, github, gitlab, junit, kcidb, ktap, mail, page, patchwork, terminal};
use hotplug::record::read_result;
use hotplug::{Result, environment};

/// The default name of a CI system.
pub(super) const ORIGIN: &str = "hotplug";

/// Options of `hotplug report`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("form"), after_help = "\
Examples:
  hotplug report last
  hotplug report 2026-11-26 --mail
  hotplug report last --junit > junit.xml
  hotplug report last --report-to reports/")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct ReportArgs {
    /// Folder of a comparison, the beginning of its name below results/, or `last`
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
    /// Self-contained HTML page, as in the folder of every run
    #[arg(long, group = "form")]
    pub html: bool,
    /// Mail to a kernel mailing list
    #[arg(long, group = "form")]
    pub mail: bool,
    /// Test cases in the XML format that most CI systems read
    #[arg(long, group = "form")]
    pub junit: bool,
    /// Test cases in the kernel's format, KTAP
    #[arg(long, group = "form")]
    pub ktap: bool,
    /// Markdown for `$GITHUB_STEP_SUMMARY`
    #[arg(long, group = "form")]
    pub github_summary: bool,
    /// Annotations for GitHub, to be printed by a step of a workflow
    #[arg(long, group = "form")]
    pub github_annotations: bool,
    /// Code Quality report for GitLab, which shows findings at their lines
    #[arg(long, group = "form")]
    pub gitlab_code_quality: bool,
    /// Submission to KCIDB, the database of the kernel's CI systems
    #[arg(long, group = "form")]
    pub kcidb: bool,
    /// Checks for Patchwork, each the body of a request
    #[arg(long, group = "form")]
    pub patchwork: bool,
    /// Write all formats into this folder
    #[arg(long, group = "form", value_name = "DIR")]
    pub report_to: Option<PathBuf>,
    /// Name of the CI system, for KCIDB
    #[arg(long, value_name = "NAME", default_value = ORIGIN)]
    pub origin: String,
    /// Where the page of the result will be, for Patchwork
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

/// Prints to `out`. Returns the exit status.
pub fn run(args: &ReportArgs, out: &mut dyn Write) -> Result<u8> {
    let folder = args.at.found(&args.result)?;
    if let Some(to) = &args.report_to {
        formats::write(to, &folder, &read_result(&folder)?, &args.origin, args.url.as_deref())?;
        return Ok(0);
    }
    out.write_all(text(args, &folder)?.as_bytes())?;
    Ok(0)
}

fn text(args: &ReportArgs, folder: &Path) -> Result<String> {
    let result = read_result(folder)?;
    if args.mail {
        return Ok(mail::mail(&result, &environment::about(folder, &result.run)?, folder));
    }
    if args.html {
        return page::html(folder, &result);
    }
    let cases = cases(&result);
    Ok(match args {
        ReportArgs { junit: true, .. } => junit::junit(&result)?,
        ReportArgs { ktap: true, .. } => ktap::ktap(&result.run.scenario, &cases),
        ReportArgs { github_summary: true, .. } => github::summary(&result, &cases),
        ReportArgs { github_annotations: true, .. } => github::annotations(&result, &cases),
        ReportArgs { gitlab_code_quality: true, .. } => gitlab::code_quality(&result, &cases)?,
        ReportArgs { kcidb: true, .. } => kcidb::kcidb(&result, &cases, &args.origin)?,
        ReportArgs { patchwork: true, .. } => patchwork::checks(&result, &cases, args.url.as_deref())?,
        _ => terminal::screen(&result, folder),
    })
}

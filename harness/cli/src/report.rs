//! `hotplug report`: prints a finished comparison for mails and CI systems.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use hotplug::present::cases::cases;
use hotplug::present::{github, junit, ktap, mail, page, terminal};
use hotplug::record::read_result;
use hotplug::{Result, environment};

/// Options of `hotplug report`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("form"), after_help = "\
Examples:
  hotplug report last
  hotplug report 2026-11-26 --mail
  hotplug report last --junit > junit.xml")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct ReportArgs {
    /// Folder of a comparison, the beginning of its name below results/, or `last`
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
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
}

/// Prints to `out`. Returns the exit status.
pub fn run(args: &ReportArgs, out: &mut dyn Write) -> Result<u8> {
    let folder = super::found(&args.result)?;
    out.write_all(text(args, &folder)?.as_bytes())?;
    Ok(0)
}

fn text(args: &ReportArgs, folder: &Path) -> Result<String> {
    let result = read_result(folder)?;
    if args.mail {
        return Ok(mail::mail(&result, &environment::about(folder, &result.run)?));
    }
    if args.html {
        return page::html(folder, &result);
    }
    let cases = cases(&result);
    Ok(match args {
        ReportArgs { junit: true, .. } => junit::junit(&result, &cases)?,
        ReportArgs { ktap: true, .. } => ktap::ktap(&result.run.scenario, &cases),
        ReportArgs { github_summary: true, .. } => github::summary(&result, &cases),
        ReportArgs { github_annotations: true, .. } => github::annotations(&result, &cases),
        _ => terminal::screen(&result, folder),
    })
}

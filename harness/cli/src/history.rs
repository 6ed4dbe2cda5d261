//! `hotplug history`: the results of earlier runs.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::results::ResultsArgs;
use hotplug::history::{FILE, History};
use hotplug::present::history as screen;
use hotplug::record::{RunResult, read_result};
use hotplug::{Error, Result};

/// Maximum number of rows of each kind.
const SHOWN: u32 = 20;

/// Options of `hotplug history`.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  hotplug history
  hotplug history dimm-and-cpu
  hotplug history 328c42
  hotplug history import results"
)]
pub struct HistoryArgs {
    /// A scenario, or the beginning of a finding's signature [default: an overview of all]
    #[arg(value_name = "SCENARIO|SIGNATURE")]
    pub of: Option<String>,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
    /// The subcommand, if one is given.
    #[command(subcommand)]
    pub command: Option<HistoryCommand>,
}

/// Subcommands that change the history.
#[derive(Debug, Clone, Subcommand)]
pub enum HistoryCommand {
    /// Add all ended runs of a folder; runs already in the history are read again
    Import {
        /// A folder with runs
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// Prints to `out`. Returns the exit status.
pub fn run(args: &HistoryArgs, out: &mut dyn Write) -> Result<u8> {
    let text = match (&args.command, &args.of) {
        (Some(HistoryCommand::Import { folder }), _) => import(folder, &args.at.results)?,
        (None, of) => {
            let history = History::there(&args.at.results)?.ok_or_else(|| {
                Error::user(format!("{} has no history yet", args.at.results.display()))
                    .help(format!("hotplug history import {}", args.at.results.display()))
            })?;
            match of {
                None => screen::overview(&history.scenarios()?, &history.bugs("", None, SHOWN)?),
                Some(of) => of_one(&history, of)?,
            }
        }
    };
    out.write_all(text.as_bytes())?;
    Ok(0)
}

fn of_one(history: &History, of: &str) -> Result<String> {
    let runs = history.runs(Some(of), SHOWN)?;
    if !runs.is_empty() {
        let bugs = history.bugs("", Some(of), SHOWN)?;
        let text =
            [of.to_owned(), screen::runs(&runs), screen::bugs(&bugs), screen::trends(&history.series(of)?)];
        return Ok(text.concat());
    }
    let bugs = history.bugs(of, None, SHOWN)?;
    let [bug, rest @ ..] = bugs.as_slice() else {
        return Err(Error::user(format!(
            "no scenario is called {of}, and no finding's signature begins with it"
        ))
        .help("hotplug history without a name lists both"));
    };
    let mut text = screen::bugs(&bugs);
    if rest.is_empty() {
        text += &screen::runs(&history.runs_with(&bug.signature, SHOWN)?);
    }
    Ok(text.trim_start().to_owned())
}

fn import(folder: &Path, results: &Path) -> Result<String> {
    fs_err::create_dir_all(results)?;
    let mut history = History::open(results)?;
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.join("result.json").is_file() {
            names.push(path);
        }
    }
    names.sort();
    let mut skipped = Vec::new();
    let mut taken = 0_u32;
    for path in names {
        match read_result(&path) {
            Ok(result) => {
                history.add(&result)?;
                taken += 1;
            }
            Err(error) => drop(writeln!(skipped, "skipped: {error}")),
        }
    }
    let skipped = String::from_utf8_lossy(&skipped);
    Ok(format!("{skipped}{taken} runs of {} are in {}\n", folder.display(), results.join(FILE).display()))
}

/// Adds a run that has ended. A failure is only a warning, because the history can be rebuilt from
/// the results.
pub(super) fn add(folder: &Path, result: &RunResult) {
    let added = folder.parent().map_or(Ok(()), |results| History::open(results)?.add(result));
    if let Err(error) = added {
        tracing::warn!(%error, "the run was not added to the history; hotplug history import adds it");
    }
}

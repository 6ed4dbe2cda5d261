//! The commands around a shell and a desktop: completions, man pages, and the page of a run in a
//! browser.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::results::ResultsArgs;
use hotplug::present::page;
use hotplug::{Error, Result};

/// Options of `hotplug completions`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example: hotplug completions bash > ~/.local/share/bash-completion/completions/hotplug"
)]
pub struct CompletionsArgs {
    /// Shell to complete for
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Prints completions to `out`. Returns the exit status.
pub fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hotplug", &mut text);
    out.write_all(&text)?;
    Ok(0)
}

/// Options of `hotplug man`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: hotplug man ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Folder for the man pages, created if it does not exist
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Writes a man page for each command, and prints their number. Returns the exit status.
pub fn man(args: &ManArgs, out: &mut dyn Write) -> Result<u8> {
    fs_err::create_dir_all(&args.folder)?;
    clap_mangen::generate_to(Cli::command(), &args.folder)?;
    let count = fs_err::read_dir(&args.folder)?.count();
    writeln!(out, "{count} pages in {}", args.folder.display())?;
    Ok(0)
}

/// Options of `hotplug open`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: hotplug open last")]
pub struct OpenArgs {
    /// Folder of a comparison, the beginning of its name below results/, or `last`
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
}

/// Opens the page of a run in the browser of the desktop. Returns the exit status.
pub fn open(args: &OpenArgs, out: &mut dyn Write) -> Result<u8> {
    let file = args.at.found(&args.result)?.join(page::FILE);
    if !file.is_file() {
        return Err(Error::user(format!("there is no {}", file.display()))
            .help(format!("hotplug report {} --html > page.html", args.result.display())));
    }
    // xdg-open is in freedesktop.org's xdg-utils, which every desktop has. Without it the path is
    // printed.
    let opened = Process::new("xdg-open").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !opened.is_ok_and(|status| status.success()) {
        writeln!(out, "{}", file.display())?;
    }
    Ok(0)
}

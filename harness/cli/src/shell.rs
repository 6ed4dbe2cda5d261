//! The commands around a shell and a desktop: completions, man pages, and the page of a run in a
//! browser.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use clap::Args;
use clap_complete::Shell;
use clap_complete::env::Shells;

use super::results::ResultsArgs;
use super::{complete, manual};
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

/// Prints the script that makes a shell ask this binary for completions. Returns the exit status.
pub fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> Result<u8> {
    let mut text = Vec::new();
    let name = args.shell.to_string();
    let all = Shells::builtins();
    let shell = all.completer(&name).ok_or_else(|| Error::user(format!("no completions for {name}")))?;
    shell.write_registration(complete::VARIABLE, "hotplug", "hotplug", "hotplug", &mut text)?;
    out.write_all(&text)?;
    Ok(0)
}

/// Options of `hotplug man`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: hotplug man ~/.local/share/man")]
pub struct ManArgs {
    /// Folder for the man pages, which go to man1 and man5 below it
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Writes a man page for each command, and prints their number. Returns the exit status.
pub fn man(args: &ManArgs, out: &mut dyn Write) -> Result<u8> {
    let pages = manual::pages(super::command())?;
    for (name, text) in &pages {
        let section = name.rsplit('.').next().unwrap_or_default();
        let folder = args.folder.join(format!("man{section}"));
        fs_err::create_dir_all(&folder)?;
        fs_err::write(folder.join(name), text)?;
    }
    writeln!(out, "{} pages in {}", pages.len(), args.folder.display())?;
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

//! The command line: one file a subcommand, each with its options and what it prints.

pub mod bisect;
pub mod compare;
pub mod coverage;
pub mod doctor;
pub mod history;
pub mod kernel;
pub mod latency;
pub mod locks;
pub mod merge;
pub mod overlap;
pub mod plan;
pub mod prove;
pub mod race;
pub mod replay;
pub mod report;
mod running;
pub mod scan;
pub mod series;
pub mod shell;
pub mod shrink;
pub mod submit;
pub mod work;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use hotplug::environment::Env;
use hotplug::events::Listener;
use hotplug::kernel::Cache;
use hotplug::present::watch::{JsonLines, Terminal};
use hotplug::record::find;
use hotplug::{Result, limits};

/// Shows what a Linux kernel patch does to memory and CPU hotplug.
#[derive(Debug, Parser)]
#[command(
    name = "hotplug",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  hotplug doctor --install
  hotplug compare my.patch
  hotplug open last

Exit status, of every command: 0 all is well; 1 it is not: a regression, a report, a bug that was not found; 2 your mistake, \
and nothing was done; 3 inconclusive; 4 infrastructure: QEMU, a build, a disk; 130 interrupted."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find the revision that brought a report, also one that shows itself only now and then.
    Bisect(bisect::BisectArgs),
    /// Boot the kernels before and after a patch, plug and unplug, and judge.
    Compare(compare::CompareArgs),
    /// Print what a shell needs to complete the command line.
    Completions(shell::CompletionsArgs),
    /// Say which of the lines and functions that a patch changes ran, how often, and in which operations.
    Coverage(coverage::CoverageArgs),
    /// Show what this machine has and lacks, and install the rest.
    Doctor(doctor::Args),
    /// Say what earlier runs came to: of a scenario, or of a finding.
    History(history::HistoryArgs),
    /// Build kernel pairs, and look after those that were built.
    #[command(subcommand)]
    Kernel(kernel::KernelCommand),
    /// Say what a patch makes slower or faster, boot by boot.
    Latency(latency::LatencyArgs),
    /// Say what a patch changed in the lock order, and which deadlocks that allows.
    Locks(locks::LocksArgs),
    /// Write man pages.
    Man(shell::ManArgs),
    /// Join what shards of a plan came to: the verdict of all their trials.
    Merge(merge::MergeArgs),
    /// Open the page of a run in a browser, or say where it is.
    Open(shell::OpenArgs),
    /// Say which critical sections two tasks were inside of at once.
    Overlap(overlap::OverlapArgs),
    /// Expand a matrix of kernels, configs, scenarios and seeds to shards that can run anywhere.
    Plan(plan::PlanArgs),
    /// Try known bugs, and say which are found.
    Prove(prove::ProveArgs),
    /// Hold whoever comes to one place of the kernel until another comes to a second, and say what keeps them apart.
    Race(race::RaceArgs),
    /// Run recorded trials again, and say how often their findings come again.
    Replay(replay::ReplayArgs),
    /// Put a finished comparison into words for a mail, or into files for CI.
    Report(report::ReportArgs),
    /// Read any kernel log and name, sign and explain its reports.
    Scan(scan::ScanArgs),
    /// Judge every patch of a series, and say which brought what.
    Series(series::SeriesArgs),
    /// Hand a plan to a scheduler: kernels first, then all shards, then the merge.
    Submit(submit::SubmitArgs),
    /// Run one shard of a plan.
    Work(work::WorkArgs),
    /// From a recorded trial, find the smallest scenario that still gives its report.
    Shrink(shrink::ShrinkArgs),
}

/// Runs a command to its end; the exit status on success.
pub fn run(cli: Cli) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        // A scan owns nothing that would have to be put away: a signal may simply end it.
        if !matches!(cli.command, Command::Scan(_)) {
            tokio::spawn(on_signals(cancel.clone()));
        }
        execute(cli, &cancel).await
    })
}

/// The first signal asks everything to end in order; the second ends us at once, and the kernel ends our children.
async fn on_signals(cancel: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if cancel.is_cancelled() {
            std::process::exit(130);
        }
        cancel.cancel();
    }
}

/// Runs a command; the exit status on success.
async fn execute(cli: Cli, cancel: &CancellationToken) -> Result<u8> {
    limits::check()?;
    let mut out = anstream::stdout();
    match cli.command {
        Command::Bisect(args) => Box::pin(bisect::run(&args, &mut out, cancel)).await,
        Command::Compare(args) => compare::run(&args, &mut out, cancel).await,
        Command::Completions(args) => shell::completions(&args, &mut out),
        Command::Coverage(args) => coverage::run(&args, &mut out),
        Command::Doctor(args) => doctor::run(args, cancel.clone()).await,
        Command::History(args) => history::run(&args, &mut out),
        Command::Kernel(command) => kernel::run(&command, &mut out, cancel).await.map(|()| 0),
        Command::Latency(args) => latency::run(&args, &mut out),
        Command::Overlap(args) => overlap::run(&args, &mut out),
        Command::Locks(args) => locks::run(&args, &mut out),
        Command::Man(args) => shell::man(&args, &mut out),
        Command::Merge(args) => merge::run(&args, &mut out),
        Command::Plan(args) => Box::pin(plan::run(&args, &mut out, cancel)).await,
        Command::Submit(args) => submit::run(&args, &mut out, cancel).await,
        Command::Work(args) => Box::pin(work::run(&args, &mut out, cancel)).await,
        Command::Open(args) => shell::open(&args, &mut out),
        Command::Prove(args) => Box::pin(prove::run(&args, &mut out, cancel)).await,
        Command::Race(args) => Box::pin(race::run(args, &mut out, cancel)).await,
        Command::Replay(args) => replay::run(&args, &mut out, cancel).await,
        Command::Report(args) => report::run(&args, &mut out),
        Command::Series(args) => Box::pin(series::run(&args, &mut out, cancel)).await,
        Command::Shrink(args) => Box::pin(shrink::run(&args, &mut out, cancel)).await,
        // Reads files only, as fast as it can: nothing to wait for.
        Command::Scan(args) => scan::run(&args, &mut out),
    }
}

/// The run, or what is below it, that `asked` stands for: a path, the begin of a name below results/, or `last`.
fn found(asked: &Path) -> Result<PathBuf> {
    find(asked, Path::new(RESULTS))
}

/// Where results go unless somebody says otherwise.
const RESULTS: &str = "results";

/// Calls `run` with what every command that runs trials works with. Events go to the terminal, or to standard output as
/// JSON lines.
async fn with_env<T>(
    cache: &Cache,
    json_lines: bool,
    cancel: &CancellationToken,
    run: impl AsyncFnOnce(&Env<'_>) -> Result<T>,
) -> Result<T> {
    let (terminal, lines) = (Terminal::default(), JsonLines::default());
    let events: &dyn Listener = if json_lines { &lines } else { &terminal };
    let command: Vec<String> = std::env::args().collect();
    run(&Env { cache, events, cancel, command: &command }).await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Every help text of a command and of those below it.
    fn helps(command: &clap::Command, all: &mut Vec<String>) {
        all.extend(command.get_after_help().map(ToString::to_string));
        for below in command.get_subcommands() {
            helps(below, all);
        }
    }

    #[test]
    fn every_example_is_a_command() {
        let mut all = Vec::new();
        helps(&Cli::command(), &mut all);
        let lines = all.iter().flat_map(|help| help.lines());
        let examples = lines.filter_map(|line| {
            let line = line.strip_prefix("  ").or_else(|| line.strip_prefix("Example: "))?;
            let line = line.rsplit(" | ").next()?.split(" > ").next()?;
            line.starts_with("hotplug ").then_some(line)
        });
        let mut count = 0;
        for example in examples {
            if let Err(error) = Cli::try_parse_from(example.split_whitespace()) {
                panic!("{example}: {error}");
            }
            count += 1;
        }
        let commands = Cli::command().get_subcommands().count();
        assert!(count >= commands, "{count} examples of {commands} commands");
    }
}

//! The command line: one file a subcommand, each with its options and its output.

pub mod atlas;
pub mod bisect;
pub mod cache;
pub mod compare;
mod complete;
pub mod config_file;
mod console;
pub mod coverage;
pub mod doctor;
mod help;
pub mod history;
pub mod kernel;
pub mod latency;
pub mod locks;
mod manual;
pub mod merge;
pub mod overlap;
pub mod plan;
pub mod prove;
pub mod race;
pub mod reach;
pub mod replay;
pub mod report;
pub mod results;
pub mod scan;
pub mod scenario;
pub mod series;
pub mod shell;
pub mod shrink;
pub mod submit;
pub mod work;

use std::path::Path;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use hotplug::environment::Env;
use hotplug::events::Listener;
use hotplug::kernel::Cache;
use hotplug::present::stream;
use hotplug::present::watch::{JsonLines, Terminal};
use hotplug::{Error, Result, limits, record};

use config_file::ConfigFile;

/// Shows what a Linux kernel patch does to memory and CPU hotplug.
#[derive(Debug, Parser)]
#[command(
    name = "hotplug",
    version,
    max_term_width = help::WIDTH,
    after_help = "\
Examples:
  hotplug doctor --install
  hotplug compare my.patch
  hotplug open last

Exit status of every command: 0 success; 1 a negative result: a regression, a report, a bug that was not found; \
2 user error, nothing was done; 3 inconclusive; 4 infrastructure failure: QEMU, a build, the disk; 130 interrupted."
)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find the revision that introduced a report, even if only some trials show it.
    Bisect(bisect::BisectArgs),
    /// Print what the cache of kernels takes, and prune it to a size.
    Cache(cache::CacheArgs),
    /// Boot the kernels before and after a patch, plug and unplug devices, and print a verdict.
    Compare(compare::CompareArgs),
    /// Print the completion script of a shell.
    Completions(shell::CompletionsArgs),
    /// Print which changed lines and functions ran, how often, and in which operations.
    Coverage(coverage::CoverageArgs),
    /// Check this machine for everything that hotplug needs, and install what is missing.
    Doctor(doctor::Args),
    /// Print the results of earlier runs, by scenario or by finding.
    History(history::HistoryArgs),
    /// Build kernel pairs, and list or prune the kernel cache.
    #[command(subcommand)]
    Kernel(kernel::KernelCommand),
    /// Print what a patch makes slower or faster, boot by boot.
    Latency(latency::LatencyArgs),
    /// Print what a patch changes in the lock order, and which deadlocks that makes possible.
    Locks(locks::LocksArgs),
    /// Write man pages.
    Man(shell::ManArgs),
    /// Merge the shards of a plan into one verdict over all their trials.
    Merge(merge::MergeArgs),
    /// Open the page of a run in a browser, or print its path.
    Open(shell::OpenArgs),
    /// Print which critical sections overlapped: two tasks were inside both at once.
    Overlap(overlap::OverlapArgs),
    /// Print which callbacks of hotplug ran, and which the silence of a comparison does not cover.
    Reach(reach::ReachArgs),
    /// Expand a matrix of kernels, configs, scenarios and seeds into shards for any machine.
    Plan(plan::PlanArgs),
    /// Test hotplug on kernels with known bugs, and print which bugs it finds.
    Prove(prove::ProveArgs),
    /// Hold a task at one place in the kernel until another task comes to a second place, and
    /// print whether they can meet or which lock excludes it.
    Race(race::RaceArgs),
    /// Run recorded trials again, and print how often their findings come again.
    Replay(replay::ReplayArgs),
    /// Print a finished comparison as text, as HTML, as a mail, or in a format for CI.
    Report(report::ReportArgs),
    /// Read any kernel log, and print each report with its title, signature and call path.
    Scan(scan::ScanArgs),
    /// List, print and check scenarios.
    #[command(subcommand)]
    Scenario(scenario::ScenarioCommand),
    /// Judge every patch of a series, and print which patch causes which report.
    Series(series::SeriesArgs),
    /// Reduce a recorded trial to a minimal scenario that still gives its report.
    Shrink(shrink::ShrinkArgs),
    /// Submit a plan to a scheduler: first the kernel builds, then all shards, then the merge.
    Submit(submit::SubmitArgs),
    /// Run one shard of a plan.
    Work(work::WorkArgs),
}

impl Command {
    /// The folder of the results, of a command that begins a run there.
    fn begins_run(&self) -> Option<&Path> {
        match self {
            Self::Compare(args) if args.resume.is_none() => Some(&args.running.at.results),
            Self::Race(args) => Some(&args.running.at.results),
            _ => None,
        }
    }
}

/// The command line, with its help in groups and with completions.
pub fn command() -> clap::Command {
    complete::with_candidates(help::grouped(Cli::command()))
}

/// Parses the command line, with the options of `hotplug.toml` as defaults. A usage error ends the
/// process with status 2, as a user error does.
pub fn parse() -> Result<Cli> {
    // A comparison with a mistake in its options failed, too.
    let failed = |error: &Error| {
        let words: Vec<String> = std::env::args().collect();
        if words.get(1).is_some_and(|word| word == "compare" || word == "race") {
            let results = results::in_words(&words);
            let _ = record::begins(&results, &words).and_then(|()| record::failed(&results, error));
        }
    };
    let config = ConfigFile::find(&std::env::current_dir()?).inspect_err(failed)?;
    let matches = config.apply(command()).try_get_matches().unwrap_or_else(|error| {
        if error.exit_code() != 0 {
            failed(&Error::user(error.to_string().lines().next().unwrap_or_default()));
        }
        error.exit()
    });
    config.record(&matches);
    Ok(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()))
}

/// Runs a command to its end. Returns its exit status on success.
pub fn run(cli: Cli) -> Result<u8> {
    let words: Vec<String> = std::env::args().collect();
    let results = cli.command.begins_run().map(ToOwned::to_owned);
    // Until the run has a folder, the results have a mark, so that `last` is no older run.
    if let Some(results) = &results {
        record::begins(results, &words)?;
    }
    let ended = run_to_end(cli);
    if let (Some(results), Err(error)) = (&results, &ended) {
        record::failed(results, error)?;
    }
    ended
}

fn run_to_end(cli: Cli) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        // A scan has nothing to clean up, so a signal may end it at once.
        if !matches!(cli.command, Command::Scan(_)) {
            tokio::spawn(on_signals(cancel.clone()));
        }
        execute(cli, &cancel).await
    })
}

/// The first signal requests an orderly end. The second one exits at once, and the kernel ends the
/// children by their parent-death signals.
async fn on_signals(cancel: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    // The terminal that is closed requests an end, too, unless nohup(1) had it ignored.
    let mut hangup = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
    loop {
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hung_up => {}
        }
        if cancel.is_cancelled() {
            std::process::exit(130);
        }
        cancel.cancel();
    }
}

/// Whether this process ignores SIGHUP: the lowest bit of `SigIgn` in proc(5).
fn ignores_hangup() -> bool {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let mask =
        status.lines().find_map(|line| line.strip_prefix("SigIgn:")?.trim().chars().last()?.to_digit(16));
    mask.is_some_and(|digit| digit & 1 != 0)
}

/// Runs a command. Returns its exit status on success.
async fn execute(cli: Cli, cancel: &CancellationToken) -> Result<u8> {
    limits::check()?;
    let mut out = anstream::stdout();
    match cli.command {
        Command::Bisect(args) => Box::pin(bisect::run(&args, &mut out, cancel)).await,
        Command::Cache(args) => cache::run(&args, &mut out),
        Command::Compare(args) => compare::run(&args, &mut out, cancel).await,
        Command::Completions(args) => shell::completions(&args, &mut out),
        Command::Coverage(args) => coverage::run(&args, &mut out),
        Command::Doctor(args) => doctor::run(args, cancel.clone()).await,
        Command::History(args) => history::run(&args, &mut out),
        Command::Kernel(command) => kernel::run(&command, &mut out, cancel).await.map(|()| 0),
        Command::Latency(args) => latency::run(&args, &mut out),
        Command::Overlap(args) => overlap::run(&args, &mut out),
        Command::Reach(args) => reach::run(&args, &mut out),
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
        Command::Scenario(command) => scenario::run(&command, &mut out),
        Command::Series(args) => Box::pin(series::run(&args, &mut out, cancel)).await,
        Command::Shrink(args) => Box::pin(shrink::run(&args, &mut out, cancel)).await,
        // A scan only reads files and never waits, so it is not async.
        Command::Scan(args) => scan::run(&args, &mut out),
    }
}

/// Calls `run` with the environment of a command that runs trials. Events go to the terminal, or to
/// standard output as JSON lines.
async fn with_env<T>(
    cache: &Cache,
    json_lines: bool,
    cancel: &CancellationToken,
    run: impl AsyncFnOnce(&Env<'_>) -> Result<T>,
) -> Result<T> {
    let (terminal, lines) = (Terminal::default(), JsonLines::default());
    let events: &dyn Listener = if json_lines { &lines } else { &terminal };
    let ran = with_listener(cache, events, cancel, run).await;
    if let (true, Err(error)) = (json_lines, &ran) {
        // The reader may be gone. The error is printed on standard error, too.
        let _ = stream::error(&mut std::io::stdout(), error);
    }
    ran
}

/// Like [`with_env`], with a listener of the caller's.
async fn with_listener<T>(
    cache: &Cache,
    events: &dyn Listener,
    cancel: &CancellationToken,
    run: impl AsyncFnOnce(&Env<'_>) -> Result<T>,
) -> Result<T> {
    let command: Vec<String> = std::env::args().collect();
    run(&Env { cache, events, cancel, command: &command, settings: config_file::set() }).await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The `after_help` texts of a command and of its subcommands.
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

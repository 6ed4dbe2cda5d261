//! The binary: parses the command line, sets up tracing, and maps errors to exit statuses. The
//! library does the rest.

use std::io::IsTerminal;
use std::process::ExitCode;

use hotplug::{Error, ErrorKind};
use tracing_subscriber::fmt::format::FmtSpan;

fn main() -> ExitCode {
    // The script of a shell asks for completions. The process then ends here.
    clap_complete::CompleteEnv::with_factory(hotplug_cli::command).complete();
    let cli = match hotplug_cli::parse() {
        Ok(cli) => cli,
        Err(error) => return fail(&error),
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOTPLUG_LOG").unwrap_or_else(|_| "warn".into());
    // The spans run, trial and operation print at their start and their end (at the level debug), so that the place where
    // a harness stands still can be seen.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match hotplug_cli::run(cli) {
        Ok(status) => status.into(),
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    if error.kind() == ErrorKind::Interrupted {
        eprintln!("hotplug: interrupted");
    } else {
        eprintln!("hotplug: {error}");
    }
    error.exit_status().into()
}

//! The binary: parses the command line, sets up tracing and signals, maps errors to exit codes. All else is in the
//! library.

use std::process::ExitCode;

use clap::Parser;
use hotplug::cli::{self, Cli};
use hotplug::{Blame, Error};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    // clap exits with 2 on a mistake of the user's, as we do.
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOTPLUG_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let ended = runtime.block_on(async {
        let cancel = CancellationToken::new();
        // A scan owns nothing that would have to be put away: a signal may simply end it.
        if !matches!(cli.command, cli::Command::Scan(_)) {
            tokio::spawn(on_signals(cancel.clone()));
        }
        cli::run(cli, &cancel).await
    });
    match ended {
        Ok(status) => status.into(),
        Err(error) => fail(&error),
    }
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

fn fail(error: &Error) -> ExitCode {
    if error.blame() == Blame::Interrupted {
        eprintln!("hotplug: interrupted");
    } else {
        eprintln!("hotplug: {error}");
    }
    error.exit_status().into()
}

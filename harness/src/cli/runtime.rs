//! The runtime that a command runs in, and the signals that end it.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Cli, Command, execute};
use crate::Result;

/// Runs a command to its end; the exit status on success.
///
/// The runtime is made here and not in the binary: the compiler makes code of an async function where it is polled, and the
/// binary would carry, and compile after the library, what is the library's.
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

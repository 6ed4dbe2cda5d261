//! The serial console: kept whole, listened to for life and for a panic.

use std::path::Path;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::capped::Capped;
use crate::journal::{Happening, Journal};

/// kernel/panic.c: `panic()` prints it before anything else.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// The reader of one console.
#[derive(Debug)]
pub struct Serial {
    bytes: watch::Receiver<u64>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Serial {
    /// Appends everything to `file` until the stream ends. The first panic is told to `journal`.
    pub fn read(mut stream: UnixStream, file: &Path, journal: Arc<Journal>) -> Self {
        let (tell, bytes) = watch::channel(0_u64);
        let file = file.to_owned();
        let task = tokio::spawn(async move {
            let mut log = Capped::create(&file).await?;
            let mut buffer = vec![0; 1 << 16];
            // The end of what came before, so that a panic cut in two by the socket is still seen.
            let mut tail = Vec::new();
            let mut panicked = false;
            loop {
                let n = match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => n,
                };
                log.append(&buffer[..n]).await.inspect_err(|error| journal.fail(error))?;
                tell.send_modify(|all| *all += n as u64);
                if !panicked {
                    tail.extend_from_slice(&buffer[..n]);
                    panicked = memchr::memmem::find(&tail, PANIC).is_some();
                    if panicked {
                        journal.record(Happening::Panic);
                    }
                    tail.drain(..tail.len().saturating_sub(PANIC.len()));
                }
            }
            log.finish().await
        });
        Self { bytes, task }
    }

    /// Waits until the console has been silent for `quiet`. Safe to cancel.
    pub async fn silent_for(&self, quiet: std::time::Duration) {
        let mut bytes = self.bytes.clone();
        loop {
            match tokio::time::timeout(quiet, bytes.changed()).await {
                Ok(Ok(())) => {}
                // The stream has ended: that is QEMU's end, which is told elsewhere, and no silence.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return,
            }
        }
    }

    /// Waits for the end of the stream, which QEMU's end brings, and for the file.
    pub async fn finish(self) -> std::io::Result<()> {
        self.task.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }
}

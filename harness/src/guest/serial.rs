//! The serial console: kept whole, listened to for life and for a panic.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::capped::Capped;
use crate::bytes::Bytes;
use crate::event_log::{Happening, Journal};

/// kernel/panic.c: `panic()` prints it before anything else.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// What is typed, a line of it after the other.
pub(crate) const TYPED: &str = "Somebody types at the console, and nobody answers.";

/// Between one burst of typing and the next.
pub(crate) const TYPED_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// The reader of one console, and who types at it.
#[derive(Debug)]
pub struct Serial {
    keyboard: tokio::sync::Mutex<OwnedWriteHalf>,
    bytes: watch::Receiver<u64>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Serial {
    /// Appends everything to `file` until the stream ends. The first panic is told to `journal`.
    pub fn read(stream: UnixStream, file: &Path, journal: Arc<Journal>) -> Self {
        let (mut stream, keyboard) = stream.into_split();
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
        Self { keyboard: keyboard.into(), bytes, task }
    }

    /// Types so many bytes ten times a second, as fast as the guest takes them, and never ends. Safe to cancel.
    pub async fn type_for_ever(&self, bytes: Bytes) -> Infallible {
        let line = TYPED.bytes().chain([b'\n']);
        let burst: Vec<u8> = line.cycle().take(usize::try_from(bytes.0).unwrap_or(usize::MAX)).collect();
        let mut keyboard = self.keyboard.lock().await;
        // An error is QEMU's end, which is told elsewhere.
        while keyboard.write_all(&burst).await.is_ok() {
            tokio::time::sleep(TYPED_EVERY).await;
        }
        std::future::pending().await
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

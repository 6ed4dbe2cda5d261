//! The serial console. Its output is kept, and is watched for signs of life and for a panic.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::bytes::Bytes;
use crate::event_log::{Event, EventLog};
use crate::output::Output;

/// The message that `panic()` prints before anything else (kernel/panic.c).
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// The line that is typed at the console, again and again.
pub(crate) const TYPED: &str = "The harness types at the console; no shell reads it.";

/// The pause between two bursts of typing.
pub(crate) const TYPED_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// The most pieces of output that wait for a terminal. A terminal that is slower misses some; the
/// file has all.
const WAITING: usize = 4096;

/// The terminal that gets what the console prints, if one is attached.
type Tap = Arc<Mutex<Option<mpsc::Sender<Vec<u8>>>>>;

/// The reader and the writer of one console.
#[derive(Debug)]
pub struct Serial {
    keyboard: tokio::sync::Mutex<OwnedWriteHalf>,
    bytes: watch::Receiver<u64>,
    output: Output,
    tap: Tap,
    task: JoinHandle<std::io::Result<()>>,
}

impl Serial {
    /// Appends everything to `file` until the stream ends. The first panic is recorded in
    /// `event_log`.
    pub async fn read(stream: UnixStream, file: &Path, event_log: Arc<EventLog>) -> std::io::Result<Self> {
        let (mut stream, keyboard) = stream.into_split();
        let (tell, bytes) = watch::channel(0_u64);
        let output = Output::create(file).await?;
        let log = output.clone();
        let tap = Tap::default();
        let told = tap.clone();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            // The end of the earlier output, so that a panic message that the socket splits is
            // still found.
            let mut tail = Vec::new();
            let mut panicked = false;
            loop {
                let n = match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => n,
                };
                log.append(&buffer[..n]).await.inspect_err(|error| event_log.fail(error))?;
                if let Some(terminal) = &*told.lock().unwrap_or_else(PoisonError::into_inner) {
                    let _ = terminal.try_send(buffer[..n].to_vec());
                }
                tell.send_modify(|all| *all += n as u64);
                if !panicked {
                    tail.extend_from_slice(&buffer[..n]);
                    panicked = memchr::memmem::find(&tail, PANIC).is_some();
                    if panicked {
                        event_log.record(Event::Panic);
                    }
                    tail.drain(..tail.len().saturating_sub(PANIC.len()));
                }
            }
            log.finish().await
        });
        Ok(Self { keyboard: keyboard.into(), bytes, output, tap, task })
    }

    /// Types `bytes` bytes at once, ten times a second or as fast as the guest accepts them. Never
    /// returns. Safe to cancel.
    pub async fn type_for_ever(&self, bytes: Bytes) -> Infallible {
        let line = TYPED.bytes().chain([b'\n']);
        let burst: Vec<u8> = line.cycle().take(usize::try_from(bytes.0).unwrap_or(usize::MAX)).collect();
        let mut keyboard = self.keyboard.lock().await;
        // An error means that QEMU has exited, which is reported elsewhere.
        while keyboard.write_all(&burst).await.is_ok() {
            tokio::time::sleep(TYPED_EVERY).await;
        }
        std::future::pending().await
    }

    /// Connects a terminal: it gets what the console prints from now on, and what it sends is typed.
    /// Returns when the terminal has ended. Safe to cancel.
    pub async fn attach(&self, terminal: &mut DuplexStream) -> std::io::Result<()> {
        let (tell, mut printed) = mpsc::channel(WAITING);
        *self.tap.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
        let mut keyboard = self.keyboard.lock().await;
        let mut typed = [0; 1024];
        loop {
            tokio::select! {
                some = printed.recv() => match some {
                    Some(bytes) => terminal.write_all(&bytes).await?,
                    None => return Ok(()),
                },
                length = terminal.read(&mut typed) => match length? {
                    0 => return Ok(()),
                    length => keyboard.write_all(&typed[..length]).await?,
                },
            }
        }
    }

    /// Whether the console has printed anything.
    pub fn has_output(&self) -> bool {
        *self.bytes.borrow() > 0
    }

    /// Waits until the console has printed nothing for `quiet`. Safe to cancel.
    pub async fn silent_for(&self, quiet: std::time::Duration) {
        let mut bytes = self.bytes.clone();
        loop {
            match tokio::time::timeout(quiet, bytes.changed()).await {
                Ok(Ok(())) => {}
                // The stream has ended because QEMU has exited. That is not silence, and is
                // reported elsewhere.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return,
            }
        }
    }

    /// The file of each trial.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// Waits for the end of the stream, which comes when QEMU exits, and for the file to be
    /// written.
    pub async fn finish(self) -> std::io::Result<()> {
        self.task.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))?;
        // The stream may have ended between two trials.
        self.output.finish().await
    }
}

//! The host's side of the agent's channel: requests and answers by id, events to the journal.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;

use hotplug_protocol::{Answer, Ask, Event, ObjectCounters, Request, Say, Snapshot};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{RwLock, mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;

use crate::event_log::{Happening, Journal};
use crate::guest_clock::HostTime;

/// The longest line taken, bytes. `/proc/lockdep` of a large kernel has 2 MB.
const LONGEST_LINE: usize = 32 << 20;

/// What lockdep says of itself.
pub(crate) const LOCKDEP_STATS: &str = "/proc/lockdep_stats";

/// What it says of waiting and holding.
pub(crate) const LOCK_STAT: &str = "/proc/lock_stat";

/// Why the agent gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The channel ended: QEMU is gone.
    #[error("the agent's channel is gone")]
    Gone,
    /// The agent answered with a failed system call.
    #[error("{what} (errno {errno})")]
    Failed {
        /// `errno`.
        errno: i32,
        /// The agent's words.
        what: String,
    },
    /// The answer is not one to this request.
    #[error("the agent answered {0}")]
    Odd(String),
}

/// A handle on one guest's agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Agent {
    calls: mpsc::UnboundedSender<(Request, oneshot::Sender<Answer>)>,
    gone: CancellationToken,
    /// Shut while the guest suspends.
    gate: Arc<RwLock<()>>,
}

impl Agent {
    /// Takes over a connected socket. The agent's events go to `journal`, and so does what cannot be understood. Each
    /// request, and when it was answered, is appended to `transcript` with the host's time.
    pub fn connect(stream: UnixStream, journal: Arc<Journal>, mut transcript: fs_err::File) -> Self {
        let (calls, mut inbox) = mpsc::unbounded_channel::<(Request, oneshot::Sender<Answer>)>();
        // A full disk is the journal's to tell.
        let mut note = move |at: HostTime, text: &dyn Display| drop(writeln!(transcript, "{} {text}", at.0));
        let gone = CancellationToken::new();
        let ended = gone.clone();
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(LONGEST_LINE));
            let mut pending = HashMap::new();
            let mut next = 0;
            loop {
                tokio::select! {
                    line = lines.next() => match line {
                        // A reset is QEMU's end, as the end of the stream is, and is told by QEMU itself.
                        None | Some(Err(LinesCodecError::Io(_))) => break,
                        Some(Err(error)) => { broken(&journal, &error.to_string()); break }
                        Some(Ok(line)) => if let Some(id) = hear(&line, &mut pending, &journal) {
                            note(journal.now(), &format_args!("< {id}"));
                        },
                    },
                    call = inbox.recv() => {
                        let Some((request, reply)) = call else { break };
                        let Ok(line) = serde_json::to_string(&Ask { id: next, request }) else { break };
                        note(journal.now(), &format_args!("> {line}"));
                        pending.insert(next, reply);
                        next += 1;
                        if write.write_all(format!("{line}\n").as_bytes()).await.is_err() { break }
                    }
                }
            }
            // Before those who wait for an answer learn it.
            ended.cancel();
        });
        Self { calls, gone, gate: Arc::default() }
    }

    /// Waits until the channel has ended. Safe to cancel.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether the channel has ended.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Asks and waits for the answer. Safe to cancel. A failed system call is an error.
    pub async fn ask(&self, request: Request) -> Result<Answer, AgentError> {
        let open = self.gate.read().await;
        let answer = self.send(request)?;
        drop(open);
        Self::answered(answer).await
    }

    /// Asks what suspends the guest: nothing else is sent until it is answered.
    ///
    /// virtio-console forgets what the host has sent and nobody has read yet (`drivers/char/virtio_console.c`,
    /// `virtcons_freeze()`: `remove_port_data()`), and a request that is forgotten looks like a guest that hangs.
    pub async fn ask_alone(&self, request: Request) -> Result<Answer, AgentError> {
        let _shut = self.gate.write().await;
        // The agent reads requests in order: once this one is answered, those before it were read.
        Self::answered(self.send(Request::Hello)?).await?;
        Self::answered(self.send(request)?).await
    }

    fn send(&self, request: Request) -> Result<oneshot::Receiver<Answer>, AgentError> {
        let (reply, answer) = oneshot::channel();
        self.calls.send((request, reply)).map_err(|_| AgentError::Gone)?;
        Ok(answer)
    }

    async fn answered(answer: oneshot::Receiver<Answer>) -> Result<Answer, AgentError> {
        match answer.await.map_err(|_| AgentError::Gone)? {
            Answer::Failed { errno, what } => Err(AgentError::Failed { errno, what }),
            answer => Ok(answer),
        }
    }

    /// Asks without waiting. What is asked later is read later.
    pub fn tell(&self, request: Request) {
        // Gone is what whoever asks next learns.
        let _ = self.send(request);
    }

    /// The machine as the guest sees it.
    pub async fn snapshot(&self) -> Result<Snapshot, AgentError> {
        match self.ask(Request::Snapshot).await? {
            Answer::Snapshot(snapshot) => Ok(snapshot),
            other => Err(odd(&other)),
        }
    }

    /// What lockdep says of itself; none in a kernel without it.
    ///
    /// Not to be asked while lockdep may be printing a cycle: reading the file counts the dependencies of every class,
    /// which walks the graph and overwrites the chain that is being printed, and the kernel then prints nonsense or dies
    /// (`lockdep_count_forward_deps()` in kernel/locking/lockdep.c of 6.1 and 6.12 does not look at `debug_locks`;
    /// docs/findings/lockdep-stats.md).
    pub async fn lockdep_stats(&self) -> Result<Option<LockdepStats>, AgentError> {
        Ok(self.read_if_there(LOCKDEP_STATS).await?.map(LockdepStats))
    }

    /// How long each class of locks was waited for and held (Documentation/locking/lockstat.rst); none in a kernel without
    /// `CONFIG_LOCK_STAT`.
    pub async fn lock_stat(&self) -> Result<Option<String>, AgentError> {
        self.read_if_there(LOCK_STAT).await
    }

    /// Contents of a file in the guest.
    pub async fn read(&self, path: String) -> Result<String, AgentError> {
        match self.ask(Request::Read { path, offset: 0, length: None }).await? {
            Answer::Contents(text) => Ok(text),
            other => Err(odd(&other)),
        }
    }

    /// The same; none where the guest cannot read it.
    pub async fn read_if_there(&self, path: &str) -> Result<Option<String>, AgentError> {
        match self.read(path.to_owned()).await {
            Ok(text) => Ok(Some(text)),
            Err(AgentError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the kernel counted so far of the files that it counts.
    pub async fn counters(&self) -> Result<Vec<ObjectCounters>, AgentError> {
        match self.ask(Request::Counters).await? {
            Answer::Counters(all) => Ok(all),
            other => Err(odd(&other)),
        }
    }

    /// Has every kernel record printed so far sent; the newest one's sequence number.
    pub async fn drain(&self) -> Result<Option<u64>, AgentError> {
        match self.ask(Request::Drain).await? {
            Answer::Drained(newest) => Ok(newest),
            other => Err(odd(&other)),
        }
    }
}

/// `/proc/lockdep_stats`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockdepStats(pub String);

impl LockdepStats {
    /// Whether lockdep still checks (`debug_locks`); none where it does not say.
    pub fn armed(&self) -> Option<bool> {
        let value = self.0.lines().find_map(|line| line.trim().strip_prefix("debug_locks:"))?;
        Some(value.trim() != "0")
    }
}

fn odd(answer: &Answer) -> AgentError {
    AgentError::Odd(format!("{answer:.80?}"))
}

fn broken(journal: &Journal, what: &str) {
    let event = Event::Broken { what: what.to_owned() };
    journal.record(Happening::Agent { at: hotplug_protocol::GuestTime(0), event });
}

/// The number of the request, where the line is an answer.
fn hear(line: &str, pending: &mut HashMap<u64, oneshot::Sender<Answer>>, journal: &Journal) -> Option<u64> {
    match serde_json::from_str(line) {
        Ok(Say::Event { at, event }) => journal.record(Happening::Agent { at, event }),
        Ok(Say::Answer { id, answer, .. }) => {
            if let Some(reply) = pending.remove(&id) {
                let _ = reply.send(answer);
            }
            return Some(id);
        }
        Err(_) => {
            let start: String = line.chars().take(80).flat_map(char::escape_debug).collect();
            broken(journal, &format!("the agent said what is not of the protocol: {start}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdep_says_whether_it_still_checks() {
        let stats =
            " max lock class index:                  527\n debug_locks:                             1\n\n";
        let armed = |text: &str| LockdepStats(text.into()).armed();
        assert_eq!(armed(stats), Some(true));
        assert_eq!(armed(&stats.replace('1', "0")), Some(false));
        assert_eq!(armed(""), None);
    }
}

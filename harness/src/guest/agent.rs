//! The host's side of the agent's channel. Requests and answers are matched by id, and events go to
//! the event log.

use std::collections::HashMap;
use std::sync::Arc;

use hotplug_protocol::{AgentEvent, Answer, Ask, ObjectCounters, Request, Rest, Say, Snapshot};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{RwLock, mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;

use crate::event_log::{Event, EventLog};
use crate::output::Output;

/// The longest line accepted, in bytes. `/proc/lockdep` of a large kernel has 2 MB.
const LONGEST_LINE: usize = 32 << 20;

/// The file of lockdep's own statistics.
pub(crate) const LOCKDEP_STATS: &str = "/proc/lockdep_stats";

/// The file of the wait and hold times of each lock class.
pub(crate) const LOCK_STAT: &str = "/proc/lock_stat";

/// Why a request to the agent failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The channel is closed: QEMU has closed it or has exited.
    #[error("the agent's channel is closed")]
    Gone,
    /// A system call of the agent failed.
    #[error("{what} (errno {errno})")]
    Failed {
        /// `errno`.
        errno: i32,
        /// The agent's description of the failure.
        what: String,
    },
    /// The answer does not fit the request.
    #[error("the agent sent an unexpected answer: {0}")]
    Odd(String),
}

/// A handle to the agent of one guest. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Agent {
    calls: mpsc::UnboundedSender<(Request, oneshot::Sender<Answer>)>,
    gone: CancellationToken,
    transcript: Output,
    /// Locked for writing while the guest suspends.
    gate: Arc<RwLock<()>>,
}

impl Agent {
    /// Takes over a connected socket. The agent's events are recorded in `event_log`, and so is a
    /// description of input that cannot be parsed. Each request, and the time of its answer, is
    /// appended to `transcript` with the host's time.
    pub(crate) fn connect(stream: UnixStream, event_log: Arc<EventLog>, transcript: Output) -> Self {
        let (calls, mut inbox) = mpsc::unbounded_channel::<(Request, oneshot::Sender<Answer>)>();
        let written = transcript.clone();
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
                        // A connection reset means the same as the end of the stream: QEMU has
                        // exited. The exit itself is reported elsewhere.
                        None | Some(Err(LinesCodecError::Io(_))) => break,
                        Some(Err(error)) => { broken(&event_log, &error.to_string()); break }
                        Some(Ok(line)) => if let Some(id) = hear(&line, &mut pending, &event_log) {
                            note(&written, &event_log, format!("< {id}")).await;
                        },
                    },
                    call = inbox.recv() => {
                        let Some((request, reply)) = call else { break };
                        let Ok(line) = serde_json::to_string(&Ask { id: next, request }) else { break };
                        note(&written, &event_log, format!("> {line}")).await;
                        pending.insert(next, reply);
                        next += 1;
                        if write.write_all(format!("{line}\n").as_bytes()).await.is_err() { break }
                    }
                }
            }
            // The token is cancelled before the pending replies are dropped, so a caller whose
            // request fails finds `is_gone()` true.
            ended.cancel();
        });
        Self { calls, gone, transcript, gate: Arc::default() }
    }

    /// The transcript of each trial.
    pub(crate) fn transcript(&self) -> &Output {
        &self.transcript
    }

    /// Waits until the channel has ended. Safe to cancel.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether the channel has ended.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Sends a request and waits for its answer. A failed system call is an error. Safe to cancel.
    pub async fn ask(&self, request: Request) -> Result<Answer, AgentError> {
        let open = self.gate.read().await;
        let answer = self.send(request)?;
        drop(open);
        Self::answered(answer).await
    }

    /// Sends a request that suspends the guest. No other request is sent until it is answered.
    ///
    /// A guest that suspends shuts its serial lines down (`drivers/tty/serial/serial_core.c`,
    /// `uart_suspend_port()`), and what arrives meanwhile is lost. A request that is lost looks like
    /// a guest that hangs.
    pub async fn ask_alone(&self, request: Request) -> Result<Answer, AgentError> {
        let _shut = self.gate.write().await;
        // The agent reads requests in order. Once this request is answered, all earlier ones were
        // read.
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

    /// Sends a request without waiting for the answer. Requests are read in the order in which they
    /// are sent.
    pub fn tell(&self, request: Request) {
        // The next request that waits for its answer reports a closed channel.
        let _ = self.send(request);
    }

    /// The machine as the guest sees it.
    pub async fn snapshot(&self) -> Result<Snapshot, AgentError> {
        match self.ask(Request::Snapshot).await? {
            Answer::Snapshot(snapshot) => Ok(snapshot),
            other => Err(odd(&other)),
        }
    }

    /// What the guest has after its loads have ended.
    pub async fn rest(&self) -> Result<Rest, AgentError> {
        match self.ask(Request::Rest).await? {
            Answer::Rest(rest) => Ok(rest),
            other => Err(odd(&other)),
        }
    }

    /// Lockdep's own statistics. `None` for a kernel without lockdep.
    ///
    /// This must not be read while lockdep may be printing a cycle. Reading the file counts the
    /// dependencies of every class, which walks the graph and overwrites the chain that is being
    /// printed. The kernel then prints nonsense or oopses (`lockdep_count_forward_deps()` in
    /// kernel/locking/lockdep.c of 6.1 and 6.12 does not check `debug_locks`;
    /// docs/findings/lockdep-stats.md).
    pub async fn lockdep_stats(&self) -> Result<Option<LockdepStats>, AgentError> {
        Ok(self.read_if_there(LOCKDEP_STATS).await?.map(LockdepStats))
    }

    /// The wait and hold times of each lock class (Documentation/locking/lockstat.rst). `None` for
    /// a kernel without `CONFIG_LOCK_STAT`.
    pub async fn lock_stat(&self) -> Result<Option<String>, AgentError> {
        self.read_if_there(LOCK_STAT).await
    }

    /// The contents of a file in the guest.
    pub async fn read(&self, path: String) -> Result<String, AgentError> {
        match self.ask(Request::Read { path, offset: 0, length: None }).await? {
            Answer::Contents(text) => Ok(text),
            other => Err(odd(&other)),
        }
    }

    /// The contents of a file in the guest. `None` if the guest cannot read it.
    pub async fn read_if_there(&self, path: &str) -> Result<Option<String>, AgentError> {
        match self.read(path.to_owned()).await {
            Ok(text) => Ok(Some(text)),
            Err(AgentError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The current line counters of the kernel's instrumented files.
    pub async fn counters(&self) -> Result<Vec<ObjectCounters>, AgentError> {
        match self.ask(Request::Counters).await? {
            Answer::Counters(all) => Ok(all),
            other => Err(odd(&other)),
        }
    }

    /// Makes the agent send every kernel record printed so far. Returns the sequence number of the
    /// newest.
    pub async fn drain(&self) -> Result<Option<u64>, AgentError> {
        match self.ask(Request::Drain).await? {
            Answer::Drained(newest) => Ok(newest),
            other => Err(odd(&other)),
        }
    }
}

/// The contents of `/proc/lockdep_stats`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockdepStats(pub String);

impl LockdepStats {
    /// Whether lockdep still checks (`debug_locks`). `None` if the file has no such line.
    pub fn armed(&self) -> Option<bool> {
        let value = self.0.lines().find_map(|line| line.trim().strip_prefix("debug_locks:"))?;
        Some(value.trim() != "0")
    }
}

/// Appends a line to the transcript. An error is ignored: the event log reports a full disk.
async fn note(transcript: &Output, event_log: &EventLog, text: String) {
    let _ = transcript.append(format!("{} {text}\n", event_log.now().0).as_bytes()).await;
}

fn odd(answer: &Answer) -> AgentError {
    AgentError::Odd(format!("{answer:.80?}"))
}

fn broken(event_log: &EventLog, what: &str) {
    let event = AgentEvent::Broken { what: what.to_owned() };
    event_log.record(Event::Agent { at: hotplug_protocol::GuestTime(0), event });
}

/// Handles one line of the agent. Returns the id of the request if the line is an answer.
fn hear(
    line: &str,
    pending: &mut HashMap<u64, oneshot::Sender<Answer>>,
    event_log: &EventLog,
) -> Option<u64> {
    match serde_json::from_str(line) {
        Ok(Say::Event { at, event }) => event_log.record(Event::Agent { at, event }),
        Ok(Say::Answer { id, answer, .. }) => {
            if let Some(reply) = pending.remove(&id) {
                let _ = reply.send(answer);
            }
            return Some(id);
        }
        Err(_) => {
            let start: String = line.chars().take(80).flat_map(char::escape_debug).collect();
            broken(event_log, &format!("the agent sent a line outside of the protocol: {start}"));
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

//! The task that owns the QMP socket, and the handle that sends commands to it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{SetOnce, mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_util::codec::{FramedRead, LinesCodec};

use super::commands::{QmpCapabilities, QmpCommand};
use crate::Result;
use crate::guest_clock::HostTime;
use crate::limits::limits;
use crate::output::Output;
use crate::vmm::VmmEvent;

/// The longest accepted line, in bytes. The largest reply, that of `query-qmp-schema`, has 0.3 MB.
const LONGEST_LINE: usize = 16 << 20;

/// The reason why a command has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// QEMU's answer was an error.
    #[error("{desc} ({class})")]
    Refused {
        /// `GenericError`, `DeviceNotFound`, ...
        class: String,
        /// QEMU's message.
        desc: String,
    },
    /// The connection ended before the answer came.
    #[error("QEMU's monitor is gone: {0}")]
    Gone(String),
    /// The answer does not fit the command.
    #[error("QEMU sent an unexpected answer to {command}: {what}")]
    Odd {
        /// The command.
        command: &'static str,
        /// The reason: the deserializer's message, or the part that is missing.
        what: String,
    },
}

/// Receives the events and the failures of a monitor.
pub trait MonitorLog: std::fmt::Debug + Send + Sync {
    /// Handles an event.
    fn event(&self, event: VmmEvent);

    /// The host's current time. Each line of the transcript is stamped with it.
    fn now(&self) -> HostTime;

    /// Handles a failure to write the transcript.
    fn fail(&self, error: &std::io::Error);
}

/// A handle to QEMU's monitor. It is cheap to clone. Dropping all handles closes the connection.
#[derive(Debug, Clone)]
pub struct Qmp {
    calls: mpsc::UnboundedSender<Call>,
    transcript: Output,
    /// The reason why the monitor can no longer be used.
    gone: Arc<SetOnce<String>>,
}

#[derive(Debug)]
struct Call {
    command: Value,
    reply: oneshot::Sender<Result<Value, QmpError>>,
}

impl Qmp {
    /// Takes over a connected socket, negotiates, and serves it. Every line in either direction is
    /// appended to `transcript` with the host's time. `log` receives the events, and a failure to
    /// write the transcript.
    pub async fn connect(
        stream: UnixStream,
        log: Arc<dyn MonitorLog>,
        transcript: &Path,
    ) -> Result<Self, QmpError> {
        let transcript = Output::create(transcript).await.map_err(|error| {
            log.fail(&error);
            QmpError::Gone(error.to_string())
        })?;
        let gone: Arc<SetOnce<String>> = Arc::default();
        let (calls, inbox) = mpsc::unbounded_channel();
        let (read, write) = stream.into_split();
        let lines = FramedRead::new(read, LinesCodec::new_with_max_length(LONGEST_LINE));
        let (greeted, greeting) = oneshot::channel();
        let owner = Owner {
            write,
            log,
            transcript: transcript.clone(),
            pending: HashMap::new(),
            next: 0,
            greeted: Some(greeted),
            gone: gone.clone(),
        };
        tokio::spawn(owner.serve(lines, inbox));
        let qmp = Self { calls, transcript, gone };
        greeting.await.map_err(|_| qmp.why_gone())?;
        qmp.execute(QmpCapabilities {}).await?;
        Ok(qmp)
    }

    /// The transcript of each trial.
    pub(crate) fn transcript(&self) -> &Output {
        &self.transcript
    }

    /// Runs one command. Safe to cancel: a late answer is recorded and dropped.
    pub async fn execute<C: QmpCommand>(&self, command: C) -> Result<C::Answer, QmpError> {
        let odd = |error: serde_json::Error| QmpError::Odd { command: C::NAME, what: error.to_string() };
        let mut message = json!({ "execute": C::NAME });
        let arguments = serde_json::to_value(&command).map_err(odd)?;
        if arguments.as_object().is_some_and(|map| !map.is_empty()) {
            message["arguments"] = arguments;
        }
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call { command: message, reply }).map_err(|_| self.why_gone())?;
        let Ok(answer) = tokio::time::timeout(limits().monitor, answer).await else {
            let why = format!("it did not answer {} within {} s", C::NAME, limits().monitor.as_secs_f64());
            let _ = self.gone.set(why);
            return Err(self.why_gone());
        };
        let value = answer.map_err(|_| self.why_gone())??;
        serde_json::from_value(value).map_err(odd)
    }

    /// Waits until the monitor can no longer be used, and returns the reason. Safe to cancel.
    pub async fn gone(&self) -> String {
        self.gone.wait().await.clone()
    }

    /// Whether the monitor can no longer be used.
    pub fn is_gone(&self) -> bool {
        self.gone.initialized()
    }

    fn why_gone(&self) -> QmpError {
        QmpError::Gone(self.gone.get().cloned().unwrap_or_else(|| "connection closed".into()))
    }
}

/// The state of the task that owns the socket.
struct Owner {
    write: OwnedWriteHalf,
    log: Arc<dyn MonitorLog>,
    transcript: Output,
    pending: HashMap<u64, oneshot::Sender<Result<Value, QmpError>>>,
    next: u64,
    /// Taken when the greeting arrives. Events can arrive before it.
    greeted: Option<oneshot::Sender<()>>,
    gone: Arc<SetOnce<String>>,
}

impl Owner {
    async fn serve(
        mut self,
        mut lines: FramedRead<tokio::net::unix::OwnedReadHalf, LinesCodec>,
        mut inbox: mpsc::UnboundedReceiver<Call>,
    ) {
        let why = loop {
            tokio::select! {
                line = lines.next() => match line {
                    None => break "it closed the connection".to_owned(),
                    Some(Err(error)) => break error.to_string(),
                    Some(Ok(line)) => if let Err(why) = self.hear(&line).await { break why },
                },
                call = inbox.recv() => match call {
                    None => break "no handle is left".to_owned(),
                    Some(call) => if let Err(error) = self.say(call).await { break error.to_string() },
                },
            }
        };
        // The reason is set before the waiting calls receive their errors.
        let _ = self.gone.set(why.clone());
        for (_, reply) in self.pending.drain() {
            // The call that waited may have been cancelled.
            let _ = reply.send(Err(QmpError::Gone(why.clone())));
        }
        let _ = self.transcript.finish().await;
    }

    async fn say(&mut self, call: Call) -> std::io::Result<()> {
        let mut command = call.command;
        command["id"] = self.next.into();
        self.pending.insert(self.next, call.reply);
        self.next += 1;
        let line = command.to_string();
        self.note('>', &line).await;
        self.write.write_all(format!("{line}\n").as_bytes()).await
    }

    /// Handles one line from QEMU. A line that is not JSON ends the connection, because nothing
    /// after it is reliable.
    async fn hear(&mut self, line: &str) -> Result<(), String> {
        self.note('<', line).await;
        if line.trim().is_empty() {
            return Ok(());
        }
        let mut message: Value = serde_json::from_str(line)
            .map_err(|_| format!("it sent a line that is not JSON: {}", excerpt(line)))?;
        if message.get("QMP").is_some() {
            if let Some(greeted) = self.greeted.take() {
                let _ = greeted.send(());
            }
        } else if let Some(event) = message.get("event").and_then(Value::as_str) {
            let name = event.to_owned();
            self.log.event(VmmEvent::of_qmp(&name, message["data"].take()));
        } else if let Some(reply) = message["id"].as_u64().and_then(|id| self.pending.remove(&id)) {
            let error = &message["error"];
            let result = if error.is_object() {
                let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
                Err(QmpError::Refused { class: text("class"), desc: text("desc") })
            } else {
                Ok(message["return"].take())
            };
            let _ = reply.send(result);
        }
        Ok(())
    }

    async fn note(&mut self, direction: char, line: &str) {
        let HostTime(at) = self.log.now();
        let line = format!("{at} {direction} {line}\n");
        if let Err(error) = self.transcript.append(line.as_bytes()).await {
            self.log.fail(&error);
        }
    }
}

fn excerpt(line: &str) -> String {
    line.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use crate::event_log::{Event, EventLog};
    use crate::vmm::qmp::commands::StopVcpus;
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    /// The test plays QEMU's side of the socket.
    fn pair() -> (tokio::task::JoinHandle<Result<Qmp, QmpError>>, UnixStream, Arc<EventLog>, tempfile::TempDir)
    {
        let dir = tempfile::tempdir().unwrap();
        let event_log = EventLog::create(&dir.path().join("events.jsonl")).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (log, transcript) = (event_log.clone(), dir.path().join("qmp.log"));
        let client = tokio::spawn(async move { Qmp::connect(ours, log, &transcript).await });
        (client, theirs, event_log, dir)
    }

    async fn greet(qemu: &mut BufReader<UnixStream>) {
        let hello = "{\"event\":\"EARLY\",\"data\":{}}\n{\"QMP\":{\"version\":{},\"capabilities\":[]}}\n";
        qemu.get_mut().write_all(hello.as_bytes()).await.unwrap();
        let mut line = String::new();
        qemu.read_line(&mut line).await.unwrap();
        assert!(line.contains("qmp_capabilities"), "{line}");
        qemu.get_mut().write_all(b"{\"return\":{},\"id\":0}\n").await.unwrap();
    }

    #[tokio::test]
    async fn unknown_events_and_late_replies_are_no_harm() {
        let (client, theirs, event_log, dir) = pair();
        let mut heard = event_log.listen();
        let mut qemu = BufReader::new(theirs);
        greet(&mut qemu).await;
        let qmp = client.await.unwrap().unwrap();
        let text = b"{\"event\":\"NEW_IN_QEMU_12\",\"data\":{\"x\":1}}\n{\"return\":{},\"id\":77}\n";
        qemu.get_mut().write_all(text).await.unwrap();
        let ask = tokio::spawn(async move { qmp.execute(StopVcpus {}).await });
        let mut line = String::new();
        qemu.read_line(&mut line).await.unwrap();
        assert_eq!(line, "{\"execute\":\"stop\",\"id\":1}\n");
        let refusal = b"{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"},\"id\":1}\n";
        qemu.get_mut().write_all(refusal).await.unwrap();
        let refused = QmpError::Refused { class: "GenericError".into(), desc: "no".into() };
        assert_eq!(ask.await.unwrap().unwrap_err(), refused);
        let names: Vec<_> = [heard.next().await.unwrap(), heard.next().await.unwrap()]
            .iter()
            .map(|s| match &s.what {
                Event::Vmm(VmmEvent::Other { name, .. }) => name.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["EARLY", "NEW_IN_QEMU_12"]);
        drop(dir);
    }

    #[tokio::test]
    async fn garbage_and_a_closed_socket_fail_what_waits() {
        for text in ["\u{7}ELF garbage\n", "{\"return\":{},\"id"] {
            let (client, theirs, _log, _dir) = pair();
            let mut qemu = BufReader::new(theirs);
            greet(&mut qemu).await;
            let qmp = client.await.unwrap().unwrap();
            let ask = tokio::spawn(async move { qmp.execute(StopVcpus {}).await });
            qemu.read_line(&mut String::new()).await.unwrap();
            qemu.get_mut().write_all(text.as_bytes()).await.unwrap();
            drop(qemu);
            assert!(matches!(ask.await.unwrap(), Err(QmpError::Gone(_))), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_never_answers_is_gone() {
        let (client, theirs, _log, _dir) = pair();
        let mut qemu = BufReader::new(theirs);
        greet(&mut qemu).await;
        let qmp = client.await.unwrap().unwrap();
        let error = qmp.execute(StopVcpus {}).await.unwrap_err();
        assert_eq!(error, QmpError::Gone("it did not answer stop within 60 s".into()));
        assert!(qmp.is_gone());
        assert_eq!(qmp.gone().await, "it did not answer stop within 60 s");
    }
}

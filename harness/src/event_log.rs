//! The stream of all events of a trial. The host stamps each event and appends it to the trial's
//! file as it arrives, and every subscriber receives it.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hotplug_protocol::GuestTime;
use serde::{Deserialize, Serialize};
use tokio::sync::{SetOnce, broadcast};

use crate::guest_clock::{GuestClock, HostTime};
use crate::rendezvous::{HoldOutcome, Task};
use crate::scenario::{Operation, Phase, Point};
use crate::vmm::VmmEvent;
use crate::vmm::qmp::MonitorLog;
use crate::{Error, Result};

/// The number of events that a slow subscriber may lag behind before it gets an error, because it
/// missed some. Kernel records are not in the event log, so a trial has a few hundred events.
const BACKLOG: usize = 1 << 14;

/// The most bytes of a trial's event log. This bounds the memory too, because subscribers lag
/// behind by no more than all of it. A trial takes some kilobytes.
const LIMIT: usize = 16 << 20;

/// An event with the host's time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stamped {
    /// When the host received it.
    pub at: HostTime,
    /// The event.
    pub what: Event,
}

/// An event of a trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The trial reached a stage.
    Stage(Stage),
    /// An event of QEMU. `qmp.log` has it as QEMU sent it.
    Vmm(VmmEvent),
    /// An event of the guest's agent.
    Agent {
        /// The time on the guest's clock.
        at: GuestTime,
        /// The event that the agent sent.
        event: hotplug_protocol::AgentEvent,
    },
    /// The agent brought a hot-added CPU online, or failed to do so. The event also gives the CPU's
    /// slot in ACPI's list of CPUs.
    CpuReady {
        /// Its logical number in the guest.
        cpu: u32,
        /// Its slot, as in `ACPI_DEVICE_OST`.
        slot: u32,
        /// 0, or the `errno` with which it failed.
        errno: i32,
    },
    /// An operation began: its request is about to be sent.
    OperationBegan {
        /// Its number within the trial.
        number: usize,
        /// The lane it belongs to.
        lane: String,
        /// The operation.
        operation: Operation,
    },
    /// An operation reached a phase.
    OperationReached {
        /// Its number within the trial.
        number: usize,
        /// The phase.
        phase: Phase,
    },
    /// An operation ended.
    OperationEnded {
        /// Its number within the trial.
        number: usize,
        /// The outcome.
        outcome: OperationOutcome,
    },
    /// A task or vCPU is held.
    Held {
        /// The place where it is held.
        at: Point,
        /// The held task, or the task that the held vCPU runs.
        task: Option<Task>,
    },
    /// A held task or vCPU was released.
    LetGo {
        /// The place where it was held.
        at: Point,
        /// The outcome of the hold.
        outcome: HoldOutcome,
    },
    /// The serial console printed a panic.
    Panic,
}

/// The outcome of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationOutcome {
    /// The operation was done, and the guest confirms it.
    Done,
    /// The guest refused the operation.
    RefusedByGuest {
        /// The guest's own code: an `_OST` status or an `errno`.
        how: String,
    },
    /// QEMU refused the operation.
    FailedInQemu {
        /// QEMU's error message.
        error: String,
    },
    /// The operation neither completed nor was refused in time.
    TimedOut,
    /// The operation was not requested, because an earlier one was refused or its trigger did not
    /// occur.
    Skipped {
        /// The reason.
        why: String,
    },
    /// The trial ended first: the guest panicked, QEMU died, or another operation timed out.
    CutOff,
}

impl OperationOutcome {
    /// Whether the guest or QEMU refused the operation.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::RefusedByGuest { .. } | Self::FailedInQemu { .. })
    }
}

/// Stages of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// QEMU was started.
    Started,
    /// A worker began the trial. Its QEMU may have been started ahead of need.
    Taken,
    /// The guest is booted or restored, and its agent accepts requests.
    Ready,
    /// The loads run, and the lanes begin.
    Lanes,
    /// All lanes have ended.
    Settling,
    /// The last kernel record was received.
    Collected,
}

/// Why a trial cannot continue, as far as the guest's output channels show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The console printed a panic.
    Panicked,
    /// The input is invalid, or arrives too fast to be processed.
    Broken(String),
}

/// The event log of a guest, with a file for each of its trials.
#[derive(Debug)]
pub struct EventLog {
    /// The zero of the host's clock: the beginning of the trial.
    began: Mutex<Instant>,
    inner: Mutex<Inner>,
    listeners: broadcast::Sender<Arc<Stamped>>,
    /// The first error in writing the trial's evidence.
    failure: SetOnce<(std::io::ErrorKind, String)>,
    /// The first reason to end the trial. It is kept, because it may come while no subscriber
    /// waits.
    ending: Arc<SetOnce<Ending>>,
    /// The guest shut down or reset itself.
    shut_down: SetOnce<()>,
}

#[derive(Debug)]
struct Inner {
    file: fs_err::File,
    room: usize,
    clocks: GuestClock,
}

impl EventLog {
    /// Creates an event log that is also appended to `path`, one JSON object a line.
    pub fn create(path: &Path) -> Result<Arc<Self>> {
        let inner = Mutex::new(Inner::create(path)?);
        Ok(Arc::new(Self {
            began: Mutex::new(Instant::now()),
            inner,
            listeners: broadcast::Sender::new(BACKLOG),
            failure: SetOnce::new(),
            ending: Arc::default(),
            shut_down: SetOnce::new(),
        }))
    }

    /// Begins the file of the guest's next trial, whose time begins now. Subscriptions go on.
    pub(crate) fn next_trial(&self, path: &Path) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        *inner = Inner::create(path)?;
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(())
    }

    /// The current time on the host's clock.
    pub fn now(&self) -> HostTime {
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        HostTime(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Records `what` and sends it to all subscribers. Once the log is full, nothing more is
    /// recorded, and the trial ends.
    pub fn record(&self, what: Event) {
        // The event is stamped under the lock, so times never run backwards in the file.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let stamped = Stamped { at: self.now(), what };
        match &stamped.what {
            Event::Agent { at: guest @ GuestTime(1..), .. } => inner.clocks.heard(stamped.at, *guest),
            Event::Vmm(VmmEvent::Stopped) => inner.clocks.stopped(stamped.at),
            Event::Vmm(VmmEvent::Resumed) => inner.clocks.resumed(stamped.at),
            _ => {}
        }
        match &stamped.what {
            Event::Vmm(VmmEvent::ShutDown) => drop(self.shut_down.set(())),
            Event::Panic => drop(self.ending.set(Ending::Panicked)),
            Event::Agent { event: hotplug_protocol::AgentEvent::Broken { what }, .. } => {
                let _ = self.ending.set(Ending::Broken(what.clone()));
            }
            _ => {}
        }
        if let Ok(mut line) = serde_json::to_vec(&stamped) {
            line.push(b'\n');
            let Some(room) = inner.room.checked_sub(line.len()) else {
                inner.room = 0;
                let what = format!("the guest or its QEMU sent more than {} MiB of events", LIMIT >> 20);
                let _ = self.ending.set(Ending::Broken(what));
                return;
            };
            inner.room = room;
            if let Err(error) = inner.file.write_all(&line) {
                self.fail(&error);
            }
        }
        // An error only means that there is no subscriber now.
        let _ = self.listeners.send(Arc::new(stamped));
    }

    /// A record of the kernel's log has arrived, with its time stamp.
    pub fn printed(&self, guest: GuestTime) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        inner.clocks.printed(now, guest);
    }

    /// The host's time for a time in the kernel's log. A record takes a while to arrive, so the result
    /// distinguishes operations, but does not measure latency.
    pub fn host_time(&self, guest: GuestTime) -> Option<HostTime> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clocks.host_time(guest)
    }

    /// Records that evidence could not be written, so that the trial cannot continue. The first
    /// such error is kept.
    pub fn fail(&self, error: &std::io::Error) {
        let _ = self.failure.set((error.kind(), error.to_string()));
    }

    /// Waits until an error in writing evidence is recorded. Safe to cancel.
    pub async fn failed(&self) {
        self.failure.wait().await;
    }

    /// Returns the error in writing evidence, if there was one.
    pub fn check(&self) -> Result<()> {
        match self.failure.get() {
            Some((kind, text)) => Err(std::io::Error::new(*kind, text.clone()).into()),
            None => Ok(()),
        }
    }

    /// Subscribes to everything recorded from now on.
    pub fn listen(&self) -> Subscription {
        Subscription { heard: self.listeners.subscribe(), ending: self.ending.clone() }
    }

    /// Waits for a reason to end the trial. It may have been recorded before. Safe to cancel.
    pub async fn ending(&self) -> Ending {
        self.ending.wait().await.clone()
    }

    /// Waits until the guest has shut down or reset itself, which may be long ago. Safe to cancel.
    pub async fn shut_down(&self) {
        self.shut_down.wait().await;
    }

    /// Whether there is a reason to end the trial.
    pub fn has_ending(&self) -> bool {
        self.ending.initialized()
    }
}

impl Inner {
    fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: fs_err::File::create(path)?, room: LIMIT, clocks: GuestClock::default() })
    }
}

/// A subscription to the event log.
#[derive(Debug)]
pub struct Subscription {
    heard: broadcast::Receiver<Arc<Stamped>>,
    ending: Arc<SetOnce<Ending>>,
}

impl Subscription {
    /// The next event. Fails if events were missed, because a caller that waits for one of them
    /// would wait for ever.
    pub async fn next(&mut self) -> Result<Arc<Stamped>> {
        self.heard.recv().await.map_err(|error| {
            if let broadcast::error::RecvError::Lagged(missed) = error {
                let what = format!("events arrive faster than they can be processed: {missed} were missed");
                let _ = self.ending.set(Ending::Broken(what));
            }
            Error::infrastructure(format!("the trial's event log: {error}"))
        })
    }

    /// Waits until `find` returns a value for an event.
    pub async fn until<T>(&mut self, mut find: impl FnMut(&Event) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = find(&self.next().await?.what) {
                return Ok(found);
            }
        }
    }
}

impl MonitorLog for EventLog {
    fn event(&self, event: VmmEvent) {
        self.record(Event::Vmm(event));
    }

    fn now(&self) -> HostTime {
        Self::now(self)
    }

    fn fail(&self, error: &std::io::Error) {
        Self::fail(self, error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uevent(at: u64, devpath: &str) -> Event {
        let event = hotplug_protocol::AgentEvent::Uevent { action: "change".into(), devpath: devpath.into() };
        Event::Agent { at: GuestTime(at), event }
    }

    #[tokio::test]
    async fn a_flood_ends_the_trial_and_fills_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let event_log = EventLog::create(&path).unwrap();
        let devpath = "x".repeat(1 << 20);
        for _ in 0..80 {
            event_log.record(uevent(1, &devpath));
        }
        assert!(event_log.has_ending());
        assert!(matches!(event_log.ending().await, Ending::Broken(what) if what.contains("16 MiB")));
        let length = fs_err::metadata(&path).unwrap().len();
        assert!((8 << 20..=16 << 20).contains(&length), "{length}");
        // The reason to end is set once, and the first one stays.
        event_log.record(Event::Panic);
        assert!(matches!(event_log.ending().await, Ending::Broken(_)));
    }

    #[tokio::test]
    async fn who_missed_something_ends_the_trial() {
        let dir = tempfile::tempdir().unwrap();
        let event_log = EventLog::create(&dir.path().join("events.jsonl")).unwrap();
        let mut heard = event_log.listen();
        for _ in 0..=BACKLOG {
            event_log.record(uevent(1, "/devices"));
        }
        heard.next().await.unwrap_err();
        assert!(matches!(event_log.ending().await, Ending::Broken(what) if what.contains("1 were missed")));
    }

    #[test]
    fn a_clock_that_jumps_is_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let event_log = EventLog::create(&dir.path().join("events.jsonl")).unwrap();
        for at in [0, u64::MAX, 1, u64::MAX / 2, 3_600_000_000] {
            event_log.record(uevent(at, "/devices"));
        }
        // The furthest jump ahead counts as the smallest delay, so the time in question lies before
        // the trial.
        assert_eq!(event_log.host_time(GuestTime(5_000_000)), Some(HostTime(0)));
    }
}

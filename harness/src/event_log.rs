//! The one stream of what happens in a trial: stamped by the host, appended to the trial's file as it comes, and
//! heard by whoever waits for something.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hotplug_protocol::GuestTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{SetOnce, broadcast};

use crate::guest_clock::{GuestClock, HostTime};
use crate::rendezvous::{HoldOutcome, Task};
use crate::scenario::{Operation, Phase, Point};
use crate::{Error, Result};

/// Happenings a slow listener may lag behind before it is told that it missed some. Kernel records are not in the
/// journal, so a trial has a few hundred.
const BACKLOG: usize = 1 << 14;

/// What a trial's journal may take, bytes: of memory too, because listeners lag behind by no more than all of it. A
/// trial takes some kilobytes.
const LIMIT: usize = 16 << 20;

/// A happening and when the host learned of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stamped {
    /// When the host learned of it.
    pub at: HostTime,
    /// What.
    pub what: Happening,
}

/// What can happen in a trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    /// The trial reached a stage.
    Stage(Stage),
    /// An asynchronous QMP event, known or not, as QEMU sent it.
    Qmp {
        /// `DEVICE_DELETED`, `ACPI_DEVICE_OST`, ...
        event: String,
        /// Its `data`, or null.
        data: Value,
    },
    /// An event of the guest's agent.
    Agent {
        /// The guest's own clock.
        at: GuestTime,
        /// What the agent said.
        event: hotplug_protocol::Event,
    },
    /// The agent brought a hot-added CPU online, or failed to; it is known by its slot in ACPI's list of CPUs.
    CpuReady {
        /// Its logical number in the guest.
        cpu: u32,
        /// Its slot, as in `ACPI_DEVICE_OST`.
        slot: u32,
        /// 0, or why it did not come online.
        errno: i32,
    },
    /// An operation began: its request is about to be sent.
    OperationBegan {
        /// Its number within the trial.
        number: usize,
        /// The lane it belongs to.
        lane: String,
        /// What is done.
        operation: Operation,
    },
    /// An operation came so far.
    OperationReached {
        /// Its number within the trial.
        number: usize,
        /// How far.
        phase: Phase,
    },
    /// An operation ended.
    OperationEnded {
        /// Its number within the trial.
        number: usize,
        /// What came of it.
        outcome: OperationOutcome,
    },
    /// A vCPU is held.
    Held {
        /// Where.
        at: Point,
        /// Who it runs.
        task: Option<Task>,
    },
    /// It was let go.
    LetGo {
        /// Where it was held.
        at: Point,
        /// What came of it.
        outcome: HoldOutcome,
    },
    /// The serial console carried a panic.
    Panic,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationOutcome {
    /// It happened, and the guest agrees.
    Done,
    /// The guest said no.
    RefusedByGuest {
        /// In its own terms: an OST status, an errno.
        how: String,
    },
    /// QEMU said no.
    FailedInQemu {
        /// QEMU's words.
        error: String,
    },
    /// Neither an end nor a refusal came in time.
    TimedOut,
    /// It was not asked for: an earlier one was refused, or what it waits for did not come.
    Skipped {
        /// Which.
        why: String,
    },
    /// The trial ended first: the guest panicked, QEMU died, another operation timed out.
    CutOff,
}

impl OperationOutcome {
    /// The guest or QEMU said no.
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
    /// A worker took the trial up; its QEMU may have been started ahead of need.
    Taken,
    /// The guest is booted, or restored, and its agent can be asked.
    Ready,
    /// Loads run; the lanes begin.
    Lanes,
    /// All lanes have ended.
    Settling,
    /// The last kernel record was received.
    Collected,
}

/// Why a trial cannot go on, as far as the guest's voices tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The console carried a panic.
    Panicked,
    /// What is heard cannot be believed, or cannot be followed.
    Broken(String),
}

/// The journal of one trial.
#[derive(Debug)]
pub struct Journal {
    began: Instant,
    inner: Mutex<Inner>,
    listeners: broadcast::Sender<Arc<Stamped>>,
    /// The first error of writing a trial's evidence.
    failure: SetOnce<(std::io::ErrorKind, String)>,
    /// The first reason to end the trial. Kept, because it may come while nobody listens.
    ending: Arc<SetOnce<Ending>>,
}

#[derive(Debug)]
struct Inner {
    file: fs_err::File,
    room: usize,
    clocks: GuestClock,
}

impl Journal {
    /// Starts a journal that is also appended to `path`, one JSON object a line.
    pub fn create(path: &Path) -> Result<Arc<Self>> {
        let inner = Mutex::new(Inner {
            file: fs_err::File::create(path)?,
            room: LIMIT,
            clocks: GuestClock::default(),
        });
        Ok(Arc::new(Self {
            began: Instant::now(),
            inner,
            listeners: broadcast::Sender::new(BACKLOG),
            failure: SetOnce::new(),
            ending: Arc::default(),
        }))
    }

    /// The host's clock now.
    pub fn now(&self) -> HostTime {
        HostTime(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Records `what` and tells all listeners. Nothing more once the journal is full: the trial then ends.
    pub fn record(&self, what: Happening) {
        // Stamped under the lock, so that times never run backwards in the file.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let stamped = Stamped { at: self.now(), what };
        match &stamped.what {
            Happening::Agent { at: guest @ GuestTime(1..), .. } => inner.clocks.heard(stamped.at, *guest),
            Happening::Qmp { event, .. } if event == "STOP" => inner.clocks.stopped(stamped.at),
            Happening::Qmp { event, .. } if event == "RESUME" => inner.clocks.resumed(stamped.at),
            _ => {}
        }
        match &stamped.what {
            Happening::Panic => drop(self.ending.set(Ending::Panicked)),
            Happening::Agent { event: hotplug_protocol::Event::Broken { what }, .. } => {
                let _ = self.ending.set(Ending::Broken(what.clone()));
            }
            _ => {}
        }
        if let Ok(mut line) = serde_json::to_vec(&stamped) {
            line.push(b'\n');
            let Some(room) = inner.room.checked_sub(line.len()) else {
                inner.room = 0;
                let what = format!("the guest or its QEMU says more than {} MiB of events", LIMIT >> 20);
                let _ = self.ending.set(Ending::Broken(what));
                return;
            };
            inner.room = room;
            if let Err(error) = inner.file.write_all(&line) {
                self.fail(&error);
            }
        }
        // An error only says that nobody listens now.
        let _ = self.listeners.send(Arc::new(stamped));
    }

    /// The host's time of a moment on the guest's clock. The kernel's own stamps (`local_clock`) run a few milliseconds
    /// beside `CLOCK_MONOTONIC`, and an event takes a while to arrive: good for telling operations apart, not for
    /// latency.
    pub fn host_time(&self, guest: GuestTime) -> Option<HostTime> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clocks.host_time(guest)
    }

    /// Evidence could not be written: the trial cannot go on. The first such error is kept.
    pub fn fail(&self, error: &std::io::Error) {
        let _ = self.failure.set((error.kind(), error.to_string()));
    }

    /// Waits until evidence could not be written. Safe to cancel.
    pub async fn failed(&self) {
        self.failure.wait().await;
    }

    /// The error of writing evidence, if there was one.
    pub fn check(&self) -> Result<()> {
        match self.failure.get() {
            Some((kind, text)) => Err(std::io::Error::new(*kind, text.clone()).into()),
            None => Ok(()),
        }
    }

    /// Hears everything recorded from now on.
    pub fn listen(&self) -> Listener {
        Listener { heard: self.listeners.subscribe(), ending: self.ending.clone() }
    }

    /// Waits for a reason to end the trial, which may have come before. Safe to cancel.
    pub async fn ending(&self) -> Ending {
        self.ending.wait().await.clone()
    }

    /// Whether there is a reason to end the trial.
    pub fn has_ending(&self) -> bool {
        self.ending.initialized()
    }
}

/// One waiter's ear on the journal.
#[derive(Debug)]
pub struct Listener {
    heard: broadcast::Receiver<Arc<Stamped>>,
    ending: Arc<SetOnce<Ending>>,
}

impl Listener {
    /// The next happening. An error where some were missed: whoever waited for one of them would wait for ever.
    pub async fn next(&mut self) -> Result<Arc<Stamped>> {
        self.heard.recv().await.map_err(|error| {
            if let broadcast::error::RecvError::Lagged(missed) = error {
                let what = format!("events come faster than they can be followed: {missed} were missed");
                let _ = self.ending.set(Ending::Broken(what));
            }
            Error::infrastructure(format!("the trial's journal: {error}"))
        })
    }

    /// Waits until `find` returns something for a happening.
    pub async fn until<T>(&mut self, mut find: impl FnMut(&Happening) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = find(&self.next().await?.what) {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uevent(at: u64, devpath: &str) -> Happening {
        let event = hotplug_protocol::Event::Uevent { action: "change".into(), devpath: devpath.into() };
        Happening::Agent { at: GuestTime(at), event }
    }

    #[tokio::test]
    async fn a_flood_ends_the_trial_and_fills_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let journal = Journal::create(&path).unwrap();
        let devpath = "x".repeat(1 << 20);
        for _ in 0..80 {
            journal.record(uevent(1, &devpath));
        }
        assert!(journal.has_ending());
        assert!(matches!(journal.ending().await, Ending::Broken(what) if what.contains("16 MiB")));
        let length = fs_err::metadata(&path).unwrap().len();
        assert!((8 << 20..=16 << 20).contains(&length), "{length}");
        // What was to be told is told once, and the first reason stays.
        journal.record(Happening::Panic);
        assert!(matches!(journal.ending().await, Ending::Broken(_)));
    }

    #[tokio::test]
    async fn who_missed_something_ends_the_trial() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(&dir.path().join("events.jsonl")).unwrap();
        let mut heard = journal.listen();
        for _ in 0..=BACKLOG {
            journal.record(uevent(1, "/devices"));
        }
        heard.next().await.unwrap_err();
        assert!(matches!(journal.ending().await, Ending::Broken(what) if what.contains("1 were missed")));
    }

    #[test]
    fn a_clock_that_jumps_is_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(&dir.path().join("events.jsonl")).unwrap();
        for at in [0, u64::MAX, 1, u64::MAX / 2, 3_600_000_000] {
            journal.record(uevent(at, "/devices"));
        }
        // The furthest jump ahead is taken for the least delay: what is asked for then lies before the trial.
        assert_eq!(journal.host_time(GuestTime(5_000_000)), Some(HostTime(0)));
    }
}

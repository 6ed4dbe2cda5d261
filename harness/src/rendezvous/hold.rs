//! The outcome of one hold.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::guest_clock::HostTime;
use crate::scenario::Point;

/// A task of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name (`comm`), as read from the guest's memory.
    pub comm: String,
    /// Its process id.
    pub pid: u32,
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.comm, self.pid)
    }
}

/// A task that waited while another task was held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The waiting task.
    pub task: Task,
    /// The lock that it waits for, by lockdep's name for its class. `None` if it waits for
    /// something else.
    pub lock: Option<String>,
    /// The functions on its stack, innermost first, without those that every wait has.
    pub frames: Vec<String>,
}

/// The outcome of a hold. If a trial makes several tries, the first outcome in this order counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HoldOutcome {
    /// Another task came to the second place while the first was held at its own.
    Met,
    /// The other task was seen waiting for a lock that the held task has, and came to the second
    /// place after the held task was released.
    Excluded {
        /// The lock, by lockdep's name for its class.
        lock: String,
    },
    /// The limit passed, and another task came to the second place later. It and the held task have
    /// a lock that only one task at a time may have, so they cannot meet.
    BothHold {
        /// The lock, by lockdep's name for its class.
        lock: String,
    },
    /// The limit passed, and another task came to the second place later.
    Limit,
    /// Every other CPU spun or idled during the hold, waiting for the held one.
    BlockedAll,
    /// No task came to the second place, neither during the hold nor later.
    PartnerNotReached,
    /// No task came to the first place.
    NotReached,
    /// The kernel lacks one of the two places.
    NoSuchPlace,
    /// A delay of the full length.
    Delayed,
    /// The trial ended during the hold.
    CutOff,
}

impl std::fmt::Display for HoldOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::Excluded { lock } => return write!(f, "excluded by {lock}"),
            Self::BothHold { lock } => return write!(f, "released by the limit, both hold {lock}"),
            Self::Limit => "released by the limit",
            Self::BlockedAll => "blocked all CPUs",
            Self::PartnerNotReached => "partner not reached",
            Self::NotReached => "not reached",
            Self::NoSuchPlace => "no such place",
            Self::Delayed => "delayed",
            Self::CutOff => "cut off",
        })
    }
}

/// One hold, or one that never began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The place where the task was held.
    pub hold: Point,
    /// The place that another task should reach meanwhile. `None` for a delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Point>,
    /// The outcome.
    pub outcome: HoldOutcome,
    /// The task that was held.
    pub task: Option<Task>,
    /// The task that came to the second place.
    pub partner: Option<Task>,
    /// When the hold began. `None` if it did not begin.
    pub at: Option<HostTime>,
    /// How long tasks were held, in microseconds of guest time: the first task until the other one
    /// came, plus the task that was released last until its release.
    pub held_us: u64,
    /// Whether, after the two had met, the task that was released first returned while the other
    /// one was still held.
    pub went_through: bool,
    /// The tasks that waited during the hold for locks that the held task has, or that such a
    /// waiter has. If the two tasks did not meet, also the tasks that at the end slept with locks
    /// of their own and waited for something else.
    pub waiting: Vec<Waiting>,
}

impl Hold {
    /// A hold that has not begun.
    pub fn of(hold: &Point, until: Option<&Point>) -> Self {
        Self {
            hold: hold.clone(),
            until: until.cloned(),
            outcome: HoldOutcome::NotReached,
            task: None,
            partner: None,
            at: None,
            held_us: 0,
            went_through: false,
            waiting: Vec::new(),
        }
    }

    /// A description, such as `offline_pages held until _cpu_up: met`.
    pub fn words(&self) -> String {
        match &self.until {
            Some(until) => format!("{} held until {until}: {}", self.hold, self.outcome),
            None => format!("{} delayed by {} us", self.hold, self.held_us),
        }
    }
}

//! What came of one hold.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::guest_clock::HostTime;
use crate::scenario::Point;

/// A task of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name (`comm`), as the guest's memory has it.
    pub comm: String,
    /// Its number.
    pub pid: u32,
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.comm, self.pid)
    }
}

/// A task that waited while another was held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Who.
    pub task: Task,
    /// For which lock, by lockdep's name for its class; none of one that waits for something else.
    pub lock: Option<String>,
    /// Where, innermost first, without what every wait has.
    pub frames: Vec<String>,
}

/// What came of it. Of several tries of a trial, the first in this order counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HoldOutcome {
    /// Another task came to the second place while the first stood at its own.
    Met,
    /// The other task was seen waiting for a lock that the held one has, and came to the second place when it was let go.
    Excluded {
        /// By lockdep's name for its class.
        lock: String,
    },
    /// The time was over; another came to the second place later, and it and the held one have a lock that only one at a time
    /// may have: they cannot meet.
    BothHold {
        /// By lockdep's name for its class.
        lock: String,
    },
    /// The time was over; another came to the second place later.
    Limit,
    /// Every other CPU span or idled meanwhile, waiting for the held one.
    BlockedAll,
    /// Nobody came to the second place, neither meanwhile nor later.
    PartnerNotReached,
    /// Nobody came to the first place.
    NotReached,
    /// The kernel has not both places.
    NoSuchPlace,
    /// A delay that was as long as it should be.
    Delayed,
    /// The trial ended meanwhile.
    CutOff,
}

impl std::fmt::Display for HoldOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::Excluded { lock } => return write!(f, "excluded by {lock}"),
            Self::BothHold { lock } => return write!(f, "released by the limit, both hold {lock}"),
            Self::Limit => "released by the limit",
            Self::BlockedAll => "blocked everybody",
            Self::PartnerNotReached => "partner not reached",
            Self::NotReached => "not reached",
            Self::NoSuchPlace => "no such place",
            Self::Delayed => "delayed",
            Self::CutOff => "cut off",
        })
    }
}

/// One hold, or one that was waited for in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Where.
    pub hold: Point,
    /// Whom for; nobody of a delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Point>,
    /// What came of it.
    pub outcome: HoldOutcome,
    /// Who was held.
    pub task: Option<Task>,
    /// Who came to the second place.
    pub partner: Option<Task>,
    /// When the hold began; none where it did not.
    pub at: Option<HostTime>,
    /// How long somebody was held, microseconds of guest time: the first until the other came, and then whoever was let go last.
    pub held_us: u64,
    /// After they had met, whoever was let go first went all the way to its return while the other still stood.
    pub went_through: bool,
    /// Who waited meanwhile, for locks that the held task has or that such a waiter has; where nobody was met, also who slept
    /// at the end with locks of its own and waited for something else.
    pub waiting: Vec<Waiting>,
}

impl Hold {
    /// One that has not begun.
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

    /// In words, such as `offline_pages held until _cpu_up: met`.
    pub fn words(&self) -> String {
        match &self.until {
            Some(until) => format!("{} held until {until}: {}", self.hold, self.outcome),
            None => format!("{} delayed by {} us", self.hold, self.held_us),
        }
    }
}

//! Races that are provoked on purpose: `[[rendezvous]]`, `[sweep]`, `[[delay]]` and `[delays]` of a
//! scenario.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Point;

/// The longest hold, in milliseconds. It is well below the time of the kernel's shortest stall
/// detector, which reports after 20 s (kernel/watchdog.c, twice `watchdog_thresh`). RCU's detector
/// takes 21 s, and those for hung tasks and workqueues take 30 s (lib/Kconfig).
const LONGEST_MS: u32 = 10_000;

/// A rendezvous: a task that reaches `hold` is held there until another task reaches `until`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rendezvous {
    /// The place where a task is held.
    pub hold: Point,
    /// The place that another task should reach meanwhile.
    pub until: Point,
    /// The options of the rendezvous.
    #[serde(flatten)]
    pub manner: RendezvousOptions,
}

/// The options of a rendezvous. All times are guest time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RendezvousOptions {
    /// The longest hold, in milliseconds.
    #[serde(default = "limit", skip_serializing_if = "is_limit")]
    pub limit_ms: u32,
    /// The task that runs first when the two have met.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first: First,
    /// The longest time that this task runs alone, in microseconds. The time ends sooner if the
    /// task returns.
    #[serde(default = "lead", skip_serializing_if = "is_lead")]
    pub lead_us: u32,
    /// The most holds of a trial in which the two do not meet.
    #[serde(default = "tries", skip_serializing_if = "is_tries")]
    pub tries: u32,
}

impl Default for RendezvousOptions {
    fn default() -> Self {
        Self { limit_ms: limit(), first: First::default(), lead_us: lead(), tries: tries() }
    }
}

fn limit() -> u32 {
    1000
}

fn lead() -> u32 {
    200_000
}

fn tries() -> u32 {
    3
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_limit(ms: &u32) -> bool {
    *ms == limit()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_lead(us: &u32) -> bool {
    *us == lead()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_tries(number: &u32) -> bool {
    *number == tries()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Which of two tasks that have met runs first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum First {
    /// The task that reached `until`. It runs while the other one is still held.
    #[default]
    Partner,
    /// The task that was held.
    Held,
}

/// Every pair of two lists of places, in both orders. Each trial tries one pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// The places of the first list.
    pub functions: Vec<Point>,
    /// The places of the second list.
    pub against: Vec<Point>,
    /// The options of each rendezvous.
    #[serde(flatten)]
    pub manner: RendezvousOptions,
}

impl Sweep {
    /// All pairs. Each pair is followed by the same pair in the other order.
    pub fn pairs(&self) -> Vec<[&Point; 2]> {
        let mut all: Vec<[&Point; 2]> = Vec::new();
        for a in &self.functions {
            for b in &self.against {
                for pair in [[a, b], [b, a]] {
                    if !all.contains(&pair) {
                        all.push(pair);
                    }
                }
            }
        }
        all
    }

    /// The rendezvous of trial `number`.
    pub fn of_trial(&self, number: u32) -> Option<Rendezvous> {
        let pairs = self.pairs();
        let count = u32::try_from(pairs.len()).ok().filter(|count| *count > 0)?;
        let [hold, until] = *pairs.get((number % count) as usize)?;
        Some(Rendezvous { hold: hold.clone(), until: until.clone(), manner: self.manner.clone() })
    }
}

/// A delay: a vCPU that reaches a place is held there for a fixed time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// The place.
    pub at: Point,
    /// The length of the delay, in microseconds of guest time.
    pub us: u32,
    /// The only visit of the place that is delayed, counted from 1. Absent: every visit is delayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visit: Option<u32>,
}

/// Random delays: a few change points, drawn among the visits of some functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delays {
    /// The places that may be delayed.
    pub functions: Vec<Point>,
    /// The number of delays in each trial.
    pub points: u32,
    /// The delays are drawn among this many first visits of each place.
    pub visits: u32,
    /// The length of each delay, in microseconds of guest time.
    pub us: u32,
}

impl Delays {
    /// The delays of one trial, drawn from all visits without repetition and with equal
    /// probability.
    pub(super) fn draw(&self, random: &mut ChaCha8Rng) -> Vec<Delay> {
        let sites = u64::try_from(self.functions.len()).unwrap_or(0) * u64::from(self.visits);
        let mut drawn: Vec<u64> = Vec::new();
        while (drawn.len() as u64) < u64::from(self.points).min(sites) {
            let site = random.random_range(0..sites);
            if !drawn.contains(&site) {
                drawn.push(site);
            }
        }
        drawn.sort_unstable();
        let delay = |site: u64| {
            let (function, visit) = (site / u64::from(self.visits), site % u64::from(self.visits) + 1);
            let at = self.functions.get(usize::try_from(function).ok()?)?.clone();
            Some(Delay { at, us: self.us, visit: u32::try_from(visit).ok() })
        };
        drawn.into_iter().filter_map(delay).collect()
    }
}

/// The fault of a table, and the help.
type Complaint = (String, &'static str);

impl RendezvousOptions {
    fn wrong(&self) -> Option<Complaint> {
        if !(1..=LONGEST_MS).contains(&self.limit_ms) {
            let what = format!("limit_ms = {}: a hold lasts 1 to {LONGEST_MS} ms", self.limit_ms);
            return Some((what, "the kernel's stall detectors complain from 20 s on"));
        }
        if self.lead_us > LONGEST_MS * 1000 {
            return Some((
                format!("lead_us = {}: at most {LONGEST_MS}000", self.lead_us),
                "give a smaller number",
            ));
        }
        (self.tries == 0).then(|| ("tries = 0 holds no task".to_owned(), "give 1 or more, or leave it out"))
    }
}

impl Rendezvous {
    pub(super) fn wrong(&self) -> Option<Complaint> {
        self.manner.wrong()
    }
}

impl Sweep {
    pub(super) fn wrong(&self) -> Option<Complaint> {
        if self.functions.is_empty() || self.against.is_empty() {
            return Some(("the sweep has no pairs".into(), "name places in `functions` and in `against`"));
        }
        self.manner.wrong()
    }
}

impl Delay {
    pub(super) fn wrong(&self) -> Option<Complaint> {
        if !(1..=LONGEST_MS * 1000).contains(&self.us) {
            return Some((
                format!("us = {}: a delay lasts 1 to {LONGEST_MS}000 us", self.us),
                "give a smaller number",
            ));
        }
        (self.visit == Some(0))
            .then(|| ("visit = 0: the first visit is 1".to_owned(), "leave it out for every visit"))
    }
}

impl Delays {
    pub(super) fn wrong(&self) -> Option<Complaint> {
        if self.functions.is_empty() || self.points == 0 || self.visits == 0 {
            return Some((
                "no delay can be drawn from this table".into(),
                "name functions, and give points and visits of 1 or more",
            ));
        }
        Delay { at: self.functions[0].clone(), us: self.us, visit: None }.wrong()
    }
}

/// All holds of a scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Holds {
    /// The rendezvous of every trial, one after another.
    pub rendezvous: Vec<Rendezvous>,
    /// The sweep, of which each trial tries one pair.
    pub sweep: Option<Sweep>,
    /// The delays of every trial.
    pub delay: Vec<Delay>,
    /// Random delays, which are drawn anew for each trial.
    pub delays: Option<Delays>,
}

impl Holds {
    /// Whether the scenario has no holds.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every place that the holds name.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        let rendezvous = self.rendezvous.iter().flat_map(|one| [&one.hold, &one.until]);
        let sweep = self.sweep.iter().flat_map(|sweep| sweep.functions.iter().chain(&sweep.against));
        let delays = self.delay.iter().map(|delay| &delay.at);
        let random = self.delays.iter().flat_map(|delays| &delays.functions);
        rendezvous.chain(sweep).chain(delays).chain(random)
    }

    /// The holds of trial `number`.
    pub(super) fn of_trial(&self, number: u32, random: &mut ChaCha8Rng) -> Holding {
        let swept = self.sweep.iter().filter_map(|sweep| sweep.of_trial(number));
        let drawn = self.delays.iter().flat_map(|delays| delays.draw(random)).collect::<Vec<_>>();
        Holding {
            rendezvous: self.rendezvous.iter().cloned().chain(swept).collect(),
            delays: self.delay.iter().cloned().chain(drawn).collect(),
        }
    }
}

/// The holds of one trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The rendezvous, one after another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rendezvous: Vec<Rendezvous>,
    /// The delays, which are all active at the same time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delays: Vec<Delay>,
}

impl Holding {
    /// Whether the trial has no holds.
    pub fn is_empty(&self) -> bool {
        self.rendezvous.is_empty() && self.delays.is_empty()
    }
}

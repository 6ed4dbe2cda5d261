//! Races that are made on purpose: `[[rendezvous]]`, `[sweep]`, `[[delay]]` and `[delays]` of a scenario.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Point;

/// The longest hold, milliseconds: well below the kernel's shortest stall detector, which takes 20 s to complain
/// (kernel/watchdog.c, twice `watchdog_thresh`; RCU's 21 s, lib/Kconfig's hung task and workqueue detectors 30 s).
const LONGEST_MS: u32 = 10_000;

/// Whoever comes to `hold` is held there until another task comes to `until`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rendezvous {
    /// Where one is held.
    pub hold: Point,
    /// Where another should come meanwhile.
    pub until: Point,
    /// How it goes.
    #[serde(flatten)]
    pub manner: Manner,
}

/// How a rendezvous goes. Times are the guest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Manner {
    /// The longest hold, milliseconds.
    #[serde(default = "limit", skip_serializing_if = "is_limit")]
    pub limit_ms: u32,
    /// Who goes on first when they have met.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first: First,
    /// How long alone, at most, microseconds: until it has returned, if that is sooner.
    #[serde(default = "lead", skip_serializing_if = "is_lead")]
    pub lead_us: u32,
    /// How often one is held for it, at most, in a trial in which they do not meet.
    #[serde(default = "tries", skip_serializing_if = "is_tries")]
    pub tries: u32,
}

impl Default for Manner {
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

/// Who goes on first of two that have met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum First {
    /// Who came to `until`: it runs while the other still stands.
    #[default]
    Partner,
    /// Who was held.
    Held,
}

/// Every pair of two lists, in both orders, one pair a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// The one list.
    pub functions: Vec<Point>,
    /// The other.
    pub against: Vec<Point>,
    /// How each goes.
    #[serde(flatten)]
    pub manner: Manner,
}

impl Sweep {
    /// All of them: each pair, then the same the other way round.
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

    /// The one of a trial.
    pub fn of_trial(&self, number: u32) -> Option<Rendezvous> {
        let pairs = self.pairs();
        let count = u32::try_from(pairs.len()).ok().filter(|count| *count > 0)?;
        let [hold, until] = *pairs.get((number % count) as usize)?;
        Some(Rendezvous { hold: hold.clone(), until: until.clone(), manner: self.manner.clone() })
    }
}

/// Whoever comes to a place is held there for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Where.
    pub at: Point,
    /// How long, microseconds of guest time.
    pub us: u32,
    /// Only who comes as the so-manieth, from 1; everybody when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visit: Option<u32>,
}

/// Delays at random: a few change points among the visits of some functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delays {
    /// Where they may be.
    pub functions: Vec<Point>,
    /// How many a trial.
    pub points: u32,
    /// Among the first so many visits of each.
    pub visits: u32,
    /// Each so long, microseconds of guest time.
    pub us: u32,
}

impl Delays {
    /// A trial's: drawn without repetition from all visits, each as likely as any other.
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

/// What is wrong with it and the help.
type Wrong = (String, &'static str);

impl Manner {
    fn wrong(&self) -> Option<Wrong> {
        if !(1..=LONGEST_MS).contains(&self.limit_ms) {
            let what = format!("limit_ms = {}: a hold lasts 1 to {LONGEST_MS} ms", self.limit_ms);
            return Some((what, "the kernel's stall detectors complain from 20 s on"));
        }
        if self.lead_us > LONGEST_MS * 1000 {
            return Some((format!("lead_us = {}: at most {LONGEST_MS}000", self.lead_us), "say fewer"));
        }
        (self.tries == 0).then(|| ("tries = 0 holds nobody".to_owned(), "say how often, or leave it out"))
    }
}

impl Rendezvous {
    pub(super) fn wrong(&self) -> Option<Wrong> {
        self.manner.wrong()
    }
}

impl Sweep {
    pub(super) fn wrong(&self) -> Option<Wrong> {
        if self.functions.is_empty() || self.against.is_empty() {
            return Some(("a sweep of nothing".into(), "name functions, and others against them"));
        }
        self.manner.wrong()
    }
}

impl Delay {
    pub(super) fn wrong(&self) -> Option<Wrong> {
        if !(1..=LONGEST_MS * 1000).contains(&self.us) {
            return Some((format!("us = {}: a delay lasts 1 to {LONGEST_MS}000 us", self.us), "say fewer"));
        }
        (self.visit == Some(0))
            .then(|| ("visit = 0: the first is 1".to_owned(), "leave it out for every visit"))
    }
}

impl Delays {
    pub(super) fn wrong(&self) -> Option<Wrong> {
        if self.functions.is_empty() || self.points == 0 || self.visits == 0 {
            return Some((
                "no delay can be drawn of this".into(),
                "name functions, points and visits, 1 or more",
            ));
        }
        Delay { at: self.functions[0].clone(), us: self.us, visit: None }.wrong()
    }
}

/// What of a scenario holds vCPUs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Holds {
    /// One after another, in every trial.
    pub rendezvous: Vec<Rendezvous>,
    /// One of its pairs a trial.
    pub sweep: Option<Sweep>,
    /// In every trial.
    pub delay: Vec<Delay>,
    /// Others in each trial.
    pub delays: Option<Delays>,
}

impl Holds {
    /// Whether nobody is ever held.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every place that is named.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        let rendezvous = self.rendezvous.iter().flat_map(|one| [&one.hold, &one.until]);
        let sweep = self.sweep.iter().flat_map(|sweep| sweep.functions.iter().chain(&sweep.against));
        let delays = self.delay.iter().map(|delay| &delay.at);
        let random = self.delays.iter().flat_map(|delays| &delays.functions);
        rendezvous.chain(sweep).chain(delays).chain(random)
    }

    /// What holds vCPUs in trial `number`.
    pub(super) fn of_trial(&self, number: u32, random: &mut ChaCha8Rng) -> Holding {
        let swept = self.sweep.iter().filter_map(|sweep| sweep.of_trial(number));
        let drawn = self.delays.iter().flat_map(|delays| delays.draw(random)).collect::<Vec<_>>();
        Holding {
            rendezvous: self.rendezvous.iter().cloned().chain(swept).collect(),
            delays: self.delay.iter().cloned().chain(drawn).collect(),
        }
    }
}

/// What holds vCPUs in one trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// One after another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rendezvous: Vec<Rendezvous>,
    /// At the same time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delays: Vec<Delay>,
}

impl Holding {
    /// Whether nobody is held.
    pub fn is_empty(&self) -> bool {
        self.rendezvous.is_empty() && self.delays.is_empty()
    }
}

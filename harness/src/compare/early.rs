//! Decides findings while trials still run, for a comparison that may end early.

use std::collections::BTreeMap;

use hotplug_side::{Side, Sides};
use hotplug_statistics::AnyTimeTest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::evidence::FoundId;
use super::watched::{Evident, Watched};
use crate::trial::TrialRecord;

/// The share of the probability of a false alarm that the test after each trial may use. The rest is
/// that of the exact test after the last trial. So four trials a side still decide there (p = 0.029).
pub(super) const ALPHA_AT_ANY_TIME: f64 = 0.02;

/// What the test after each trial says about a finding. It exists in a comparison that may end early.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bet {
    /// The highest stake of a bet against equal rates that began with 1 (an e-value). Equal rates
    /// let it ever exceed a number n with a probability of at most 1 / n.
    pub e_value: f64,
    /// The stake that decides. It depends on how many findings came earlier.
    pub needed: f64,
}

impl Bet {
    /// Whether the stake decides.
    pub fn is_won(self) -> bool {
        self.e_value >= self.needed
    }
}

/// The tests of all findings.
///
/// A finding is tested from its first trial on, without that trial, because being the first is why
/// it is tested. The k-th finding may use `1 / (k (k + 1))` of [`ALPHA_AT_ANY_TIME`]: the shares of
/// any number of findings add up to at most 1. Trials are taken in the order of their numbers, because
/// the order in which they end depends on what they show.
#[derive(Debug)]
pub(super) struct Early {
    /// The number of the first trial of each scenario.
    first: u32,
    scenarios: BTreeMap<String, Queue>,
    found: BTreeMap<FoundId, Tested>,
}

/// The trials of one scenario.
#[derive(Debug)]
struct Queue {
    /// The next number.
    next: u32,
    /// Trials that ended before one with a smaller number.
    ended: BTreeMap<u32, Sides<Option<Ended>>>,
    /// The trials of each round so far.
    watched: BTreeMap<u32, Sides<Watched>>,
}

/// A trial that ended.
#[derive(Debug, Clone, Default)]
struct Ended {
    round: u32,
    /// One trial, of each condition that it meets. None if infrastructure spoilt it.
    watched: Watched,
    shown: Vec<(FoundId, Evident)>,
}

/// The test of one finding.
#[derive(Debug)]
struct Tested {
    evident: Evident,
    needed: f64,
    /// One test for each scenario and round.
    tests: BTreeMap<(String, u32), AnyTimeTest>,
    highest: f64,
}

impl Early {
    pub(super) fn new(first: u32) -> Self {
        Self { first, scenarios: BTreeMap::new(), found: BTreeMap::new() }
    }

    /// Adds a trial with the findings that it showed and that count.
    pub(super) fn add(&mut self, record: &TrialRecord, shown: Vec<(FoundId, Evident)>) {
        let watched = Watched::of_one(record);
        self.ended(record, Ended { round: record.round, watched, shown });
    }

    /// Adds a trial that infrastructure spoilt.
    pub(super) fn add_spoilt(&mut self, record: &TrialRecord) {
        self.ended(record, Ended { round: record.round, ..Ended::default() });
    }

    /// The test of this finding. None if it does not count, or if trials with a smaller number still
    /// run.
    pub(super) fn of(&self, id: &FoundId) -> Option<Bet> {
        let tested = self.found.get(id)?;
        Some(Bet { e_value: tested.highest.exp(), needed: tested.needed })
    }

    fn ended(&mut self, record: &TrialRecord, ended: Ended) {
        let new = || Queue { next: self.first, ended: BTreeMap::new(), watched: BTreeMap::new() };
        let queue = self.scenarios.entry(record.scenario.clone()).or_insert_with(new);
        *queue.ended.entry(record.number).or_default().of_mut(record.side) = Some(ended);
        while let Some(Sides { before: Some(before), after: Some(after) }) = queue.ended.get(&queue.next) {
            let pair = Sides { before: before.clone(), after: after.clone() };
            queue.ended.remove(&queue.next);
            queue.next += 1;
            take(&mut self.found, &record.scenario, &queue.watched, &pair);
            for side in Side::BOTH {
                let ended = pair.of(side);
                queue.watched.entry(ended.round).or_default().of_mut(side).merge(ended.watched);
            }
        }
    }
}

/// Takes in both trials of one number. `watched` are the earlier ones of their scenario.
fn take(
    found: &mut BTreeMap<FoundId, Tested>,
    scenario: &str,
    watched: &BTreeMap<u32, Sides<Watched>>,
    pair: &Sides<Ended>,
) {
    let mut new = Vec::new();
    for (id, evident) in Side::BOTH.into_iter().flat_map(|side| &pair.of(side).shown) {
        if found.contains_key(id) {
            continue;
        }
        let place = f64::from(u32::try_from(found.len() + 1).unwrap_or(u32::MAX));
        let needed = place * (place + 1.0) / ALPHA_AT_ANY_TIME;
        found.insert(id.clone(), Tested { evident: *evident, needed, tests: BTreeMap::new(), highest: 0.0 });
        new.push(id.clone());
    }
    for (id, tested) in found {
        let evident = tested.evident;
        for side in Side::BOTH {
            let ended = pair.of(side);
            let seen = ended.shown.iter().any(|(shown, _)| shown == id);
            if !seen && ended.watched.of(evident) == 0 {
                continue;
            }
            let test = tested.tests.entry((scenario.to_owned(), ended.round)).or_insert_with(|| {
                let clean = watched.get(&ended.round).copied().unwrap_or_default();
                AnyTimeTest::after_clean(Sides {
                    before: clean.before.of(evident),
                    after: clean.after.of(evident),
                })
            });
            if new.contains(id) { test.learn(side, seen) } else { test.add(side, seen) }
        }
        let stake: f64 = tested.tests.values().map(AnyTimeTest::ln_e_value).sum();
        tested.highest = tested.highest.max(stake);
    }
}

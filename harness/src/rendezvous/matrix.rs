//! The outcomes of all rendezvous of a run. For each pair of places and each kernel, these are the
//! number of trials in which two tasks met, and what prevented it in the others.

use std::collections::BTreeMap;

use hotplug_side::{Side, Sides};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hold::{Hold, HoldOutcome};
use crate::scenario::Point;

/// The outcomes of all holds of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Race {
    /// The pairs of places, in the order of the first trial that tried each.
    pub cells: Vec<Cell>,
    /// The places of the delays.
    pub delays: Vec<Delayed>,
}

/// A pair of places: one task is held at the first until another task comes to the second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// The place where a task was held.
    pub hold: Point,
    /// The place that another task should reach meanwhile.
    pub until: Point,
    /// The trials of each kernel that tried this pair.
    pub count: Sides<MeetingCount>,
}

/// The number of trials for each outcome. Each trial counts by its best outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeetingCount {
    /// All trials.
    pub trials: u32,
    /// The two tasks met.
    pub met: u32,
    /// The trials of `met` in which the task that was released first returned before the other one
    /// moved.
    pub went_through: u32,
    /// The other task waited for a lock of the held one. The key is the lock's name.
    pub excluded: BTreeMap<String, u32>,
    /// The other task came too late, and both tasks have a lock that only one at a time may have.
    /// The key is the lock's name.
    pub both_hold: BTreeMap<String, u32>,
    /// The other task came too late, and the reason is unknown.
    pub limit: u32,
    /// Every other CPU waited for the held one.
    pub blocked_all: u32,
    /// The other task never came.
    pub partner_not_reached: u32,
    /// No task came to the first place.
    pub not_reached: u32,
    /// The kernel lacks one of the two places.
    pub no_such_place: u32,
    /// The trial ended during the hold.
    pub cut_off: u32,
    /// The folder of the first trial with the best outcome, below the run's.
    pub example: Option<String>,
    /// The best outcome, as text.
    pub best: Option<String>,
    #[serde(skip)]
    #[schemars(skip)]
    best_outcome: Option<HoldOutcome>,
}

/// The delays at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delayed {
    /// The place.
    pub at: Point,
    /// The number of delays in each kernel's trials.
    pub holds: Sides<u64>,
}

impl MeetingCount {
    fn add(&mut self, hold: &Hold, folder: &str) {
        self.trials += 1;
        match &hold.outcome {
            HoldOutcome::Met => {
                self.met += 1;
                self.went_through += u32::from(hold.went_through);
            }
            HoldOutcome::Excluded { lock } => *self.excluded.entry(lock.clone()).or_default() += 1,
            HoldOutcome::BothHold { lock } => *self.both_hold.entry(lock.clone()).or_default() += 1,
            HoldOutcome::Limit => self.limit += 1,
            HoldOutcome::BlockedAll => self.blocked_all += 1,
            HoldOutcome::PartnerNotReached => self.partner_not_reached += 1,
            HoldOutcome::NotReached => self.not_reached += 1,
            HoldOutcome::NoSuchPlace => self.no_such_place += 1,
            HoldOutcome::Delayed | HoldOutcome::CutOff => self.cut_off += 1,
        }
        if self.best_outcome.as_ref().is_none_or(|best| hold.outcome < *best) {
            self.best_outcome = Some(hold.outcome.clone());
            self.best = Some(hold.outcome.to_string());
            self.example = Some(format!("trials/{folder}"));
        }
    }

    fn merge(&mut self, later: Self) {
        // The best outcome counts. Among equal outcomes, the first counts.
        if self.example.is_none() || self.met == 0 && later.met > 0 {
            self.example = later.example;
            self.best = later.best;
            self.best_outcome = later.best_outcome;
        }
        self.trials += later.trials;
        self.met += later.met;
        self.went_through += later.went_through;
        for (mine, theirs) in [(&mut self.excluded, later.excluded), (&mut self.both_hold, later.both_hold)] {
            for (lock, trials) in theirs {
                *mine.entry(lock).or_default() += trials;
            }
        }
        self.limit += later.limit;
        self.blocked_all += later.blocked_all;
        self.partner_not_reached += later.partner_not_reached;
        self.not_reached += later.not_reached;
        self.no_such_place += later.no_such_place;
        self.cut_off += later.cut_off;
    }

    /// The lock that excludes the two from meeting, by the evidence of most trials. `None` if the
    /// two ever met.
    pub fn kept_apart_by(&self) -> Option<&str> {
        let locks = if self.excluded.is_empty() { &self.both_hold } else { &self.excluded };
        let most = locks.iter().max_by_key(|(_, trials)| **trials);
        most.filter(|_| self.met == 0).map(|(lock, _)| lock.as_str())
    }

    /// A short description, the most frequent outcome first, such as
    /// `met 3, excluded by device_hotplug_lock 2`.
    pub fn words(&self) -> String {
        let excluded = self.excluded.iter().map(|(lock, trials)| (*trials, format!("excluded by {lock}")));
        let both = self.both_hold.iter().map(|(lock, trials)| (*trials, format!("both hold {lock}")));
        let plain = [
            (self.met, "met"),
            (self.limit, "too late"),
            (self.blocked_all, "blocked all CPUs"),
            (self.partner_not_reached, "partner not reached"),
            (self.not_reached, "not reached"),
            (self.no_such_place, "no such place"),
            (self.cut_off, "cut off"),
        ];
        let plain = plain.into_iter().map(|(trials, words)| (trials, words.to_owned()));
        let mut all: Vec<(u32, String)> =
            excluded.chain(both).chain(plain).filter(|(trials, _)| *trials > 0).collect();
        all.sort_by_key(|(trials, _)| std::cmp::Reverse(*trials));
        let words: Vec<String> = all.into_iter().map(|(trials, words)| format!("{words} {trials}")).collect();
        words.join(", ")
    }
}

impl Race {
    /// Adds the holds of one trial, which is in `folder`.
    pub fn add(&mut self, side: Side, folder: &str, holds: &[Hold]) {
        let mut best: Vec<&Hold> = Vec::new();
        for hold in holds {
            let Some(until) = &hold.until else {
                let at = self.delays.iter().position(|one| one.at == hold.hold);
                let at = at.unwrap_or_else(|| {
                    self.delays.push(Delayed { at: hold.hold.clone(), holds: Sides::default() });
                    self.delays.len() - 1
                });
                *self.delays[at].holds.of_mut(side) += 1;
                continue;
            };
            match best.iter_mut().find(|one| one.hold == hold.hold && one.until.as_ref() == Some(until)) {
                Some(best) if hold.outcome < best.outcome => *best = hold,
                Some(_) => {}
                None => best.push(hold),
            }
        }
        for hold in best {
            let Some(until) = &hold.until else { continue };
            let at = self.cells.iter().position(|cell| cell.hold == hold.hold && cell.until == *until);
            let at = at.unwrap_or_else(|| {
                let (hold, until) = (hold.hold.clone(), until.clone());
                self.cells.push(Cell { hold, until, count: Sides::default() });
                self.cells.len() - 1
            });
            self.cells[at].count.of_mut(side).add(hold, folder);
        }
    }

    /// Adds the outcomes of trials that ran later.
    pub fn merge(&mut self, later: Self) {
        for cell in later.cells {
            match self.cells.iter_mut().find(|one| one.hold == cell.hold && one.until == cell.until) {
                Some(known) => {
                    let Sides { before, after } = cell.count;
                    known.count.before.merge(before);
                    known.count.after.merge(after);
                }
                None => self.cells.push(cell),
            }
        }
        for delayed in later.delays {
            match self.delays.iter_mut().find(|one| one.at == delayed.at) {
                Some(known) => {
                    known.holds.before += delayed.holds.before;
                    known.holds.after += delayed.holds.after;
                }
                None => self.delays.push(delayed),
            }
        }
    }

    /// Whether no hold was tried.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.delays.is_empty()
    }

    /// Whether the trials of one side show that a lock keeps two functions apart, in either order.
    pub fn excludes(&self, side: Side, first: &str, second: &str) -> bool {
        let mut pair = self.cells.iter().filter(|cell| {
            let named = [cell.hold.function(), cell.until.function()];
            named == [Some(first), Some(second)] || named == [Some(second), Some(first)]
        });
        let counts: Vec<&MeetingCount> = pair.by_ref().map(|cell| cell.count.of(side)).collect();
        counts.iter().all(|count| count.met == 0)
            && counts.iter().any(|count| count.kept_apart_by().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(outcome: HoldOutcome) -> Hold {
        let point = |text: &str| text.parse().unwrap();
        Hold { outcome, ..Hold::of(&point("offline_pages"), Some(&point("_cpu_up"))) }
    }

    fn excluded() -> HoldOutcome {
        HoldOutcome::Excluded { lock: "device_hotplug_lock".into() }
    }

    #[test]
    fn a_trial_counts_by_the_best_of_its_tries() {
        let mut race = Race::default();
        let mut add = |side, folder: &str, outcomes: Vec<HoldOutcome>| {
            let holds: Vec<Hold> = outcomes.into_iter().map(hold).collect();
            race.add(side, folder, &holds);
        };
        add(Side::Before, "before-000", vec![HoldOutcome::Limit, excluded(), HoldOutcome::Limit]);
        add(Side::Before, "before-001", vec![HoldOutcome::Limit]);
        add(Side::After, "after-000", vec![HoldOutcome::NotReached]);
        add(Side::After, "after-001", vec![HoldOutcome::Limit, HoldOutcome::Met]);
        let [cell] = &race.cells[..] else { panic!("{race:#?}") };
        assert_eq!(cell.count.before.words(), "excluded by device_hotplug_lock 1, too late 1");
        assert_eq!(cell.count.before.example.as_deref(), Some("trials/before-000"));
        assert_eq!(cell.count.after.words(), "met 1, not reached 1");
        assert_eq!(cell.count.after.best.as_deref(), Some("met"));
        assert!(race.excludes(Side::Before, "_cpu_up", "offline_pages"));
        assert!(!race.excludes(Side::After, "_cpu_up", "offline_pages"));
        assert!(!race.excludes(Side::Before, "_cpu_up", "online_pages"));
    }
}

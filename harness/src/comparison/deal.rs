//! The order in which the scenarios of a comparison take turns.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use hotplug_side::Sides;

use crate::analysis::Prepared;
use crate::compare::{Judge, Tally};
use crate::scenario::Seed;
use crate::trial::{ScenarioOfTrial, TrialPlan, plan_of};

/// The number of trials a side of a scenario whose finding the first look left undecided. If it is
/// in all after trials and in no before trial, its p is then 0.00016.
const SECOND_LOOK: u32 = 8;

/// How many more trials a scenario gets while one of its findings is undecided.
const FAVOUR: u32 = 3;

/// The trials of each scenario that are left.
pub(super) struct Shares {
    all: Vec<Share>,
    /// Trials of an earlier process that were cut off.
    left: VecDeque<TrialPlan>,
}

/// The trials of one scenario.
struct Share {
    scenario: String,
    of_trial: ScenarioOfTrial,
    /// The number of the first trial of the run.
    first: u32,
    /// The number of the next trial.
    next: u32,
    /// The number after the last trial. None without an end.
    end: Option<u32>,
    /// How its earlier trials ended.
    then: Sides<Tally>,
}

impl Share {
    /// The number of trials a side, with those that are done. None without an end.
    fn planned(&self) -> Option<u32> {
        Some(self.end?.saturating_sub(self.first))
    }

    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }
}

impl Shares {
    pub(super) fn of(prepared: &Prepared) -> Self {
        let notes = prepared.run.scenarios();
        let share = |part: &crate::analysis::ScenarioPart| {
            let scenario = part.context.scenario.name.clone();
            let planned = notes.iter().find(|note| note.name == scenario).and_then(|note| note.trials);
            Share {
                then: prepared.judge.tally_of(&scenario),
                scenario,
                of_trial: part.of_trial.clone(),
                first: prepared.run.plan.first,
                next: part.past.next,
                end: planned,
            }
        };
        let left = prepared.parts.iter().flat_map(|part| part.past.left.iter().cloned());
        Self { all: prepared.parts.iter().map(share).collect(), left: left.collect() }
    }

    /// The number of trials a side of each scenario, with those that are done. None without an end.
    pub(super) fn planned(&self) -> Option<BTreeMap<String, u32>> {
        let of = |share: &Share| Some((share.scenario.clone(), share.planned()?));
        self.all.iter().map(of).collect()
    }

    /// The number of trials a side of this scenario, with those that are done. None without an end.
    pub(super) fn trials_of(&self, scenario: &str) -> Option<u32> {
        self.all.iter().find(|share| share.scenario == scenario)?.planned()
    }

    /// Whether no trial is left.
    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty() && self.all.iter().all(Share::is_over)
    }

    /// After a first look at the findings: plans more trials of the scenarios in which only one
    /// side showed something, unless that is decided. Returns their number on each side.
    pub(super) fn look_again(&mut self, judge: &Judge) -> u32 {
        let mut more = 0;
        let undecided = judge.open_scenarios();
        for share in &mut self.all {
            let Some(end) = share.end else { continue };
            share.next = share.next.max(end);
            if undecided.contains(&share.scenario) && !judge.is_hopeless(&share.scenario, &share.then) {
                let all = share.first + SECOND_LOOK;
                more += all.saturating_sub(share.next);
                share.end = Some(end.max(all));
            }
        }
        self.left.clear();
        more
    }

    /// Whether more trials are futile in every scenario.
    pub(super) fn are_hopeless(&self, judge: &Judge) -> bool {
        self.all.iter().all(|share| judge.is_hopeless(&share.scenario, &share.then))
    }

    /// Deals the trials that are left, two at a time, one on each side, to the scenario with the
    /// fewest trials. A scenario in which only one side showed something that more trials can
    /// decide gets [`FAVOUR`] times as many. A scenario whose trials infrastructure spoils is
    /// dropped. A scenario whose guests take several trials (`rounds`, by the place of its setup)
    /// gets so many in turn, because idle guests take memory.
    pub(super) fn deal(
        &self,
        seed: Seed,
        rounds: impl Fn(usize) -> u32 + Send,
        judge: &Mutex<&mut Judge>,
    ) -> impl Iterator<Item = TrialPlan> + Send {
        let mut ready = self.left.clone();
        let mut next: Vec<u32> = self.all.iter().map(|share| share.next).collect();
        std::iter::from_fn(move || {
            if ready.is_empty() {
                let judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
                let open = self.all.iter().enumerate().filter(|(at, share)| {
                    share.end.is_none_or(|end| next[*at] < end)
                        && !judge.is_hopeless(&share.scenario, &share.then)
                        && !(self.all.len() > 1 && judge.always_hangs(&share.scenario))
                });
                let undecided = judge.open_scenarios();
                let best = open.min_by_key(|(at, share)| {
                    let had = next[*at].saturating_sub(share.first);
                    if undecided.contains(&share.scenario) { had / FAVOUR } else { had }
                });
                let (at, share) = best?;
                let most = next[at].saturating_add(rounds(share.of_trial.place));
                let end = share.end.map_or(most, |end| most.min(end));
                ready.extend(plan_of(share.of_trial.clone(), next[at]..end, seed));
                next[at] = end;
            }
            ready.pop_front()
        })
    }
}

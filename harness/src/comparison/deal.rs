//! The order in which the scenarios of a comparison take turns.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
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
    /// The trials end once a regression is decided.
    until_decided: bool,
    /// The findings are looked at several times.
    several_looks: bool,
}

/// The trials of one scenario.
struct Share {
    scenario: String,
    of_trial: ScenarioOfTrial,
    /// The number of the first trial of the run.
    first: u32,
    /// The number of the next trial.
    next: AtomicU32,
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

    fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| self.next() >= end)
    }

    /// The number after its last trial if a finding of it is to be decided at once. None without an
    /// end.
    fn decisive_end(&self) -> Option<u32> {
        Some(self.end?.max(self.first + SECOND_LOOK))
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
                next: part.past.next.into(),
                end: planned,
            }
        };
        let left = prepared.parts.iter().flat_map(|part| part.past.left.iter().cloned());
        Self {
            all: prepared.parts.iter().map(share).collect(),
            left: left.collect(),
            until_decided: prepared.run.plan.until_decided,
            several_looks: prepared.run.plan.looks > 1,
        }
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
            let next = share.next().max(end);
            *share.next.get_mut() = next;
            if undecided.contains(&share.scenario) && !judge.is_hopeless(&share.scenario, &share.then) {
                let all = share.first + SECOND_LOOK;
                more += all.saturating_sub(next);
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
    /// decide gets [`FAVOUR`] times as many. If the trials end with a decision, it comes first until
    /// it has had those of a second look, and of several such scenarios the one with the most trials.
    /// A scenario whose trials infrastructure spoils is dropped. A scenario whose guests take several
    /// trials (`rounds`, by the place of its setup) gets so many in turn, because idle guests take
    /// memory.
    pub(super) fn deal(
        &self,
        seed: Seed,
        rounds: impl Fn(usize) -> u32 + Send,
        judge: &Mutex<&mut Judge>,
    ) -> impl Iterator<Item = TrialPlan> + Send {
        let mut ready = self.left.clone();
        std::iter::from_fn(move || {
            if ready.is_empty() {
                let judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
                let undecided = judge.open_scenarios();
                let is_undecided = |share: &Share| undecided.contains(&share.scenario);
                let end = |share: &Share| {
                    let at_once = self.until_decided && self.several_looks;
                    if at_once && is_undecided(share) { share.decisive_end() } else { share.end }
                };
                let open = self.all.iter().filter(|share| {
                    end(share).is_none_or(|end| share.next() < end)
                        && !judge.is_hopeless(&share.scenario, &share.then)
                        && !(self.all.len() > 1 && judge.always_hangs(&share.scenario))
                });
                let best = open.min_by_key(|share| {
                    let had = share.next().saturating_sub(share.first);
                    if !is_undecided(share) {
                        (1, had)
                    } else if self.until_decided && had < SECOND_LOOK {
                        // The one that is nearest to a decision.
                        (0, SECOND_LOOK - had)
                    } else {
                        (1, had / FAVOUR)
                    }
                })?;
                // Breadth comes first: each of several scenarios begins with one trial, and with as many
                // as a second look has if the trials end with a decision.
                let had = best.next().saturating_sub(best.first);
                let is_early = had == 0 || self.until_decided && had < SECOND_LOOK;
                let turn = if self.all.len() > 1 && is_early { 1 } else { rounds(best.of_trial.place) };
                let most = best.next().saturating_add(turn);
                let end = end(best).map_or(most, |end| most.min(end));
                ready.extend(plan_of(best.of_trial.clone(), best.next()..end, seed));
                best.next.store(end, Ordering::Relaxed);
            }
            ready.pop_front()
        })
    }
}

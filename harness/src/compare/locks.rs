//! The differences in lock order, and how certain they are.
//!
//! All trials of a side were restored from one boot, so they are not independent. They share the
//! dependencies that lockdep had recorded in that boot, and lockdep records none twice. They also
//! share the state of its caches. The fill level of the caches decides whether the allocator's slow
//! path is entered, and with it a lock of the allocator is taken under whichever lock is held. So
//! the trials only select candidates. Further boots of both kernels, each with one trial, decide,
//! because those are independent of each other.

use std::collections::BTreeMap;

use hotplug_lockorder::{Forecast, Union};
use hotplug_side::{Side, Sides};
use hotplug_statistics::{always_against_never, fisher_two_sided};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::Count;
use super::lock_forecasts::{Elsewhere, forecasts};
use crate::unavailable::Unavailable;

/// The probability that any dependency is listed for two equal kernels.
const ALPHA: f64 = 0.01;

/// The maximum number of further boots of each kernel in one comparison, without the boot of its
/// checkpoint.
const MOST_BOOTS: u32 = 12;

/// The most guests of each side that are named as needed.
const MOST_NEEDED: u32 = 40;

/// If the trials began from several boots, a dependency of fewer of them may be chance.
const FEWEST_BOOTS: u32 = 3;

/// Boots beyond the needed number, to make up for boots whose trial was blind.
const SPARE_BOOTS: u32 = 2;

/// A dependency that only one side has, beyond chance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EdgeDiff {
    /// The lock that was held.
    pub from: String,
    /// The lock that was taken under it.
    pub to: String,
    /// The lock that `to` is a part of, if that lock has the same dependency. A semaphore's own
    /// spinlock is such a part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// The kinds of the dependency, such as `EN+SN`: exclusive or shared, then not recursive or
    /// recursive reader.
    pub how: String,
    /// Guests without the patch. A dependency of their checkpoint counts for all of them.
    pub before: Count,
    /// Guests with the patch.
    pub after: Count,
    /// Further boots, each with a trial; absent if each trial is a boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boots: Option<Sides<Count>>,
    /// The probability of these boots if both kernels showed the dependency equally often. If each
    /// trial is a boot, the probability of these trials.
    pub p: f64,
    /// The first trial or checkpoint that showed it, below the run's folder.
    pub example: String,
    /// The call path that made the dependency there, innermost first.
    pub path: Vec<String>,
}

/// Two locks that the patch takes in the other order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reversal {
    /// The lock that was held without the patch. With the patch it is taken under `second`.
    pub first: String,
    /// The lock that was taken under it.
    pub second: String,
    /// The trial or checkpoint without the patch that showed it, below the run's folder.
    pub example_before: String,
    /// The call path there, innermost first.
    pub path_before: Vec<String>,
    /// The same with the patch.
    pub example_after: String,
    /// The call path there, innermost first.
    pub path_after: Vec<String>,
    /// The p-value of the dependency that the patch added.
    pub p: f64,
}

/// How much of the lock order was observed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Extent {
    /// Guests whose lock order was read, and in which lockdep was armed to the end. A guest that took
    /// several trials is read after the last one, and counts once.
    pub trials: u32,
    /// Guests that are evidence of what they showed, but no evidence of absence: lockdep was off,
    /// or the guest hung.
    pub blind: u32,
    /// Further boots that were read, each with a trial.
    pub boots: u32,
    /// The number of dependencies observed in all of them together.
    pub edges: u32,
}

/// The comparison of the lock order of both kernels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LockOrderDiff {
    /// Why there is no comparison, if there is none.
    pub none: Option<Unavailable>,
    /// The amount of data on each side.
    pub extent: Sides<Extent>,
    /// Pairs of locks whose order the patch reversed. The new dependencies of these are in `new`, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reversed: Vec<Reversal>,
    /// The guests of each side that could decide the undecided dependencies, if there are fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<u32>,
    /// Dependencies that the patch removed.
    pub gone: Vec<EdgeDiff>,
    /// Dependencies that the patch added.
    pub new: Vec<EdgeDiff>,
    /// The number of dependencies that only one side showed, but possibly by chance.
    pub undecided: u32,
    /// Deadlocks that the guests of one kernel allow together, but that none of them ran into. Those
    /// that follow most directly from the patch come first.
    pub forecast: Vec<Forecast>,
    /// The guests of other runs that the forecasts rest on, too.
    #[serde(default)]
    pub elsewhere: OtherRuns,
}

/// The guests of other runs that forecasts rest on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OtherRuns {
    /// Guests of each kernel.
    pub guests: Sides<u32>,
    /// Why some or all of them are not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<Unavailable>,
}

/// A dependency that only one side showed, and more often than by chance in its trials.
#[derive(Debug, Clone)]
struct Candidate {
    ends: (u32, u32),
    /// The side that has it.
    side: Side,
    /// Whether the checkpoint of that side has it.
    at_boot: bool,
    trials: Sides<Count>,
    /// The p-value of the trials. It is final if each trial is a boot.
    p: f64,
    /// The number of further boots of that side that showed it.
    seen: u32,
    /// The number of further boots of the other side that did not show it.
    absent: u32,
}

impl Candidate {
    fn p_of_boots(&self) -> f64 {
        always_against_never(self.seen, self.absent)
    }

    /// Adds one more boot of each side. Returns whether the dependency may still be more than
    /// chance.
    fn survives(&mut self, ends: Sides<bool>, watched: Sides<bool>) -> bool {
        // A dependency of the boot is recorded before a trial can turn blind.
        let is_evidence = |side: Side| self.at_boot || *watched.of(side);
        let (own, other) = (self.side, self.side.other());
        if *ends.of(other) || !ends.of(own) && is_evidence(own) {
            return false;
        }
        self.seen += u32::from(*ends.of(own));
        self.absent += u32::from(is_evidence(other));
        true
    }
}

/// A comparison that continues while further boots can decide something.
#[derive(Debug)]
pub struct LockOrders {
    union: Union,
    /// Whether the trials were restored, and so cannot decide without further boots.
    restored: bool,
    candidates: Vec<Candidate>,
    /// The p-value up to which a candidate is significant.
    limit: f64,
    /// The number of dependencies that only one side showed.
    one_sided: u32,
    /// The number of further boots of both sides that were added.
    boots: u32,
}

impl LockOrders {
    /// Starts with all trials and the boots that they were restored from.
    pub fn new(union: Union) -> Self {
        let restored = Side::BOTH.into_iter().any(|side| union.restored(side));
        let (mut candidates, one_sided) = candidates(&union);
        candidates.sort_by_key(|candidate| candidate.ends);
        let limit = ALPHA / f64::from(count(candidates.iter()).max(1));
        Self { union, restored, candidates, limit, one_sided, boots: 0 }
    }

    /// The number of the next boot of each side, counted from the checkpoint's boot as 1; `None` if
    /// no further boot can decide anything. Further boots are also left out if the run has fewer
    /// trials than the number of boots needed.
    pub fn next_boot(&self) -> Option<u32> {
        let trials = self.guests();
        let needed = fewest(MOST_BOOTS, self.limit)?;
        let is_open = self.candidates.iter().any(|candidate| candidate.p_of_boots() > self.limit);
        let goes_on = self.restored && needed <= trials && self.boots < needed + SPARE_BOOTS && is_open;
        goes_on.then_some(self.boots + 2)
    }

    /// Adds one more boot of each side with the trial that was restored from it. Drops the
    /// candidates that the boot shows to be chance.
    pub fn add_boot(&mut self, boot: &Union) {
        self.boots += 1;
        let classes = self.union.classes();
        let watched = Sides { before: boot.watched(Side::Before) > 0, after: boot.watched(Side::After) > 0 };
        self.candidates.retain_mut(|candidate| {
            let (from, to) = candidate.ends;
            let edge = boot.edge_of(&classes[from as usize], &classes[to as usize]);
            let ever = |side: Side| edge.as_ref().is_some_and(|sides| sides.of(side).shown.ever());
            candidate.survives(Sides { before: ever(Side::Before), after: ever(Side::After) }, watched)
        });
    }

    /// The resulting differences.
    pub fn diff(&self, elsewhere: &Elsewhere) -> LockOrderDiff {
        let extent = |side: Side| Extent {
            trials: self.union.watched(side),
            blind: self.union.blind(side),
            boots: self.boots,
            edges: count(self.union.edges().filter(|(_, sides)| sides.of(side).shown.ever())),
        };
        let p = |candidate: &Candidate| if self.restored { candidate.p_of_boots() } else { candidate.p };
        let decided =
            |side: Side| self.candidates.iter().filter(move |c| c.side == side && p(c) <= self.limit);
        let of = |side: Side| {
            let mut all: Vec<EdgeDiff> = decided(side).map(|c| self.edge_diff(c, p(c))).collect();
            all.sort_by(|a, b| (&a.to, &a.from).cmp(&(&b.to, &b.from)));
            all
        };
        let (gone, new) = (of(Side::Before), of(Side::After));
        let undecided = self.one_sided - count(gone.iter().chain(&new));
        LockOrderDiff {
            none: None,
            extent: Sides { before: extent(Side::Before), after: extent(Side::After) },
            reversed: decided(Side::After).filter_map(|c| self.reversal(c, p(c))).collect(),
            needed: self.needed(undecided),
            undecided,
            forecast: forecasts(
                &self.union,
                elsewhere,
                &decided(Side::After).map(|c| c.ends).collect::<Vec<_>>(),
            ),
            gone,
            new,
            elsewhere: OtherRuns {
                guests: Sides {
                    before: count(elsewhere.guests.before.iter()),
                    after: count(elsewhere.guests.after.iter()),
                },
                unused: elsewhere.unused.clone(),
            },
        }
    }

    fn edge_diff(&self, candidate: &Candidate, p: f64) -> EdgeDiff {
        let (union, side, ends) = (&self.union, candidate.side, candidate.ends);
        let sides = union.edge(ends).unwrap_or_default();
        let edge = sides.of(side);
        let boots = |of: Side| {
            let has_it = of == side;
            let trials = if has_it { candidate.seen } else { candidate.absent };
            Count { seen: if has_it { trials } else { 0 }, trials }
        };
        EdgeDiff {
            from: union.name(ends.0),
            to: union.name(ends.1),
            within: self.within(ends, side),
            how: edge.how().to_string(),
            before: candidate.trials.before,
            after: candidate.trials.after,
            boots: self.restored.then(|| Sides { before: boots(Side::Before), after: boots(Side::After) }),
            p,
            example: union.example(side, &edge.shown),
            path: union.path(ends, side).to_vec(),
        }
    }

    /// The guests of the side with fewer whose lock order can show that a dependency is there.
    fn guests(&self) -> u32 {
        showing(&self.union, Side::Before).min(showing(&self.union, Side::After))
    }

    /// The guests of each side that could decide so many dependencies, if there are fewer.
    fn needed(&self, undecided: u32) -> Option<u32> {
        let needed = fewest(MOST_NEEDED, ALPHA / f64::from(undecided.max(1)))?;
        (undecided > 0 && self.guests() < needed).then_some(needed)
    }

    /// Whether the order of the two locks of a new dependency was the other one without the patch.
    fn reversal(&self, new: &Candidate, p: f64) -> Option<Reversal> {
        let (union, (from, to)) = (&self.union, new.ends);
        let was = union.edge((to, from))?;
        if !was.before.shown.ever() || was.after.shown.ever() {
            return None;
        }
        let is = union.edge(new.ends)?;
        Some(Reversal {
            first: union.name(to),
            second: union.name(from),
            example_before: union.example(Side::Before, &was.before.shown),
            path_before: union.path((to, from), Side::Before).to_vec(),
            example_after: union.example(Side::After, &is.after.shown),
            path_after: union.path(new.ends, Side::After).to_vec(),
            p,
        })
    }

    /// The lock that `to` is a part of: its name is the variable that contains both, and it is
    /// taken under `from` as well.
    fn within(&self, (from, to): (u32, u32), side: Side) -> Option<String> {
        let classes = self.union.classes();
        let part = &classes[to as usize];
        let variable = part.key.as_deref()?.split('+').next()?;
        if part.name == variable {
            return None;
        }
        let whole = classes.iter().position(|class| {
            class.name == variable
                && class.file == part.file
                && class.key.as_deref().is_some_and(|key| key.split('+').next() == Some(variable))
        })?;
        let whole = u32::try_from(whole).ok()?;
        let also = self.union.edge((from, whole)).is_some_and(|sides| sides.of(side).shown.ever());
        also.then(|| self.union.name(whole))
    }
}

/// The fewest guests or boots of each side, up to `most`, of which "always against never" is
/// significant.
fn fewest(most: u32, limit: f64) -> Option<u32> {
    (1..=most).find(|n| always_against_never(*n, *n) <= limit)
}

/// The guests of a side whose lock order can show that a dependency is there. If lockdep went off in
/// all of them, these are all: what they showed until then is there.
fn showing(union: &Union, side: Side) -> u32 {
    match union.watched(side) {
        0 => union.trials(side),
        watched => watched,
    }
}

/// The dependencies that only one side showed: those that would be significant if trials were
/// independent, and the number of all.
fn candidates(union: &Union) -> (Vec<Candidate>, u32) {
    let trials = Sides { before: union.watched(Side::Before), after: union.watched(Side::After) };
    let (mut found, mut tests, mut one_sided) = (Vec::new(), Vec::new(), 0);
    for (ends, sides) in union.edges() {
        // `ever` includes blind trials, because a blind trial of the other side may have shown the
        // dependency.
        let ever = |side: Side| sides.of(side).shown.ever();
        let side = match (ever(Side::Before), ever(Side::After)) {
            (true, false) => Some(Side::Before),
            (false, true) => Some(Side::After),
            _ => None,
        };
        one_sided += u32::from(side.is_some());
        let at_boot = Side::BOTH.into_iter().any(|side| sides.of(side).shown.boot);
        let count = |of: Side| {
            let shown = &sides.of(of).shown;
            // A blind guest is evidence of what it showed. It counts only if there are no others, and
            // only on the side that has the dependency.
            let is_blind = *trials.of(of) == 0 && side == Some(of);
            let trials = if is_blind { union.trials(of) } else { *trials.of(of) };
            let seen = match (shown.boot, is_blind) {
                (true, _) => trials,
                (false, true) => shown.trials.len(),
                (false, false) => union.evident(of, &shown.trials),
            };
            Count { seen, trials }
        };
        let counts = Sides { before: count(Side::Before), after: count(Side::After) };
        // What a checkpoint recorded, all of its trials have, so they count once.
        let of_boots = |of: Side| {
            let (seen, trials) = union.boots_of(of, &sides.of(of).shown)?;
            Some(Count { seen, trials })
        };
        let boots = Sides { before: of_boots(Side::Before), after: of_boots(Side::After) };
        let recorded = Side::BOTH.into_iter().any(|side| sides.of(side).shown.in_boots > 0);
        let units = match boots {
            Sides { before: Some(before), after: Some(after) } if recorded => Sides { before, after },
            _ => counts,
        };
        let Sides { before: n, after: m } = units;
        let p = fisher_two_sided(n.seen, n.trials, m.seen, m.trials);
        let is_of_few = |side: Side| boots.of(side).is_some_and(|b| b.seen < FEWEST_BOOTS.min(b.trials));
        let candidate = side.filter(|side| !is_of_few(*side)).map(|side| Candidate {
            ends,
            side,
            at_boot,
            trials: counts,
            p,
            seen: 0,
            absent: 0,
        });
        if at_boot {
            found.extend(candidate);
        } else {
            tests.push((units, candidate));
        }
    }
    let limit = tarone(tests.iter().map(|(units, _)| *units), ALPHA);
    found.extend(tests.into_iter().filter_map(|(_, candidate)| candidate).filter(|c| c.p <= limit));
    (found, one_sided)
}

/// The p-value below which a test is significant, such that the probability of any false positive
/// is at most `alpha`: Tarone's correction (Biometrics 46, 1990). A dependency that all trials
/// showed, or only one, cannot be significant for any outcome. Only tests that can be significant
/// share `alpha`.
fn tarone(counts: impl Iterator<Item = Sides<Count>>, alpha: f64) -> f64 {
    // The number of tests by their trials and by their count on both sides together.
    let mut tests: BTreeMap<(u32, u32, u32), u32> = BTreeMap::new();
    for Sides { before, after } in counts {
        *tests.entry((before.trials, after.trials, before.seen + after.seen)).or_default() += 1;
    }
    // The smallest p that each can give.
    let least = |(n, m, seen): (u32, u32, u32)| {
        let (low, high) = (seen.saturating_sub(m), seen.min(n));
        let p = |before: u32| fisher_two_sided(before, n, seen - before, m);
        p(low).min(p(high))
    };
    let tests: Vec<(f64, u32)> = tests.into_iter().map(|(test, number)| (least(test), number)).collect();
    let testable = |limit: f64| -> u32 {
        tests.iter().filter(|(least, _)| *least <= limit).map(|(_, number)| number).sum()
    };
    let most: u32 = tests.iter().map(|(_, number)| number).sum();
    // The smallest divisor that is not below the number of tests that remain testable with it.
    let divisor = (1..=most.max(1)).find(|k| testable(alpha / f64::from(*k)) <= *k).unwrap_or(most.max(1));
    alpha / f64::from(divisor)
}

fn count<T>(all: impl Iterator<Item = T>) -> u32 {
    u32::try_from(all.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "locks_tests.rs"]
mod tests;

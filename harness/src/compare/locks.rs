//! What differs in the lock order, and how sure that is.
//!
//! A dependency that no checkpoint had is counted by trials. One that a side's checkpoint had, every trial of that side began
//! with, and lockdep records nothing twice: there the unit is the boot, and the kernels are booted several times more.

use serde::{Deserialize, Serialize};

use super::exact::fisher_two_sided;
use super::finding::Count;
use crate::lockorder::{Forecast, LockOrder, Union, forecast};
use crate::side::{Side, Sides};

/// The chance of naming any dependency for two equal kernels, half of it for those of trials and half for those of boots.
const ALPHA: f64 = 0.01;

/// No kernel is booted more often than this for one comparison.
const MOST_BOOTS: u32 = 12;

/// A dependency that one side alone has, beyond chance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeDiff {
    /// The lock that was held.
    pub from: String,
    /// The lock that was taken under it.
    pub to: String,
    /// The lock that `to` is a part of, such as a semaphore's own spinlock, where that has the same dependency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// In which ways it was taken, such as `EN+SN`: exclusive or shared, then not recursive or recursive reader.
    pub how: String,
    /// Where it was counted.
    pub unit: Unit,
    /// Without the patch.
    pub before: Count,
    /// With it.
    pub after: Count,
    /// Fisher's exact test, two-sided.
    pub p: f64,
    /// Who showed it first, below the run's folder.
    pub example: String,
    /// The call path that made it there, innermost first.
    pub path: Vec<String>,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Trials.
    Trials,
    /// Boots: it was there before any trial began.
    Boots,
}

/// How much of the lock order was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Trials whose lock order was read and that lockdep watched to their end.
    pub trials: u32,
    /// Trials that showed something and are no evidence that something else was absent: lockdep was off, the guest hung.
    pub blind: u32,
    /// Boots that were looked at, that of the checkpoint among them.
    pub boots: u32,
    /// Dependencies seen, all together.
    pub edges: u32,
}

/// The lock order of both kernels, compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LockOrderDiff {
    /// Why there is nothing to compare, if there is not.
    pub none: Option<String>,
    /// What was looked at.
    pub extent: Sides<Extent>,
    /// Dependencies that the patch took away.
    pub gone: Vec<EdgeDiff>,
    /// Dependencies that it brought.
    pub new: Vec<EdgeDiff>,
    /// Dependencies that one side alone showed, and that may be chance.
    pub undecided: u32,
    /// Deadlocks that the trials of one kernel together allow and none of them ran into.
    pub forecast: Vec<Forecast>,
}

/// A dependency that one side's checkpoint has and the other side never showed.
#[derive(Debug, Clone)]
struct Candidate {
    ends: (u32, u32),
    /// Who has it.
    side: Side,
}

/// A comparison that goes on as long as further boots can decide something.
#[derive(Debug)]
pub struct LockOrders {
    union: Union,
    candidates: Vec<Candidate>,
    /// How many there were at first: that is what chance is shared among.
    all_candidates: u32,
    /// Boots of both sides that were looked at.
    boots: u32,
}

impl LockOrders {
    /// Begins with all trials, and the boots that they were restored from.
    pub fn new(union: Union) -> Self {
        let restored = Side::BOTH.into_iter().all(|side| union.restored(side));
        let mut candidates = Vec::new();
        for (ends, sides) in union.edges() {
            for side in Side::BOTH {
                if sides.of(side).shown.boot && !sides.of(side.other()).shown.ever() {
                    candidates.push(Candidate { ends, side });
                }
            }
        }
        let all_candidates = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
        Self { union, candidates, all_candidates, boots: u32::from(restored) }
    }

    /// The boot of each side that is to be looked at next, the checkpoint's being the first; none when no more can
    /// decide anything. Who runs fewer trials than boots would be needed does not want to wait for boots either.
    pub fn next_boot(&self) -> Option<u32> {
        let trials = self.union.watched(Side::Before).min(self.union.watched(Side::After));
        let needed = self.boots_needed().filter(|needed| *needed <= trials)?;
        (self.boots > 0 && self.boots < needed && !self.candidates.is_empty()).then_some(self.boots + 1)
    }

    /// So many boots of each side decide about something that all of one and none of the other have.
    fn boots_needed(&self) -> Option<u32> {
        let limit = ALPHA / 2.0 / f64::from(self.all_candidates.max(1));
        (1..=MOST_BOOTS).find(|n| fisher_two_sided(0, *n, *n, *n) <= limit)
    }

    /// Takes in one more boot of each side. What it shows to be chance is a candidate no more.
    pub fn add_boots(&mut self, boots: &Sides<LockOrder>) {
        self.boots += 1;
        let edges = |order: &LockOrder| {
            let class = |place: u32| order.classes.get(place as usize).map(|node| &node.class);
            let edges = order.edges.iter().filter_map(|edge| Some((class(edge.from)?, class(edge.to)?)));
            edges.map(|(from, to)| (from.clone(), to.clone())).collect::<std::collections::HashSet<_>>()
        };
        let seen = Sides { before: edges(&boots.before), after: edges(&boots.after) };
        let classes = self.union.classes();
        self.candidates.retain(|candidate| {
            let (from, to) = candidate.ends;
            let ends = (classes[from as usize].clone(), classes[to as usize].clone());
            seen.of(candidate.side).contains(&ends) && !seen.of(candidate.side.other()).contains(&ends)
        });
    }

    /// What differs.
    pub fn diff(&self) -> LockOrderDiff {
        let extent = |side: Side| Extent {
            trials: self.union.watched(side),
            blind: self.union.blind(side),
            boots: if self.union.restored(side) { self.boots } else { 0 },
            edges: count(self.union.edges().filter(|(_, sides)| sides.of(side).shown.ever())),
        };
        let (mut diffs, one_sided) = self.by_trials();
        let boots = self.by_boots();
        let undecided = one_sided + self.all_candidates - count(boots.iter()) - count(diffs.iter());
        diffs.extend(boots);
        let forecast = Side::BOTH.into_iter().flat_map(|side| forecast(&self.union, side)).collect();
        let of = |side: Side| {
            let mut all: Vec<EdgeDiff> =
                diffs.iter().filter(|(whose, _)| *whose == side).map(|(_, diff)| diff.clone()).collect();
            all.sort_by(|a, b| (&a.to, &a.from).cmp(&(&b.to, &b.from)));
            all
        };
        LockOrderDiff {
            none: None,
            extent: Sides { before: extent(Side::Before), after: extent(Side::After) },
            gone: of(Side::Before),
            new: of(Side::After),
            undecided,
            forecast,
        }
    }

    /// Dependencies that no checkpoint had: those that are decided, and how many one side alone showed.
    fn by_trials(&self) -> (Vec<(Side, EdgeDiff)>, u32) {
        let trials =
            Sides { before: self.union.watched(Side::Before), after: self.union.watched(Side::After) };
        let mut tests = Vec::new();
        for (ends, sides) in self.union.edges() {
            if Side::BOTH.into_iter().any(|side| sides.of(side).shown.boot) {
                continue;
            }
            let seen = |side: Side| self.union.evident(side, &sides.of(side).shown.trials);
            tests.push((ends, Sides { before: seen(Side::Before), after: seen(Side::After) }));
        }
        let limit = tarone(tests.iter().map(|(_, seen)| seen.before + seen.after), trials, ALPHA / 2.0);
        let mut one_sided = 0;
        let mut found = Vec::new();
        for (ends, seen) in tests {
            let Some(sides) = self.union.edge(ends) else { continue };
            // A blind trial may have shown it on the other side.
            let ever = |side: Side| sides.of(side).shown.ever();
            let side = match (ever(Side::Before), ever(Side::After)) {
                (true, false) => Side::Before,
                (false, true) => Side::After,
                _ => continue,
            };
            one_sided += 1;
            let p = fisher_two_sided(seen.before, trials.before, seen.after, trials.after);
            if p <= limit {
                let count = |side: Side| Count { seen: *seen.of(side), trials: *trials.of(side) };
                let counts = Sides { before: count(Side::Before), after: count(Side::After) };
                found.push((side, self.found(ends, side, Unit::Trials, counts, p)));
            }
        }
        (found, one_sided)
    }

    /// Dependencies that one side's boots always had and the other's never, nor its trials.
    fn by_boots(&self) -> Vec<(Side, EdgeDiff)> {
        if self.boots_needed().is_none_or(|needed| self.boots < needed) {
            return Vec::new();
        }
        let p = fisher_two_sided(0, self.boots, self.boots, self.boots);
        let found = self.candidates.iter().map(|candidate| {
            let count = |side: Side| Count {
                seen: if side == candidate.side { self.boots } else { 0 },
                trials: self.boots,
            };
            let counts = Sides { before: count(Side::Before), after: count(Side::After) };
            (candidate.side, self.found(candidate.ends, candidate.side, Unit::Boots, counts, p))
        });
        found.collect()
    }

    fn found(&self, ends: (u32, u32), side: Side, unit: Unit, counts: Sides<Count>, p: f64) -> EdgeDiff {
        let union = &self.union;
        let edge = union.edge(ends).map(|sides| sides.of(side).clone()).unwrap_or_default();
        EdgeDiff {
            from: union.name(ends.0),
            to: union.name(ends.1),
            within: self.within(ends, side),
            how: edge.how().to_string(),
            unit,
            before: counts.before,
            after: counts.after,
            p,
            example: union.example(side, &edge.shown),
            path: edge.path,
        }
    }

    /// The lock that `to` is a part of: named like the variable that holds both, and taken under `from` too.
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

/// The p below which a test counts, so that the chance that any counts by chance is at most `alpha`: Tarone's correction
/// (Biometrics 46, 1990). Of a dependency that all trials showed, or one alone, no outcome could have been a surprise; only
/// tests that could have been one share `alpha`. `seen` is each test's count on both sides together.
fn tarone(seen: impl Iterator<Item = u32>, trials: Sides<u32>, alpha: f64) -> f64 {
    let (n, m) = (trials.before, trials.after);
    let all = (n + m) as usize;
    // Tests by their count, and the smallest p that each count can give.
    let mut tests = vec![0_u32; all + 1];
    seen.for_each(|seen| tests[seen as usize] += 1);
    let least: Vec<f64> = (0..=n + m)
        .map(|seen| {
            let (low, high) = (seen.saturating_sub(m), seen.min(n));
            let p = |before: u32| fisher_two_sided(before, n, seen - before, m);
            p(low).min(p(high))
        })
        .collect();
    let testable = |limit: f64| -> u32 {
        tests.iter().zip(&least).filter(|(_, least)| **least <= limit).map(|(tests, _)| tests).sum()
    };
    let most: u32 = tests.iter().sum();
    // The smallest divisor that is not below the number of tests that are left with it.
    let divisor = (1..=most.max(1)).find(|k| testable(alpha / f64::from(*k)) <= *k).unwrap_or(most.max(1));
    alpha / f64::from(divisor)
}

fn count<T>(all: impl Iterator<Item = T>) -> u32 {
    u32::try_from(all.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "locks_tests.rs"]
mod tests;

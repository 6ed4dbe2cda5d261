//! Forecasts deadlocks that no guest ran into, but that the combined dependencies of several guests
//! allow. Lockdep would report them if one guest had done all of it. The search follows the rules
//! of lockdep (kernel/locking/lockdep.c, `__bfs`, `check_irq_usage`;
//! Documentation/locking/lockdep-design.rst).

use std::collections::{BTreeMap, HashSet};

use hotplug_side::Side;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::graph::{How, Irq, Usage};
use super::union::{Shown, Union};

/// The longest cycle that is searched for, in locks. Lockdep's reports of real bugs have two to
/// six.
const LONGEST: usize = 8;

/// The kind of deadlock that trials together allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Danger {
    /// A lock inversion: each lock waits for the next.
    Cycle,
    /// A lock taken in interrupts leads to one that is held with interrupts enabled.
    IrqInversion(Irq),
    /// One lock is taken in interrupts, and held with interrupts enabled.
    IrqUsage(Irq),
}

impl std::fmt::Display for Danger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let irq = |irq: &Irq| match irq {
            Irq::Hardirq => "hardirq",
            Irq::Softirq => "softirq",
        };
        match self {
            Self::Cycle => f.write_str("circular"),
            Self::IrqInversion(kind) => write!(f, "{0}-safe -> {0}-unsafe", irq(kind)),
            Self::IrqUsage(kind) => write!(f, "taken in {0}s and held with {0}s enabled", irq(kind)),
        }
    }
}

/// A dependency of the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PathStep {
    /// The lock that was held.
    pub from: String,
    /// The lock that was taken under it.
    pub to: String,
    /// The kinds of the dependency, such as `EN`.
    pub how: String,
    /// The number of trials of this run that showed it; all trials if the boot that they began with
    /// showed it.
    pub seen: u32,
    /// Whether no guest of the other kernel showed it, as far as is known.
    #[serde(default)]
    pub new: bool,
    /// A trial that showed it, below the run's folder; the checkpoint's folder if that showed it. A guest
    /// of another run begins with `atlas/`.
    pub example: String,
    /// The call path that made it, innermost first.
    pub path: Vec<String>,
    /// The function that seems to take both locks in this order, if no guest showed the dependency in a
    /// path that the patch leaves as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conjectured: Option<String>,
}

/// A possible deadlock that no trial ran into.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Forecast {
    /// The kernel that it is in.
    pub side: Side,
    /// The kind of deadlock.
    pub danger: Danger,
    /// The locks of the path, each taken under the one before it. In a cycle, the first is taken
    /// under the last.
    pub locks: Vec<String>,
    /// The dependencies between them.
    pub steps: Vec<PathStep>,
    /// Whether a part of it is new: no guest of the other kernel showed it, as far as is known. Results
    /// of older versions do not tell.
    #[serde(default)]
    pub new: bool,
    /// For each part that not every guest shows: trials that do, one of each boot, below the run's
    /// folder, and a guest of another run, which begins with `atlas/`. Results of older versions lack
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Vec<String>>,
    /// The probability that one trial shows all of it, if its parts occur independently of each
    /// other: the product of their rates in these trials. Zero if guests of other runs alone showed a
    /// part.
    pub likelihood: f64,
}

/// The forecasts, most plausible first: few locks, and parts that occur often.
pub fn forecast(union: &Union, side: Side) -> Vec<Forecast> {
    let graph = Graph::of(union, side);
    let mut found: BTreeMap<Vec<Fact>, Way> = BTreeMap::new();
    for way in graph.cycles().into_iter().chain(graph.irq_ways()) {
        let facts = graph.loose(&way);
        // If the boot or one trial had all of it, lockdep would have reported it there.
        if facts.is_empty() || graph.together(&facts) || graph.is_nesting(&way) {
            continue;
        }
        // The same facts can close many paths through dependencies that every guest has. The
        // shortest is kept.
        let kept = found.entry(facts).or_insert_with(|| way.clone());
        if way.locks.len() < kept.locks.len() {
            *kept = way;
        }
    }
    let mut all: Vec<Forecast> = found.iter().map(|(facts, way)| graph.tell(way, facts)).collect();
    all.sort_by(|a, b| {
        (a.locks.len().cmp(&b.locks.len()))
            .then(b.likelihood.total_cmp(&a.likelihood))
            .then_with(|| a.locks.cmp(&b.locks))
    });
    all
}

/// A fact that a trial shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Fact {
    /// A dependency, and the index of its kind in [`How::KINDS`].
    Edge { from: u32, to: u32, kind: usize },
    /// A context of a class, as a bit of its usage.
    Usage { class: u32, bit: usize },
}

/// A path of locks, each taken under the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    danger: Danger,
    locks: Vec<u32>,
    /// The dependencies between the locks, and the uses in interrupts and with interrupts enabled
    /// that close the path.
    facts: Vec<Fact>,
}

/// A node of a search: a class, and whether a recursive reader took it (`lock_list::only_xr`).
type Place = (u32, bool);

/// The steps of a search to each node. One value serves many searches, since there is one search
/// for each dependency.
struct Came {
    /// For each node, the number of the search that last reached it, and its step: the node before,
    /// and the kind of the dependency. The start has no step.
    steps: Vec<(u32, Option<(Place, usize)>)>,
    /// The number of the current search.
    search: u32,
    /// The nodes in the order in which they were reached, with the number of locks from the start.
    reached: Vec<(Place, usize)>,
}

impl Came {
    fn new(classes: usize) -> Self {
        Self { steps: vec![(0, None); 2 * classes], search: 0, reached: Vec::new() }
    }

    fn begin(&mut self) {
        self.search += 1;
        self.reached.clear();
    }

    /// Records that a node was reached, unless it was reached before.
    fn reach(&mut self, place: Place, step: Option<(Place, usize)>, length: usize) {
        let known = &mut self.steps[2 * place.0 as usize + usize::from(place.1)];
        if known.0 != self.search {
            *known = (self.search, step);
            self.reached.push((place, length));
        }
    }

    /// The path to a node that was reached.
    fn way(&self, last: Place) -> (Vec<u32>, Vec<Fact>) {
        let (mut locks, mut facts) = (vec![last.0], Vec::new());
        let mut at = last;
        while let Some((before, kind)) = self.steps[2 * at.0 as usize + usize::from(at.1)].1 {
            facts.push(Fact::Edge { from: before.0, to: at.0, kind });
            locks.push(before.0);
            at = before;
        }
        locks.reverse();
        (locks, facts)
    }
}

struct Graph<'a> {
    union: &'a Union,
    side: Side,
    /// For each class, the classes that were taken under it, with the kind.
    after: Vec<Vec<(u32, usize)>>,
    /// The contexts in which each class was taken.
    usage: Vec<Usage>,
}

impl<'a> Graph<'a> {
    fn of(union: &'a Union, side: Side) -> Self {
        let classes = union.classes();
        let mut after = vec![Vec::new(); classes.len()];
        for ((from, to), sides) in union.edges() {
            for (kind, shown) in sides.of(side).kinds.iter().enumerate() {
                if shown.ever() {
                    after[from as usize].push((to, kind));
                }
            }
        }
        // Sorted, so that the result does not depend on the order of the trials.
        for edges in &mut after {
            edges.sort_by_key(|(to, kind): &(u32, usize)| (&classes[*to as usize], *kind));
        }
        let usage = (0..).zip(classes).map(|(class, _)| union.usage(class, side)).collect();
        Self { union, side, after, usage }
    }

    /// Searches breadth first from `start`. Ends at the first node that is `done`, and returns it.
    fn search(&self, came: &mut Came, start: Place, done: impl Fn(Place) -> bool) -> Option<Place> {
        came.begin();
        came.reach(start, None, 1);
        let mut next = 0;
        while let Some(&(place, length)) = came.reached.get(next) {
            next += 1;
            if done(place) {
                return Some(place);
            }
            if length == LONGEST {
                continue;
            }
            for (to, kind) in &self.after[place.0 as usize] {
                let how = How::KINDS[*kind];
                if !place.1 || how.from_writer() {
                    came.reach((*to, how.to_recursive()), Some((place, *kind)), length + 1);
                }
            }
        }
        None
    }

    /// For each kind of each dependency that not every guest has, the shortest cycle through it.
    fn cycles(&self) -> Vec<Way> {
        let mut all = Vec::new();
        let mut came = Came::new(self.after.len());
        for ((from, to), sides) in self.union.edges() {
            for (kind, shown) in sides.of(self.side).kinds.iter().enumerate() {
                if !shown.boot && !shown.trials.is_empty() {
                    all.extend(self.cycle(&mut came, from, to, kind));
                }
            }
        }
        all
    }

    /// The shortest strong cycle through one dependency of one kind.
    fn cycle(&self, came: &mut Came, from: u32, to: u32, kind: usize) -> Option<Way> {
        let how = How::KINDS[kind];
        // -(*R)-> -(S*)-> is no deadlock where the cycle closes, either.
        let closes = |place: Place| place.0 == from && (how.from_writer() || !place.1);
        let last = self.search(came, (to, how.to_recursive()), closes)?;
        let (mut locks, mut facts) = came.way(last);
        facts.push(Fact::Edge { from, to, kind });
        // If a lock occurs twice, the path has a shorter cycle, which is found on its own.
        if !distinct(&locks) {
            return None;
        }
        // A cycle can begin at each of its locks. It is stored with the lowest one first.
        let classes = self.union.classes();
        let lowest = (0..locks.len()).min_by_key(|at| &classes[locks[*at] as usize])?;
        locks.rotate_left(lowest);
        Some(Way { danger: Danger::Cycle, locks, facts })
    }

    /// The paths from a lock that is taken in interrupts to one that is held with interrupts
    /// enabled.
    fn irq_ways(&self) -> Vec<Way> {
        let mut all = Vec::new();
        let mut came = Came::new(self.after.len());
        for irq in Irq::BOTH {
            let bits = irq.bits();
            for (class, after) in (0..).zip(&self.after) {
                let usage = self.usage[class as usize];
                // The lock on its own: two readers do not block each other.
                for (used, enabled) in [(bits[0], bits[2]), (bits[1], bits[2]), (bits[0], bits[3])] {
                    if usage.has(used) && usage.has(enabled) {
                        let facts = [used, enabled].map(|bit| Fact::Usage { class, bit }).to_vec();
                        all.push(Way { danger: Danger::IrqUsage(irq), locks: vec![class], facts });
                    }
                }
                for step in after {
                    self.unsafe_behind(&mut came, irq, class, *step, &mut all);
                }
            }
        }
        all
    }

    /// The same paths from one such lock, with one first step.
    fn unsafe_behind(
        &self,
        came: &mut Came,
        irq: Irq,
        class: u32,
        (to, kind): (u32, usize),
        all: &mut Vec<Way>,
    ) {
        let (bits, how) = (irq.bits(), How::KINDS[kind]);
        let usage = self.usage[class as usize];
        // usage_accumulate(): from a writer every use counts, from a reader only a writer's.
        let counted = &bits[..if how.from_writer() { 2 } else { 1 }];
        let Some(used) = counted.iter().find(|bit| usage.has(**bit)) else { return };
        self.search(came, (to, how.to_recursive()), |_| false);
        for (place, _) in &came.reached {
            let usage = self.usage[place.0 as usize];
            // usage_match(): after a recursive reader only a writer's use counts.
            let enabled = &bits[2..if place.1 { 3 } else { 4 }];
            let Some(enabled) = enabled.iter().find(|bit| usage.has(**bit)) else { continue };
            let (behind, mut facts) = came.way(*place);
            let locks = [&[class], &*behind].concat();
            if distinct(&locks) {
                facts.push(Fact::Edge { from: class, to, kind });
                facts.push(Fact::Usage { class, bit: *used });
                facts.push(Fact::Usage { class: place.0, bit: *enabled });
                all.push(Way { danger: Danger::IrqInversion(irq), locks, facts });
            }
        }
    }

    fn shown(&self, fact: Fact) -> Option<Shown> {
        self.shown_by(fact, self.side)
    }

    fn shown_by(&self, fact: Fact, side: Side) -> Option<Shown> {
        Some(match fact {
            Fact::Edge { from, to, kind } => self.union.edge((from, to))?.of(side).kinds[kind].clone(),
            Fact::Usage { class, bit } => self.union.shown_usage(class, side)[bit].clone(),
        })
    }

    fn is_new(&self, fact: Fact) -> bool {
        !self.shown_by(fact, self.side.other()).is_some_and(|shown| shown.ever())
    }

    fn steps(way: &Way) -> Vec<(u32, u32)> {
        let mut steps: Vec<(u32, u32)> = way.locks.windows(2).map(|pair| (pair[0], pair[1])).collect();
        if let (Danger::Cycle, [first, .., last]) = (way.danger, &*way.locks) {
            steps.push((*last, *first));
        }
        steps
    }

    /// The facts of a path that not every guest has, sorted.
    fn loose(&self, way: &Way) -> Vec<Fact> {
        let facts = way.facts.iter().copied();
        let mut loose: Vec<Fact> =
            facts.filter(|fact| self.shown(*fact).is_some_and(|shown| !shown.boot)).collect();
        loose.sort_unstable();
        loose.dedup();
        loose
    }

    /// Whether one trial has all of the facts.
    fn together(&self, facts: &[Fact]) -> bool {
        let sets = facts.iter().filter_map(|fact| self.shown(*fact)).map(|shown| shown.trials);
        sets.reduce(|all, set| all.and(&set)).is_some_and(|all| !all.is_empty())
    }

    /// Whether all locks are of one kind, such as those of a parent and its child. Their subclasses
    /// give the order; lockdep does not know which lock is the parent's.
    fn is_nesting(&self, way: &Way) -> bool {
        let classes = self.union.classes();
        let kind = |place: &u32| {
            let class = &classes[*place as usize];
            (&class.name, &class.key, &class.file)
        };
        way.locks.len() > 1 && way.locks.iter().all(|place| kind(place) == kind(&way.locks[0]))
    }

    fn likelihood(&self, facts: &[Fact]) -> f64 {
        let trials = f64::from(self.union.trials(self.side)).max(1.0);
        facts
            .iter()
            .filter_map(|fact| self.shown(*fact))
            .map(|shown| f64::from(self.union.seen(self.side, &shown)) / trials)
            .product()
    }

    fn tell(&self, way: &Way, facts: &[Fact]) -> Forecast {
        let name = |place: u32| self.union.name(place);
        let steps = Self::steps(way)
            .into_iter()
            .filter_map(|(from, to)| {
                let sides = self.union.edge((from, to))?;
                let edge = sides.of(self.side);
                Some(PathStep {
                    from: name(from),
                    to: name(to),
                    how: edge.how().to_string(),
                    seen: self.union.seen(self.side, &edge.shown),
                    new: !sides.of(self.side.other()).shown.ever(),
                    example: self.union.example(self.side, &edge.shown),
                    path: self.union.path((from, to), self.side).to_vec(),
                    conjectured: None,
                })
            })
            .collect();
        let locks = way.locks.iter().map(|place| name(*place)).collect();
        let shown = facts.iter().filter_map(|fact| self.shown(*fact));
        Forecast {
            side: self.side,
            danger: way.danger,
            locks,
            steps,
            new: way.facts.iter().any(|fact| self.is_new(*fact)),
            parts: shown.map(|shown| self.union.witnesses(self.side, &shown)).collect(),
            likelihood: self.likelihood(facts),
        }
    }
}

fn distinct(locks: &[u32]) -> bool {
    locks.iter().collect::<HashSet<_>>().len() == locks.len()
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;

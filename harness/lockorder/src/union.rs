//! The combined lock orders of all trials of both kernels: the trials that showed each dependency,
//! and each context of a class.

use std::collections::BTreeSet;

use hotplug_side::{Side, Sides};

use super::TrialLocks;
use super::graph::{How, Interned, LockClass, LockOrder, Usage};

/// A set of trials of one side, by their index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrialSet(Vec<u64>);

impl TrialSet {
    /// The number of trials.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The trials that both sets have.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    /// The number of trials whose index is below `end`.
    fn below(&self, end: usize) -> u32 {
        let words = self.0.iter().zip((0..end).step_by(64));
        words
            .map(|(word, first)| match end - first {
                left @ 0..64 => (word & ((1 << left) - 1)).count_ones(),
                _ => word.count_ones(),
            })
            .sum()
    }

    fn has(&self, trial: usize) -> bool {
        self.0.get(trial / 64).is_some_and(|word| word >> (trial % 64) & 1 != 0)
    }

    /// The first trial.
    fn first(&self) -> Option<usize> {
        let word = self.0.iter().position(|word| *word != 0)?;
        Some(word * 64 + self.0[word].trailing_zeros() as usize)
    }
}

/// The boots and the trials of one side that showed a fact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Whether the boots of all checkpoints showed it, and so every guest that was restored from one.
    pub boot: bool,
    /// The number of boots whose checkpoints showed it.
    pub in_boots: usize,
    /// The trials that showed it.
    pub trials: TrialSet,
}

impl Shown {
    /// Whether the side showed it at all.
    pub fn ever(&self) -> bool {
        self.boot || !self.trials.is_empty()
    }
}

/// A dependency on one side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SideEdge {
    /// The boot and the trials that showed it.
    pub shown: Shown,
    /// The same for each kind of the dependency, in the order of [`How::KINDS`].
    pub kinds: [Shown; 4],
}

impl SideEdge {
    /// All kinds of the dependency that the side showed.
    pub fn how(&self) -> How {
        let ever = How::KINDS.into_iter().zip(&self.kinds).filter(|(_, shown)| shown.ever());
        ever.fold(How::default(), |all, (kind, _)| all.and(kind))
    }
}

/// For each bit of [`Usage`], the boot and the trials of one side that showed it.
pub type SideUsage = [Shown; 8];

/// For each row, the boot and the trials that showed each of its `K` facts. Trials are added one
/// after the other, and each shows nearly all rows. So the bits of 64 trials share a word, and the
/// words of all rows for these trials are adjacent in memory.
#[derive(Debug, Clone)]
struct Facts<const K: usize> {
    /// For each boot and each row, one bit for each fact.
    boots: Vec<Vec<u8>>,
    /// For each 64 trials and each row, one word for each fact.
    trials: Vec<Vec<[u64; K]>>,
}

impl<const K: usize> Default for Facts<K> {
    fn default() -> Self {
        Self { boots: Vec::new(), trials: Vec::new() }
    }
}

impl<const K: usize> Facts<K> {
    /// Marks the facts whose bits are set, of a trial or of the last boot. Returns whether none of
    /// these 64 trials had shown a fact of the row before; always true for a boot.
    fn mark(&mut self, row: u32, facts: u8, trial: Option<usize>) -> bool {
        let row = row as usize;
        let Some(trial) = trial else {
            if let Some(boot) = self.boots.last_mut() {
                *at(boot, row, 0) |= facts;
            }
            return true;
        };
        let words = at(at(&mut self.trials, trial / 64, Vec::new()), row, [0; K]);
        let is_first = words.iter().all(|word| *word == 0);
        let mut left = facts;
        while left != 0 {
            words[left.trailing_zeros() as usize] |= 1 << (trial % 64);
            left &= left - 1;
        }
        is_first
    }

    fn shown(&self, row: u32) -> [Shown; K] {
        let row = row as usize;
        let of_boot = |boot: &Vec<u8>| boot.get(row).copied().unwrap_or(0);
        let boots: Vec<u8> = self.boots.iter().map(of_boot).collect();
        std::array::from_fn(|fact| {
            let words = self.trials.iter().map(|rows| rows.get(row).map_or(0, |words| words[fact]));
            let in_boots = boots.iter().filter(|facts| **facts >> fact & 1 != 0).count();
            let boot = in_boots > 0 && in_boots == boots.len();
            Shown { boot, in_boots, trials: TrialSet(words.collect()) }
        })
    }
}

/// The element `at` of `all`, which is extended to this length if it is shorter.
fn at<T: Clone>(all: &mut Vec<T>, at: usize, empty: T) -> &mut T {
    if all.len() <= at {
        all.resize(at + 1, empty);
    }
    &mut all[at]
}

/// The bit for an edge of any kind.
const SEEN: u8 = 1 << 4;

/// The dependencies of both kernels, over all trials.
#[derive(Debug, Clone, Default)]
pub struct Union {
    classes: Interned<LockClass>,
    edges: Interned<(u32, u32)>,
    sides: Sides<OneSide>,
}

#[derive(Debug, Clone, Default)]
struct OneSide {
    /// For each edge, the bits of [`How`], and [`SEEN`].
    edges: Facts<5>,
    /// For each class, the bits of [`Usage`].
    usage: Facts<8>,
    /// The call path that made each edge in the first guest that showed it.
    paths: Vec<Option<Vec<String>>>,
    /// The folders of the trials, below the run's folder. Then the names of guests of other runs.
    trials: Vec<String>,
    /// The number of guests of other runs.
    elsewhere: usize,
    blind: TrialSet,
    /// The names of the boots, if the trials began from several; one without a name otherwise.
    boots: Vec<Option<String>>,
    /// For each trial, the boot that it began from, if there are several.
    begun: Vec<Option<usize>>,
}

impl OneSide {
    /// The number of trials of the run itself.
    fn own(&self) -> usize {
        self.trials.len() - self.elsewhere
    }
}

impl Union {
    /// Adds the lock order of the checkpoint that all trials of a side were restored from.
    pub fn add_boot(&mut self, side: Side, order: &LockOrder) {
        self.boot(side, None, order);
    }

    fn boot(&mut self, side: Side, name: Option<String>, order: &LockOrder) {
        let one = self.sides.of_mut(side);
        one.boots.push(name);
        one.edges.boots.push(Vec::new());
        one.usage.boots.push(Vec::new());
        self.fold(side, order, None);
    }

    /// Adds a trial. A blind trial is evidence of what it shows, and no evidence that anything was
    /// absent.
    pub fn add(&mut self, trial: &TrialLocks) {
        self.begun(trial, None);
    }

    /// Adds a trial that was restored from one of several checkpoints, with the name and the lock order
    /// of that. Lockdep records nothing twice, so the trial itself lacks what the boot showed.
    pub fn add_restored(&mut self, trial: &TrialLocks, name: &str, boot: &LockOrder) {
        let boots = &self.sides.of(trial.side).boots;
        let known = boots.iter().position(|known| known.as_deref() == Some(name));
        let place = known.unwrap_or(boots.len());
        if known.is_none() {
            self.boot(trial.side, Some(name.to_owned()), boot);
        }
        let trial_place = self.begun(trial, Some(place));
        self.fold(trial.side, boot, Some(trial_place));
    }

    fn begun(&mut self, trial: &TrialLocks, boot: Option<usize>) -> usize {
        let one = self.sides.of_mut(trial.side);
        let place = one.trials.len();
        one.trials.push(format!("trials/{}", trial.folder));
        one.begun.push(boot);
        *at(&mut one.blind.0, place / 64, 0) |= u64::from(trial.blind.is_some()) << (place % 64);
        self.fold(trial.side, &trial.order, Some(place));
        place
    }

    /// Adds what a guest of another run showed, after all trials. It is evidence of what can occur, and
    /// does not count as a trial. `name` is its name among the examples.
    pub fn add_elsewhere(&mut self, side: Side, name: &str, order: &LockOrder) {
        let one = self.sides.of_mut(side);
        let place = one.trials.len();
        one.trials.push(name.to_owned());
        one.begun.push(None);
        one.elsewhere += 1;
        self.fold(side, order, Some(place));
    }

    fn fold(&mut self, side: Side, order: &LockOrder, trial: Option<usize>) {
        if !order.is_sound() {
            return;
        }
        let one = self.sides.of_mut(side);
        let mut next = 0;
        let mut places = Vec::with_capacity(order.classes.len());
        for node in &order.classes {
            let place = self.classes.place_near(next, &node.class);
            next = place + 1;
            places.push(place);
            one.usage.mark(place, node.usage.bits(), trial);
        }
        next = 0;
        for edge in &order.edges {
            let ends = (places[edge.from as usize], places[edge.to as usize]);
            let place = self.edges.place_near(next, &ends);
            next = place + 1;
            if one.edges.mark(place, SEEN | edge.how.0 & How::ALL.0, trial) {
                at(&mut one.paths, place as usize, None).get_or_insert_with(|| order.path(edge));
            }
        }
    }

    /// All classes, by their index.
    pub fn classes(&self) -> &[LockClass] {
        &self.classes.all
    }

    /// All dependencies, with the indices of their ends.
    pub fn edges(&self) -> impl Iterator<Item = ((u32, u32), Sides<SideEdge>)> {
        (0..).zip(&self.edges.all).map(|(place, ends)| (*ends, self.edge_at(place)))
    }

    fn edge_at(&self, place: u32) -> Sides<SideEdge> {
        let of = |side: Side| {
            // In the order of the bits: from How::SR to How::EN, then SEEN.
            let [sr, er, sn, en, shown] = self.sides.of(side).edges.shown(place);
            SideEdge { shown, kinds: [en, sn, er, sr] }
        };
        Sides { before: of(Side::Before), after: of(Side::After) }
    }

    /// One dependency, by the indices of its ends.
    pub fn edge(&self, ends: (u32, u32)) -> Option<Sides<SideEdge>> {
        self.edges.find(&ends).map(|place| self.edge_at(place))
    }

    /// One dependency, by the classes of its ends.
    pub fn edge_of(&self, from: &LockClass, to: &LockClass) -> Option<Sides<SideEdge>> {
        self.edge((self.classes.find(from)?, self.classes.find(to)?))
    }

    /// The call path that made a dependency in the first guest of a side that showed it, innermost
    /// first.
    pub fn path(&self, ends: (u32, u32), side: Side) -> &[String] {
        let place = self.edges.find(&ends);
        let paths = &self.sides.of(side).paths;
        place.and_then(|place| paths.get(place as usize)?.as_deref()).unwrap_or_default()
    }

    /// The contexts in which a class was taken.
    pub fn usage(&self, class: u32, side: Side) -> Usage {
        let shown = self.shown_usage(class, side);
        Usage(shown.iter().enumerate().map(|(bit, shown)| u16::from(shown.ever()) << bit).sum())
    }

    /// The same, with the boot and the trials that showed each context.
    pub fn shown_usage(&self, class: u32, side: Side) -> SideUsage {
        self.sides.of(side).usage.shown(class)
    }

    /// The number of trials of a side.
    pub fn trials(&self, side: Side) -> u32 {
        u32::try_from(self.sides.of(side).own()).unwrap_or(u32::MAX)
    }

    /// The number of the run's trials that showed something; all of them if their boot showed it.
    pub fn seen(&self, side: Side, shown: &Shown) -> u32 {
        if shown.boot { self.trials(side) } else { shown.trials.below(self.sides.of(side).own()) }
    }

    /// The number of trials of a side that were not blind: they are evidence of absence.
    pub fn watched(&self, side: Side) -> u32 {
        self.trials(side) - self.blind(side)
    }

    /// The number of blind trials of a side.
    pub fn blind(&self, side: Side) -> u32 {
        self.sides.of(side).blind.len()
    }

    /// Whether all trials of a side began from one checkpoint.
    pub fn restored(&self, side: Side) -> bool {
        self.sides.of(side).boots.len() == 1
    }

    /// How many of the boots that the trials of a side began from have a trial that showed something,
    /// and how many boots there are. `None` unless there are several.
    pub fn boots_of(&self, side: Side, shown: &Shown) -> Option<(u32, u32)> {
        let one = self.sides.of(side);
        if one.boots.len() < 2 {
            return None;
        }
        let trials = one.begun.iter().enumerate().filter(|(trial, _)| shown.trials.has(*trial));
        let boots: BTreeSet<usize> = trials.filter_map(|(_, boot)| *boot).collect();
        Some((u32::try_from(boots.len()).ok()?, u32::try_from(one.boots.len()).ok()?))
    }

    /// The number of these trials that were not blind.
    pub fn evident(&self, side: Side, trials: &TrialSet) -> u32 {
        trials.len() - trials.and(&self.sides.of(side).blind).len()
    }

    /// The name of a class for display. It includes the file if two classes have one name.
    pub fn name(&self, class: u32) -> String {
        let one = &self.classes.all[class as usize];
        let name = one.to_string();
        let alike =
            self.classes.all.iter().filter(|other| other.name == one.name && other.to_string() == name);
        match (alike.count(), &one.file, &one.key) {
            (0 | 1, ..) => name,
            (_, Some(file), _) => format!("{name} ({file})"),
            (_, None, Some(key)) => format!("{name} ({key})"),
            (_, None, None) => format!("{name} (allocated)"),
        }
    }

    /// How often something was shown, for display: `boot` if every trial began with it, otherwise
    /// `k/n`.
    pub fn often(&self, side: Side, shown: &Shown) -> String {
        if shown.boot { "boot".into() } else { format!("{}/{}", shown.trials.len(), self.trials(side)) }
    }

    /// Guests that show something: of the run's trials, the first of each boot that they began from; the
    /// first guest of another run.
    pub fn witnesses(&self, side: Side, shown: &Shown) -> Vec<String> {
        let one = self.sides.of(side);
        let mut boots = BTreeSet::new();
        let all = one.trials.iter().zip(&one.begun).enumerate();
        let is_own = |place: usize| place < one.own();
        all.filter(|(place, (_, boot))| shown.trials.has(*place) && boots.insert((is_own(*place), **boot)))
            .map(|(_, (name, _))| name.clone())
            .collect()
    }

    /// An example, below the run's folder: the checkpoint if every trial began with it, otherwise
    /// the first trial that showed it.
    pub fn example(&self, side: Side, shown: &Shown) -> String {
        if shown.boot {
            let name = self.sides.of(side).boots.iter().flatten().next();
            return name
                .map_or_else(|| format!("checkpoints/{side}"), |name| format!("checkpoints/{name}/{side}"));
        }
        let first = shown.trials.first().and_then(|trial| self.sides.of(side).trials.get(trial));
        first.cloned().unwrap_or_default()
    }
}

//! What all trials of both kernels showed, folded: for each dependency and each context of a class, in which trials.

use hotplug_side::{Side, Sides};

use super::TrialLocks;
use super::graph::{How, Interned, LockClass, LockOrder, Usage};

/// A set of trials, by their place among a side's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrialSet(Vec<u64>);

impl TrialSet {
    /// How many they are.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The trials of both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    /// The first of them.
    fn first(&self) -> Option<usize> {
        let word = self.0.iter().position(|word| *word != 0)?;
        Some(word * 64 + self.0[word].trailing_zeros() as usize)
    }
}

/// Where one side showed something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The boot of the checkpoint, and so every guest restored from it.
    pub boot: bool,
    /// Trials.
    pub trials: TrialSet,
}

impl Shown {
    /// Whether it was seen at all.
    pub fn ever(&self) -> bool {
        self.boot || !self.trials.is_empty()
    }
}

/// A dependency on one side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SideEdge {
    /// Where it was.
    pub shown: Shown,
    /// The same for each way in which it can be taken, in the order of [`How::KINDS`].
    pub kinds: [Shown; 4],
}

impl SideEdge {
    /// In which ways it was taken, all together.
    pub fn how(&self) -> How {
        let ever = How::KINDS.into_iter().zip(&self.kinds).filter(|(_, shown)| shown.ever());
        ever.fold(How::default(), |all, (kind, _)| all.and(kind))
    }
}

/// The bits of [`Usage`] on one side, each with where it was seen.
pub type SideUsage = [Shown; 8];

/// For each row, which of its `K` facts the boot showed, and which trials. Trials come one after the other, and each
/// shows nearly all rows: a bit for each of 64 trials, and all rows of these together, so that they stay near.
#[derive(Debug)]
struct Facts<const K: usize> {
    /// A bit for each fact.
    boot: Vec<u8>,
    /// Of each 64 trials.
    trials: Vec<Vec<[u64; K]>>,
}

impl<const K: usize> Default for Facts<K> {
    fn default() -> Self {
        Self { boot: Vec::new(), trials: Vec::new() }
    }
}

impl<const K: usize> Facts<K> {
    /// Marks the facts whose bits are set. Whether none of these 64 trials had any of the row before.
    fn mark(&mut self, row: u32, facts: u8, trial: Option<usize>) -> bool {
        let row = row as usize;
        let Some(trial) = trial else {
            *at(&mut self.boot, row, 0) |= facts;
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
        let boot = self.boot.get(row).copied().unwrap_or(0);
        std::array::from_fn(|fact| {
            let words = self.trials.iter().map(|rows| rows.get(row).map_or(0, |words| words[fact]));
            Shown { boot: boot >> fact & 1 != 0, trials: TrialSet(words.collect()) }
        })
    }
}

/// The place `at` in `all`, which grows to it.
fn at<T: Clone>(all: &mut Vec<T>, at: usize, empty: T) -> &mut T {
    if all.len() <= at {
        all.resize(at + 1, empty);
    }
    &mut all[at]
}

/// That an edge was there at all.
const SEEN: u8 = 1 << 4;

/// Both kernels' dependencies, over all trials.
#[derive(Debug, Default)]
pub struct Union {
    classes: Interned<LockClass>,
    edges: Interned<(u32, u32)>,
    sides: Sides<OneSide>,
}

#[derive(Debug, Default)]
struct OneSide {
    /// Of edges: the bits of [`How`], and [`SEEN`].
    edges: Facts<5>,
    /// Of classes: the bits of [`Usage`].
    usage: Facts<8>,
    /// The call path that made each edge where it was seen first.
    paths: Vec<Option<Vec<String>>>,
    /// The folders of trials.
    trials: Vec<String>,
    blind: TrialSet,
    /// Its trials began from a boot that was folded in.
    restored: bool,
}

impl Union {
    /// Folds in what a side's checkpoint already had.
    pub fn add_boot(&mut self, side: Side, order: &LockOrder) {
        self.sides.of_mut(side).restored = true;
        self.fold(side, order, None);
    }

    /// Folds in a trial. One that was blind can show something, and is no evidence that anything was absent.
    pub fn add(&mut self, trial: &TrialLocks) {
        let one = self.sides.of_mut(trial.side);
        let place = one.trials.len();
        one.trials.push(trial.folder.clone());
        *at(&mut one.blind.0, place / 64, 0) |= u64::from(trial.blind.is_some()) << (place % 64);
        self.fold(trial.side, &trial.order, Some(place));
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

    /// All classes, by their place.
    pub fn classes(&self) -> &[LockClass] {
        &self.classes.all
    }

    /// All dependencies, by the places of their ends.
    pub fn edges(&self) -> impl Iterator<Item = ((u32, u32), Sides<SideEdge>)> {
        (0..).zip(&self.edges.all).map(|(place, ends)| (*ends, self.edge_at(place)))
    }

    fn edge_at(&self, place: u32) -> Sides<SideEdge> {
        let of = |side: Side| {
            // By their bits: from How::SR to How::EN, then SEEN.
            let [sr, er, sn, en, shown] = self.sides.of(side).edges.shown(place);
            SideEdge { shown, kinds: [en, sn, er, sr] }
        };
        Sides { before: of(Side::Before), after: of(Side::After) }
    }

    /// One of them.
    pub fn edge(&self, ends: (u32, u32)) -> Option<Sides<SideEdge>> {
        self.edges.find(&ends).map(|place| self.edge_at(place))
    }

    /// One of them, by the classes of its ends.
    pub fn edge_of(&self, from: &LockClass, to: &LockClass) -> Option<Sides<SideEdge>> {
        self.edge((self.classes.find(from)?, self.classes.find(to)?))
    }

    /// The call path that made it where a side saw it first, innermost first.
    pub fn path(&self, ends: (u32, u32), side: Side) -> &[String] {
        let place = self.edges.find(&ends);
        let paths = &self.sides.of(side).paths;
        place.and_then(|place| paths.get(place as usize)?.as_deref()).unwrap_or_default()
    }

    /// In which contexts a class was taken.
    pub fn usage(&self, class: u32, side: Side) -> Usage {
        let shown = self.shown_usage(class, side);
        Usage(shown.iter().enumerate().map(|(bit, shown)| u16::from(shown.ever()) << bit).sum())
    }

    /// The same, each with where it was seen.
    pub fn shown_usage(&self, class: u32, side: Side) -> SideUsage {
        self.sides.of(side).usage.shown(class)
    }

    /// How many trials of a side there are.
    pub fn trials(&self, side: Side) -> u32 {
        u32::try_from(self.sides.of(side).trials.len()).unwrap_or(u32::MAX)
    }

    /// Trials of a side that are evidence of what they did not show.
    pub fn watched(&self, side: Side) -> u32 {
        self.trials(side) - self.blind(side)
    }

    /// Trials of a side that are not.
    pub fn blind(&self, side: Side) -> u32 {
        self.sides.of(side).blind.len()
    }

    /// Whether a side's trials began from a checkpoint.
    pub fn restored(&self, side: Side) -> bool {
        self.sides.of(side).restored
    }

    /// Of these trials, those that are evidence of what they did not show.
    pub fn evident(&self, side: Side, trials: &TrialSet) -> u32 {
        trials.len() - trials.and(&self.sides.of(side).blind).len()
    }

    /// A class as people write it; its file comes along where two are written alike.
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

    /// How often something was seen, for people: `boot` where every trial began with it, else trials of all.
    pub fn often(&self, side: Side, shown: &Shown) -> String {
        if shown.boot { "boot".into() } else { format!("{}/{}", shown.trials.len(), self.trials(side)) }
    }

    /// Where something was seen, below the run's folder: the checkpoint if every trial had it, else the first trial.
    pub fn example(&self, side: Side, shown: &Shown) -> String {
        if shown.boot {
            return format!("checkpoints/{side}");
        }
        let folder = shown.trials.first().and_then(|trial| self.sides.of(side).trials.get(trial));
        folder.map_or_else(String::new, |folder| format!("trials/{folder}"))
    }
}

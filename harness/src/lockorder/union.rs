//! What all trials of both kernels showed, folded: for each dependency and each context of a class, in which trials.

use rustc_hash::FxHashMap;

use super::TrialLocks;
use super::graph::{How, Interned, LockClass, LockOrder, Usage};
use crate::side::{Side, Sides};

/// A set of trials, by their place among a side's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrialSet(Vec<u64>);

impl TrialSet {
    fn insert(&mut self, trial: u32) {
        let word = trial as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (trial % 64);
    }

    fn contains(&self, trial: usize) -> bool {
        self.0.get(trial / 64).is_some_and(|word| word >> (trial % 64) & 1 != 0)
    }

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
    pub fn first(&self) -> Option<u32> {
        let word = self.0.iter().position(|word| *word != 0)?;
        Some(u32::try_from(word * 64).ok()? + self.0[word].trailing_zeros())
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
    /// The call path that made it where it was seen first.
    pub path: Vec<String>,
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

/// Both kernels' dependencies, over all trials.
#[derive(Debug, Default)]
pub struct Union {
    classes: Interned<LockClass>,
    edges: FxHashMap<(u32, u32), Sides<SideEdge>>,
    usage: Vec<Sides<SideUsage>>,
    trials: Sides<Vec<Trial>>,
    boots: Sides<bool>,
}

/// One trial that was folded in.
#[derive(Debug)]
struct Trial {
    folder: String,
    blind: bool,
}

impl Union {
    /// Folds in what a side's checkpoint already had.
    pub fn add_boot(&mut self, side: Side, order: &LockOrder) {
        *self.boots.of_mut(side) = true;
        self.fold(side, order, None);
    }

    /// Folds in a trial. One that was blind can show something, and is no evidence that anything was absent.
    pub fn add(&mut self, trial: &TrialLocks) {
        let trials = self.trials.of_mut(trial.side);
        let place = u32::try_from(trials.len()).unwrap_or(u32::MAX);
        trials.push(Trial { folder: trial.folder.clone(), blind: trial.blind.is_some() });
        self.fold(trial.side, &trial.order, Some(place));
    }

    fn fold(&mut self, side: Side, order: &LockOrder, trial: Option<u32>) {
        if !order.is_sound() {
            return;
        }
        let places: Vec<u32> = order.classes.iter().map(|node| self.class(&node.class)).collect();
        for (node, place) in order.classes.iter().zip(&places) {
            let shown = self.usage[*place as usize].of_mut(side);
            for (bit, shown) in shown.iter_mut().enumerate() {
                if node.usage.has(bit) {
                    mark(shown, trial);
                }
            }
        }
        for edge in &order.edges {
            let ends = (places[edge.from as usize], places[edge.to as usize]);
            let seen = self.edges.entry(ends).or_default().of_mut(side);
            if !seen.shown.ever() {
                seen.path = order.path(edge);
            }
            mark(&mut seen.shown, trial);
            for (kind, shown) in How::KINDS.into_iter().zip(&mut seen.kinds) {
                if edge.how.has(kind) {
                    mark(shown, trial);
                }
            }
        }
    }

    fn class(&mut self, class: &LockClass) -> u32 {
        let place = self.classes.place(class);
        if self.usage.len() <= place as usize {
            self.usage.push(Sides::default());
        }
        place
    }

    /// All classes, by their place.
    pub fn classes(&self) -> &[LockClass] {
        &self.classes.all
    }

    /// All dependencies, by the places of their ends; in no order.
    pub fn edges(&self) -> impl Iterator<Item = ((u32, u32), &Sides<SideEdge>)> {
        self.edges.iter().map(|(ends, sides)| (*ends, sides))
    }

    /// One of them.
    pub fn edge(&self, ends: (u32, u32)) -> Option<&Sides<SideEdge>> {
        self.edges.get(&ends)
    }

    /// One of them, by the classes of its ends.
    pub fn edge_of(&self, from: &LockClass, to: &LockClass) -> Option<&Sides<SideEdge>> {
        self.edge((self.classes.find(from)?, self.classes.find(to)?))
    }

    /// In which contexts a class was taken.
    pub fn usage(&self, class: u32, side: Side) -> Usage {
        let shown = self.shown_usage(class, side);
        Usage(shown.iter().enumerate().map(|(bit, shown)| u16::from(shown.ever()) << bit).sum())
    }

    /// The same, each with where it was seen.
    pub fn shown_usage(&self, class: u32, side: Side) -> &SideUsage {
        self.usage[class as usize].of(side)
    }

    /// Trials of a side that are evidence of what they did not show.
    pub fn watched(&self, side: Side) -> u32 {
        count(self.trials.of(side).iter().filter(|trial| !trial.blind))
    }

    /// Trials of a side that are not.
    pub fn blind(&self, side: Side) -> u32 {
        count(self.trials.of(side).iter().filter(|trial| trial.blind))
    }

    /// Whether a side's trials began from a checkpoint.
    pub fn restored(&self, side: Side) -> bool {
        *self.boots.of(side)
    }

    /// Of these trials, those that are evidence of what they did not show.
    pub fn evident(&self, side: Side, trials: &TrialSet) -> u32 {
        let all = self.trials.of(side);
        count((0_usize..).zip(all).filter(|(place, trial)| !trial.blind && trials.contains(*place)))
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

    /// Where something was seen, below the run's folder: the checkpoint if every trial had it, else the first trial.
    pub fn example(&self, side: Side, shown: &Shown) -> String {
        if shown.boot {
            return format!("checkpoints/{side}");
        }
        let folder = shown.trials.first().and_then(|trial| self.folder(side, trial));
        folder.map_or_else(String::new, |folder| format!("trials/{folder}"))
    }

    /// A trial's folder.
    pub fn folder(&self, side: Side, trial: u32) -> Option<&str> {
        self.trials.of(side).get(trial as usize).map(|trial| &*trial.folder)
    }
}

fn count<T>(all: impl Iterator<Item = T>) -> u32 {
    u32::try_from(all.count()).unwrap_or(u32::MAX)
}

fn mark(shown: &mut Shown, trial: Option<u32>) {
    match trial {
        None => shown.boot = true,
        Some(trial) => shown.trials.insert(trial),
    }
}

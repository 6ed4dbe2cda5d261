//! The lock order of one guest.

use std::collections::{BTreeSet, HashMap};

use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::known::Known;

/// The identity of a lock class, which is the same in two guests and in two builds of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockClass {
    /// The name as lockdep prints it, such as `mem_hotplug_lock`. Unprintable bytes are `?`.
    pub name: String,
    /// The variable that holds its key, without the compiler's number; `None` if the key was
    /// allocated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The source file of a static key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The nesting level that the caller gave.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub subclass: u32,
    /// Its number among the classes that are equal in all else, by the address of the key.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ordinal: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl std::fmt::Display for LockClass {
    /// Prints the class as lockdep does: `name/subclass`. Further classes of one name get `#2`,
    /// `#3`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if self.ordinal > 0 {
            write!(f, "#{}", self.ordinal + 1)?;
        }
        if self.subclass > 0 {
            write!(f, "/{}", self.subclass)?;
        }
        Ok(())
    }
}

/// The contexts in which a class was taken: lockdep's `usage_mask`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Usage(pub u16);

/// A kind of interrupt that lockdep distinguishes (`kernel/locking/lockdep_states.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Irq {
    /// Hardware interrupts.
    Hardirq,
    /// Softirqs.
    Softirq,
}

impl Irq {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Hardirq, Self::Softirq];

    /// Its four bits in [`Usage`] (`enum lock_usage_bit`): taken in the interrupt; taken in it for
    /// reading; held with the interrupt enabled; held for reading with it enabled.
    pub(super) fn bits(self) -> [usize; 4] {
        match self {
            Self::Hardirq => [0, 1, 2, 3],
            Self::Softirq => [4, 5, 6, 7],
        }
    }
}

impl Usage {
    /// All bits that concern interrupts.
    const IRQ: u64 = 0xff;

    /// The known bits of the kernel's mask.
    pub fn of_mask(mask: u64) -> Self {
        Self(u16::try_from(mask & Self::IRQ).unwrap_or(0))
    }

    /// Whether a bit is set.
    pub(super) fn has(self, bit: usize) -> bool {
        self.0 >> bit & 1 != 0
    }

    /// The bits, as one byte.
    pub(super) fn bits(self) -> u8 {
        u8::try_from(self.0 & 0xff).unwrap_or(0)
    }

    /// The union of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The kinds of a dependency: lockdep's `dep`, with a bit for each of its four kinds
/// (kernel/locking/lockdep.c, "`DEP_*_BIT` in `lock_list::dep`").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct How(pub u8);

impl How {
    /// From a reader to a recursive reader.
    pub const SR: Self = Self(1);
    /// From a writer to a recursive reader.
    pub const ER: Self = Self(2);
    /// From a reader to a lock that is not a recursive reader's.
    pub const SN: Self = Self(4);
    /// From a writer to a lock that is not a recursive reader's.
    pub const EN: Self = Self(8);

    /// All four kinds together.
    pub const ALL: Self = Self(15);

    /// All four kinds. The kind that can block most others is the first.
    pub const KINDS: [Self; 4] = [Self::EN, Self::SN, Self::ER, Self::SR];

    /// The union of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of the four kinds is included.
    pub fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }

    /// Whether this kind ends at a recursive reader.
    pub fn to_recursive(self) -> bool {
        self == Self::SR || self == Self::ER
    }

    /// Whether this kind begins at a writer.
    pub fn from_writer(self) -> bool {
        self == Self::ER || self == Self::EN
    }

    /// Whether a dependency of this kind can be followed by one of the kind `next`:
    /// `-(*R)-> -(S*)->` makes no deadlock (Documentation/locking/lockdep-design.rst, "Dependency
    /// types and strong dependency paths").
    pub fn goes_on_as(self, next: Self) -> bool {
        !self.to_recursive() || next.from_writer()
    }
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [(Self::EN, "EN"), (Self::SN, "SN"), (Self::ER, "ER"), (Self::SR, "SR")];
        let all: Vec<&str> =
            names.into_iter().filter(|(how, _)| self.0 & how.0 != 0).map(|(_, name)| name).collect();
        f.write_str(&all.join("+"))
    }
}

/// A class in one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The class.
    #[serde(flatten)]
    pub class: LockClass,
    /// The contexts in which it was taken.
    pub usage: Usage,
}

/// A direct dependency: one lock was taken while the other was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// The lock that was held, by its index in the classes.
    pub from: u32,
    /// The lock that was taken, by its index in the classes.
    pub to: u32,
    /// The kinds of the dependency.
    pub how: How,
    /// The smallest distance of the two among the locks held: 1 means adjacent.
    pub distance: u16,
    /// The call path that first made it, by its index in the paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<u32>,
}

/// All that lockdep recorded in one guest, or since a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockOrder {
    /// Lock classes.
    pub classes: Vec<Node>,
    /// Dependencies between them.
    pub edges: Vec<Edge>,
    /// Call paths, innermost frame first, by the index of the frames in the functions.
    pub paths: Vec<Vec<u32>>,
    /// Locations in functions as the kernel prints them: `name+0x1f/0x80`.
    pub functions: Vec<String>,
}

impl LockOrder {
    /// Whether all indices are valid: they may come from a file.
    pub fn is_sound(&self) -> bool {
        let (classes, paths, functions) = (self.classes.len(), self.paths.len(), self.functions.len());
        let below = |place: u32, length: usize| (place as usize) < length;
        self.edges.iter().all(|edge| {
            below(edge.from, classes) && below(edge.to, classes) && edge.path.is_none_or(|p| below(p, paths))
        }) && self.paths.iter().flatten().all(|place| below(*place, functions))
    }

    /// The frames of an edge's call path, innermost first.
    pub fn path(&self, edge: &Edge) -> Vec<String> {
        let path = edge.path.and_then(|path| self.paths.get(path as usize));
        let frames = path.into_iter().flatten();
        frames.filter_map(|place| self.functions.get(*place as usize).cloned()).collect()
    }

    /// The part that `base` does not have: dependencies that are new or of a new kind, and classes
    /// that are new or were taken in a new context. It includes the classes at the ends of these
    /// dependencies.
    #[must_use]
    pub fn beyond(&self, base: &Self) -> Self {
        let mut known = Known::default();
        known.add(base);
        known.take(self)
    }

    /// The part with these dependencies and these classes, by their indices. It includes the classes at
    /// the ends of the dependencies.
    pub(super) fn part(&self, edges: &[usize], classes: &[usize]) -> Self {
        let edges = edges.iter().filter_map(|place| self.edges.get(*place));
        let mut named: BTreeSet<usize> = classes.iter().copied().collect();
        named.extend(edges.clone().flat_map(|edge| [edge.from as usize, edge.to as usize]));
        let mut out = Self::default();
        let mut places = HashMap::new();
        for (place, node) in named.into_iter().filter_map(|place| Some((place, self.classes.get(place)?))) {
            places.insert(place, u32::try_from(out.classes.len()).unwrap_or(u32::MAX));
            out.classes.push(node.clone());
        }
        let mut paths = Interned::default();
        let mut functions = Interned::default();
        for edge in edges {
            let ends = (places.get(&(edge.from as usize)), places.get(&(edge.to as usize)));
            let (Some(&from), Some(&to)) = ends else { continue };
            let path = edge.path.and_then(|path| self.paths.get(path as usize)).map(|path| {
                let frames = path.iter().filter_map(|place| self.functions.get(*place as usize));
                paths.place(&frames.map(|name| functions.place(name)).collect::<Vec<u32>>())
            });
            out.edges.push(Edge { from, to, path, ..*edge });
        }
        out.paths = paths.all;
        out.functions = functions.all;
        out
    }

    /// The dependencies whose call path is known and has no frame in these functions. It has no class of
    /// its own, and no context of a class.
    #[must_use]
    pub fn outside(&self, functions: &BTreeSet<String>) -> Self {
        let is_outside = |edge: &Edge| {
            let path = self.path(edge);
            !path.is_empty() && !passes(&path, functions)
        };
        let edges = self.edges.iter().enumerate().filter(|(_, edge)| is_outside(edge));
        let mut part = self.part(&edges.map(|(place, _)| place).collect::<Vec<usize>>(), &[]);
        for node in &mut part.classes {
            node.usage = Usage::default();
        }
        part
    }
}

/// The function of a frame such as `store_enabled+0x101/0x97a`.
pub fn function_of(frame: &str) -> &str {
    frame.split('+').next().unwrap_or(frame)
}

/// Whether a call path has a frame in one of these functions.
pub fn passes(path: &[String], functions: &BTreeSet<String>) -> bool {
    path.iter().any(|frame| functions.contains(function_of(frame)))
}

/// Values of which each is stored once.
#[derive(Debug, Clone)]
pub(super) struct Interned<T> {
    pub(super) all: Vec<T>,
    places: FxHashMap<T, u32>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self { all: Vec::new(), places: FxHashMap::default() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interned<T> {
    /// The index of a value, if it is there.
    pub(super) fn find(&self, thing: &T) -> Option<u32> {
        self.places.get(thing).copied()
    }

    /// The index of a value, which is found fast if it is `guess`.
    pub(super) fn place_near(&mut self, guess: u32, thing: &T) -> u32 {
        if self.all.get(guess as usize) == Some(thing) { guess } else { self.place(thing) }
    }

    /// The index of a value. A new value is appended.
    pub(super) fn place(&mut self, thing: &T) -> u32 {
        if let Some(place) = self.find(thing) {
            return place;
        }
        let place = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(thing.clone());
        self.places.insert(thing.clone(), place);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzzer found this with bytes that no kernel printed (`make fuzz TARGET=lock_order`).
    #[test]
    fn nothing_is_beyond_itself_whatever_it_has_twice() {
        let class = |name: &str, usage| {
            let class = LockClass { name: name.into(), key: None, file: None, subclass: 0, ordinal: 0 };
            Node { class, usage: Usage(usage) }
        };
        let edge = |how| Edge { from: 0, to: 1, how, distance: 1, path: None };
        let order = LockOrder {
            classes: vec![class("a", 1), class("b", 2), class("b", 4)],
            edges: vec![edge(How::EN), edge(How::SN)],
            ..LockOrder::default()
        };
        assert!(order.is_sound());
        let nothing = order.beyond(&order);
        assert!(nothing.edges.is_empty() && nothing.classes.is_empty(), "{nothing:?}");
        assert_eq!(order.beyond(&LockOrder::default()).edges.len(), 2);
    }

    #[test]
    fn only_paths_outside_the_changed_functions_are_kept() {
        let class = |name: &str| {
            let class = LockClass { name: name.into(), key: None, file: None, subclass: 0, ordinal: 0 };
            Node { class, usage: Usage(3) }
        };
        let edge = |from, to, path| Edge { from, to, how: How::EN, distance: 1, path };
        let order = LockOrder {
            classes: vec![class("a"), class("b"), class("c"), class("d")],
            edges: vec![edge(0, 1, Some(0)), edge(2, 3, Some(1)), edge(1, 2, None)],
            paths: vec![vec![0, 2], vec![0, 1]],
            functions: vec!["down+0x1/0x9".into(), "kept+0x2/0x9".into(), "changed+0x3/0x9".into()],
        };
        let part = order.outside(&BTreeSet::from(["changed".to_owned()]));
        let names: Vec<&str> = part.classes.iter().map(|node| &*node.class.name).collect();
        assert_eq!((names, part.edges.len()), (vec!["c", "d"], 1));
        assert_eq!(part.path(&part.edges[0]), ["down+0x1/0x9", "kept+0x2/0x9"]);
        assert!(part.classes.iter().all(|node| node.usage == Usage::default()));
        assert!(part.is_sound());
    }
}

//! One guest's lock order.

use std::collections::{HashMap, HashSet};

use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What makes two lock classes the same, in two guests and in two builds of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockClass {
    /// As lockdep prints it, such as `mem_hotplug_lock`; bytes that no name has are `?`.
    pub name: String,
    /// The variable that is its key, without the compiler's number; none where the key was allocated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The source file of a static key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The nesting level that its taker named.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub subclass: u32,
    /// Its place among classes that are equal in all else, by the address of the key.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ordinal: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl std::fmt::Display for LockClass {
    /// As lockdep prints it: `name/subclass`; further ones of a name get `#2`, `#3`.
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

/// In which contexts a class was taken: lockdep's `usage_mask`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Usage(pub u16);

/// A kind of interrupt that lockdep tells apart (`kernel/locking/lockdep_states.h`).
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

    /// Its four bits in [`Usage`] (`enum lock_usage_bit`): taken in it, the same for
    /// reading, held with it enabled, the same for reading.
    pub(super) fn bits(self) -> [usize; 4] {
        match self {
            Self::Hardirq => [0, 1, 2, 3],
            Self::Softirq => [4, 5, 6, 7],
        }
    }
}

impl Usage {
    /// All bits that are about interrupts.
    const IRQ: u64 = 0xff;

    /// Of what the kernel holds, what is known here.
    pub fn of_mask(mask: u64) -> Self {
        Self(u16::try_from(mask & Self::IRQ).unwrap_or(0))
    }

    /// Whether one of its bits is set.
    pub(super) fn has(self, bit: usize) -> bool {
        self.0 >> bit & 1 != 0
    }

    /// A bit each.
    pub(super) fn bits(self) -> u8 {
        u8::try_from(self.0 & 0xff).unwrap_or(0)
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// In which ways one lock was taken under another: lockdep's `dep`, a bit for each of its four kinds of dependency
/// (kernel/locking/lockdep.c, "`DEP_*_BIT` in `lock_list::dep`").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct How(pub u8);

impl How {
    /// From a reader to a recursive reader, from a writer to one; from a reader to anybody else, from a writer to one.
    pub const SR: Self = Self(1);
    /// See [`How::SR`].
    pub const ER: Self = Self(2);
    /// See [`How::SR`].
    pub const SN: Self = Self(4);
    /// See [`How::SR`].
    pub const EN: Self = Self(8);

    /// All four together.
    pub const ALL: Self = Self(15);

    /// All four, the one that can wait for most first.
    pub const KINDS: [Self; 4] = [Self::EN, Self::SN, Self::ER, Self::SR];

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of the four kinds is among it.
    pub fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }

    /// Whether one of the four kinds ends in a recursive reader.
    pub fn to_recursive(self) -> bool {
        self == Self::SR || self == Self::ER
    }

    /// Whether one of the four kinds begins at a writer.
    pub fn from_writer(self) -> bool {
        self == Self::ER || self == Self::EN
    }

    /// Whether a step of one of the four kinds can go on as another: `-(*R)-> -(S*)->` makes no deadlock
    /// (Documentation/locking/lockdep-design.rst, "Dependency types and strong dependency paths").
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

/// A class, in one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Which.
    #[serde(flatten)]
    pub class: LockClass,
    /// In which contexts it was taken.
    pub usage: Usage,
}

/// A direct dependency: one lock was taken while the other was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// The lock that was held, by its place among the classes.
    pub from: u32,
    /// The lock that was taken.
    pub to: u32,
    /// In which ways.
    pub how: How,
    /// How far apart the two were among the locks held, at the nearest: 1 is next to each other.
    pub distance: u16,
    /// The call path that first made it, by its place among the paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<u32>,
}

/// All that lockdep knows in one guest, or what it has learned since a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockOrder {
    /// Lock classes.
    pub classes: Vec<Node>,
    /// Dependencies between them.
    pub edges: Vec<Edge>,
    /// Call paths, innermost first, by the place of their frames among the functions.
    pub paths: Vec<Vec<u32>>,
    /// Places in functions as the kernel prints them: `name+0x1f/0x80`.
    pub functions: Vec<String>,
}

impl LockOrder {
    /// Whether every place that it names is there: it may come from a file.
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

    /// What is in it and not in `base`: dependencies that are new, or taken in a new way, and classes that are new or
    /// were taken in a new context. Classes that these dependencies name come along.
    #[must_use]
    pub fn beyond(&self, base: &Self) -> Self {
        // A kernel has each class and each dependency once. A file may have them twice: together they count.
        let mut usage: HashMap<&LockClass, Usage> = HashMap::new();
        for node in &base.classes {
            let known = usage.entry(&node.class).or_insert(node.usage);
            *known = known.and(node.usage);
        }
        let class = |order: &'_ Self, place: u32| order.classes.get(place as usize).map(|n| n.class.clone());
        let mut known: HashMap<(LockClass, LockClass), How> = HashMap::new();
        for edge in &base.edges {
            if let (Some(from), Some(to)) = (class(base, edge.from), class(base, edge.to)) {
                let how = known.entry((from, to)).or_insert(edge.how);
                *how = how.and(edge.how);
            }
        }
        let new: Vec<&Edge> = self
            .edges
            .iter()
            .filter(|edge| {
                let (Some(from), Some(to)) = (class(self, edge.from), class(self, edge.to)) else {
                    return false;
                };
                known.get(&(from, to)).is_none_or(|how| how.and(edge.how) != *how)
            })
            .collect();
        let named: HashSet<u32> = new.iter().flat_map(|edge| [edge.from, edge.to]).collect();
        let mut out = Self::default();
        let mut places = HashMap::new();
        for (place, node) in (0_u32..).zip(&self.classes) {
            let changed = usage.get(&node.class).is_none_or(|usage| usage.and(node.usage) != *usage);
            if changed || named.contains(&place) {
                places.insert(place, u32::try_from(out.classes.len()).unwrap_or(u32::MAX));
                out.classes.push(node.clone());
            }
        }
        let mut paths = Interned::default();
        let mut functions = Interned::default();
        for edge in new {
            let path = edge.path.and_then(|path| self.paths.get(path as usize)).map(|path| {
                let frames = path.iter().filter_map(|place| self.functions.get(*place as usize));
                paths.place(&frames.map(|name| functions.place(name)).collect::<Vec<u32>>())
            });
            out.edges.push(Edge { from: places[&edge.from], to: places[&edge.to], path, ..*edge });
        }
        out.paths = paths.all;
        out.functions = functions.all;
        out
    }
}

/// Things of which each is kept once.
#[derive(Debug)]
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
    /// Its place, if it is there.
    pub(super) fn find(&self, thing: &T) -> Option<u32> {
        self.places.get(thing).copied()
    }

    /// Its place, which is quickly found where it is `guess`.
    pub(super) fn place_near(&mut self, guess: u32, thing: &T) -> u32 {
        if self.all.get(guess as usize) == Some(thing) { guess } else { self.place(thing) }
    }

    /// Its place; a new one's is the last.
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

    /// Found by bytes that no kernel printed (`make fuzz TARGET=lock_order`).
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
}

//! The combined lock order of many guests of one kernel, without the guests that showed it.

use rustc_hash::FxHashMap;

use super::graph::{How, Interned, LockClass, LockOrder, Usage};

/// All classes and dependencies that were seen so far.
#[derive(Debug, Default)]
pub struct Known {
    classes: Interned<LockClass>,
    /// The contexts in which each class was taken.
    usage: Vec<Usage>,
    edges: FxHashMap<(u32, u32), How>,
}

impl Known {
    /// The number of dependencies.
    pub fn edges(&self) -> usize {
        self.edges.len()
    }

    /// Adds a lock order.
    pub fn add(&mut self, order: &LockOrder) {
        self.learn(order, |_| {}, |_| {});
    }

    /// Adds a lock order. Returns the part that was not known.
    #[must_use]
    pub fn take(&mut self, order: &LockOrder) -> LockOrder {
        let (mut classes, mut edges) = (Vec::new(), Vec::new());
        self.learn(order, |place| classes.push(place), |place| edges.push(place));
        order.part(&edges, &classes)
    }

    /// Adds a lock order, and calls the functions with the index of each class and of each dependency
    /// that is new, or is new in a kind or a context.
    fn learn(
        &mut self,
        order: &LockOrder,
        mut new_class: impl FnMut(usize),
        mut new_edge: impl FnMut(usize),
    ) {
        let mut places = Vec::with_capacity(order.classes.len());
        let mut next = 0;
        for (at, node) in order.classes.iter().enumerate() {
            let place = self.classes.place_near(next, &node.class);
            next = place + 1;
            places.push(place);
            let is_new = place as usize >= self.usage.len();
            if is_new {
                self.usage.push(Usage::default());
            }
            let known = &mut self.usage[place as usize];
            let all = known.and(node.usage);
            if is_new || all != *known {
                new_class(at);
            }
            *known = all;
        }
        for (at, edge) in order.edges.iter().enumerate() {
            let ends = (places.get(edge.from as usize), places.get(edge.to as usize));
            let (Some(&from), Some(&to)) = ends else { continue };
            let known = self.edges.get(&(from, to)).copied();
            let all = known.unwrap_or_default().and(edge.how);
            if known != Some(all) {
                new_edge(at);
                self.edges.insert((from, to), all);
            }
        }
    }
}

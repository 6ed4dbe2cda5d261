//! Dependencies that lockdep did not record, because another path had made them before.
//!
//! Lockdep keeps one call path for each dependency (`check_prev_add` in kernel/locking/lockdep.c
//! returns early if the two locks have one). If a patch changes that path, nothing says whether
//! another path takes the two locks in the same order. But the other path leaves two dependencies of
//! its own: from a lock held outside both to the first, and from the second to a lock taken inside both.
//! If one call of one function made both, it seems to hold the first while it takes the second.

use std::collections::BTreeSet;

use hotplug_side::Side;

use super::graph::passes;
use super::union::Union;

/// The most frames between a function and the lock that it takes, such as `get_online_mems` and
/// `percpu_down_read`.
const INNER: usize = 2;

/// A function that seems to take one lock and then the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conjecture {
    /// The function.
    pub function: String,
    /// Its frames and those of its callers where it holds both, innermost first.
    pub path: Vec<String>,
    /// The dependency from the second lock that it made, by the indices of its ends.
    pub inside: (u32, u32),
}

/// The functions that seem to take the lock `first` and then `second` in a path without changed
/// functions, as guests of a side showed. One for each function.
pub fn conjectures(
    union: &Union,
    side: Side,
    (first, second): (u32, u32),
    changed: &BTreeSet<String>,
) -> Vec<Conjecture> {
    let paths = |pick: &dyn Fn((u32, u32)) -> bool| {
        let all = union.edges().map(|(ends, _)| ends).filter(|ends| pick(*ends));
        let all = all.map(|ends| (ends, union.path(ends, side)));
        all.filter(|(_, path)| !path.is_empty() && !passes(path, changed)).collect::<Vec<_>>()
    };
    let outside = paths(&|(from, to)| to == first && from != second);
    let inside = paths(&|(from, to)| from == second && to != first);
    let mut all: Vec<Conjecture> = Vec::new();
    for (ends, deep) in inside {
        for (_, path) in &outside {
            let Some(found) = of_one_call(path, deep, ends) else { continue };
            if all.iter().all(|known| known.function != found.function) {
                all.push(found);
            }
        }
    }
    all.sort_by(|a, b| a.function.cmp(&b.function));
    all
}

/// The innermost function of `outside` that is also in `inside`, at a later place in the same call.
fn of_one_call(outside: &[String], inside: &[String], ends: (u32, u32)) -> Option<Conjecture> {
    let calls = outside.iter().enumerate().take(INNER + 1).skip(1);
    for (at, frame) in calls {
        let (name, offset) = split(frame)?;
        let is_same = |place: usize| {
            let later = split(&inside[place]).is_some_and(|(other, later)| other == name && later > offset);
            later && inside[place + 1..] == outside[at + 1..]
        };
        if let Some(place) = (0..inside.len()).find(|place| is_same(*place)) {
            return Some(Conjecture {
                function: name.to_owned(),
                path: inside[place..].to_vec(),
                inside: ends,
            });
        }
    }
    None
}

/// The function and the offset of a frame such as `store_enabled+0x101/0x97a`.
fn split(frame: &str) -> Option<(&str, u64)> {
    let (name, place) = frame.split_once("+0x")?;
    let offset = place.split('/').next().unwrap_or(place);
    Some((name, u64::from_str_radix(offset, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Edge, How, LockClass, LockOrder, Node, TrialLocks, Usage};

    /// The lock order of a guest of 6.1.192 that wrote to `/sys/kernel/mm/lru_gen/enabled`.
    fn union(paths: [&[&str]; 3]) -> Union {
        let class = |name: &str| {
            let class = LockClass { name: name.into(), key: None, file: None, subclass: 0, ordinal: 0 };
            Node { class, usage: Usage(0) }
        };
        let mut functions: Vec<String> = paths.concat().into_iter().map(str::to_owned).collect();
        functions.dedup();
        let place =
            |frame: &&str| u32::try_from(functions.iter().position(|one| one == frame).unwrap()).unwrap();
        let paths = paths.map(|path| path.iter().map(place).collect()).into();
        let edge = |from, to, path| Edge { from, to, how: How::EN, distance: 1, path: Some(path) };
        let order = LockOrder {
            classes: ["cgroup_mutex", "cpu_hotplug_lock", "mem_hotplug_lock", "state_mutex"]
                .map(class)
                .into(),
            edges: vec![edge(1, 2, 0), edge(0, 1, 1), edge(2, 3, 2)],
            paths,
            functions,
        };
        let mut union = Union::default();
        let folder = "before-000".into();
        union.add(&TrialLocks {
            side: Side::Before,
            folder,
            blind: None,
            restored: false,
            microseconds: 0,
            order,
        });
        union
    }

    const BOOT: &[&str] = &["percpu_down_write+0x3f/0x20c", "try_online_node+0x18/0x3f", "cpu_up+0x3c/0xcb"];

    fn found(outer: &[&str], inner: &[&str], changed: &[&str]) -> Vec<String> {
        let changed = changed.iter().map(|&name| name.to_owned()).collect();
        let all = conjectures(&union([BOOT, outer, inner]), Side::Before, (1, 2), &changed);
        all.into_iter().map(|one| format!("{} {}", one.function, one.path.join(" "))).collect()
    }

    #[test]
    fn one_call_that_takes_both_locks_is_found() {
        let outer = ["cpus_read_lock+0x36/0xb9", "store_enabled+0xee/0x97a", "kobj_attr_store+0xf/0x19"];
        let inner = [
            "__mutex_lock+0xa5/0xbbc",
            "mutex_lock_nested+0x16/0x18",
            "store_enabled+0x101/0x97a",
            "kobj_attr_store+0xf/0x19",
        ];
        let both = ["store_enabled store_enabled+0x101/0x97a kobj_attr_store+0xf/0x19"];
        assert_eq!(found(&outer, &inner, &["try_online_node"]), both);
        // The patch changes the function, or the second lock was taken earlier in it.
        assert!(found(&outer, &inner, &["store_enabled"]).is_empty());
        let earlier = ["mutex_lock_nested+0x16/0x18", "store_enabled+0x11/0x97a", "kobj_attr_store+0xf/0x19"];
        assert!(found(&outer, &earlier, &[]).is_empty());
        // Another call of the same function.
        let other = ["mutex_lock_nested+0x16/0x18", "store_enabled+0x101/0x97a", "boot+0xf/0x19"];
        assert!(found(&outer, &other, &[]).is_empty());
    }
}

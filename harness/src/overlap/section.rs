//! The critical sections of one trial, and those that two tasks were inside of at once.
//!
//! All times are by the guest's `CLOCK_MONOTONIC`, which is one clock for all CPUs. A task is also
//! inside while it sleeps, or while another task has its CPU: a race only needs that neither task
//! has left.

use std::collections::BTreeMap;

use crate::latency::Call;
use crate::scenario::CriticalSection;

/// One period in which a task was inside a section.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Section<'a> {
    /// The section.
    pub what: &'a CriticalSection,
    /// The number of the task.
    pub task: u32,
    /// The start and the end, in microseconds.
    pub from_us: f64,
    /// See `from_us`.
    pub to_us: f64,
}

/// The longest overlap of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Longest {
    /// Its duration, in nanoseconds.
    pub nanoseconds: f64,
    /// Its start, in microseconds.
    pub from_us: f64,
}

/// Every period in which a task was inside one of `wanted`, in the order of the starts.
///
/// A task is inside `first..last` after its return from `first` and before its call of `last`. For
/// a lock, this is the holder, and not a waiter.
pub fn sections<'a>(calls: &[Call], wanted: &'a [CriticalSection]) -> Vec<Section<'a>> {
    let mut all = Vec::new();
    for what in wanted {
        match what {
            CriticalSection::Function(name) => {
                let of = calls.iter().filter(|call| call.function == *name);
                all.extend(of.map(|call| Section {
                    what,
                    task: call.task,
                    from_us: call.began_us,
                    to_us: call.ended_us(),
                }));
            }
            CriticalSection::Between(first, last) => all.extend(between(calls, what, first, last)),
        }
    }
    all.sort_by(|a, b| a.from_us.total_cmp(&b.from_us));
    all
}

fn between<'a>(calls: &[Call], what: &'a CriticalSection, first: &str, last: &str) -> Vec<Section<'a>> {
    let mut ends: Vec<(f64, u32, bool)> = Vec::new();
    for call in calls {
        if call.function == first {
            ends.push((call.ended_us(), call.task, true));
        } else if call.function == last {
            ends.push((call.began_us, call.task, false));
        }
    }
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut inside: BTreeMap<u32, f64> = BTreeMap::new();
    let mut all = Vec::new();
    for (at, task, is_first) in ends {
        if is_first {
            inside.insert(task, at);
        } else if let Some(from_us) = inside.remove(&task) {
            all.push(Section { what, task, from_us, to_us: at });
        }
    }
    all
}

/// The longest overlap of each pair. The lesser of the two sections comes first.
pub fn overlaps<'a>(
    sections: &[Section<'a>],
) -> BTreeMap<(&'a CriticalSection, &'a CriticalSection), Longest> {
    let mut all: BTreeMap<(&CriticalSection, &CriticalSection), Longest> = BTreeMap::new();
    let mut inside: Vec<&Section<'a>> = Vec::new();
    for new in sections {
        inside.retain(|old| old.to_us > new.from_us);
        for old in inside.iter().filter(|old| old.task != new.task) {
            let nanoseconds = (old.to_us.min(new.to_us) - new.from_us) * 1e3;
            if nanoseconds <= 0.0 {
                continue;
            }
            let pair = (old.what.min(new.what), old.what.max(new.what));
            let longest = all.entry(pair).or_insert(Longest { nanoseconds, from_us: new.from_us });
            if longest.nanoseconds < nanoseconds {
                *longest = Longest { nanoseconds, from_us: new.from_us };
            }
        }
        inside.push(new);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(function: &str, task: u32, from: f64, to: f64) -> Call {
        Call { function: function.into(), task, began_us: from, nanoseconds: (to - from) * 1e3 }
    }

    fn critical(names: &[&str]) -> Vec<CriticalSection> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn found(calls: &[Call], names: &[&str]) -> Vec<(String, f64, f64)> {
        let wanted = critical(names);
        let all = overlaps(&sections(calls, &wanted));
        all.into_iter().map(|((a, b), l)| (format!("{a} {b}"), l.nanoseconds, l.from_us)).collect()
    }

    #[test]
    fn two_tasks_inside_at_once_are_an_overlap_and_one_in_the_other_is_none() {
        let calls = [
            call("up", 1, 100.0, 200.0),
            call("offline", 2, 150.0, 300.0),
            // One function called by the other, in one task.
            call("drain", 2, 160.0, 170.0),
            // A second, longer overlap.
            call("up", 1, 220.0, 290.0),
            // This call follows the one before it.
            call("up", 3, 300.0, 310.0),
        ];
        assert_eq!(
            found(&calls, &["up", "offline", "drain"]),
            [("drain up".to_owned(), 10_000.0, 160.0), ("offline up".to_owned(), 70_000.0, 220.0)]
        );
        assert_eq!(found(&calls, &["up"]), []);
    }

    #[test]
    fn who_waits_for_a_lock_is_not_inside() {
        let calls = [
            call("lock", 1, 0.0, 10.0),
            call("unlock", 1, 100.0, 101.0),
            // The task waits all this time, and then has the lock.
            call("lock", 2, 5.0, 100.5),
            call("unlock", 2, 200.0, 201.0),
            call("work", 3, 50.0, 150.0),
        ];
        assert_eq!(found(&calls, &["lock..unlock"]), []);
        assert_eq!(
            found(&calls, &["lock..unlock", "work"]),
            [("work lock..unlock".to_owned(), 50_000.0, 50.0)]
        );
    }

    #[test]
    fn two_tasks_may_be_in_one_function() {
        let calls = [call("online", 1, 0.0, 10.0), call("online", 2, 4.0, 20.0)];
        assert_eq!(found(&calls, &["online"]), [("online online".to_owned(), 6_000.0, 4.0)]);
    }

    /// The sweep finds the same overlaps as a comparison of every call with every other.
    #[test]
    fn it_finds_what_comparing_all_with_all_finds() {
        use rand::{RngExt, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(5);
        let names = ["a", "b", "c"];
        for _ in 0..200 {
            let calls: Vec<Call> = (0..30)
                .map(|_| {
                    let from = f64::from(random.random_range(0..100));
                    let name = names[random.random_range(0..3)];
                    call(name, random.random_range(0..4), from, from + f64::from(random.random_range(0..40)))
                })
                .collect();
            let mut expected: BTreeMap<String, f64> = BTreeMap::new();
            for (at, one) in calls.iter().enumerate() {
                for other in calls[at + 1..].iter().filter(|other| other.task != one.task) {
                    let nanoseconds =
                        (one.ended_us().min(other.ended_us()) - one.began_us.max(other.began_us)) * 1e3;
                    if nanoseconds > 0.0 {
                        let (low, high) = (
                            one.function.clone().min(other.function.clone()),
                            one.function.clone().max(other.function.clone()),
                        );
                        let longest = expected.entry(format!("{low} {high}")).or_default();
                        *longest = longest.max(nanoseconds);
                    }
                }
            }
            let all: BTreeMap<String, f64> =
                found(&calls, &names).into_iter().map(|(pair, nanoseconds, _)| (pair, nanoseconds)).collect();
            assert_eq!(all, expected);
        }
    }
}

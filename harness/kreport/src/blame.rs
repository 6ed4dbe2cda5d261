//! Whose fault it looks like: the first function of a stack that is not a checker's or a lock's own helper.
//!
//! The lists are in `helpers.txt`: a word is a function, a word with a star all that begin so. Each section is for
//! the kinds that [`sections`] names.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use super::frame::plain_name;
use super::{Frame, Kind};

/// One section of `helpers.txt`.
#[derive(Debug, Default)]
struct Names {
    exact: HashSet<&'static str>,
    families: Vec<&'static str>,
}

impl Names {
    fn has(&self, name: &str) -> bool {
        self.exact.contains(name) || self.families.iter().any(|family| name.starts_with(family))
    }
}

static SECTIONS: LazyLock<HashMap<&'static str, Names>> = LazyLock::new(|| {
    let mut sections: HashMap<&'static str, Names> = HashMap::new();
    let mut current = "";
    for line in include_str!("helpers.txt").lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            current = name;
        }
        let names = sections.entry(current).or_default();
        for word in line.split_whitespace().filter(|word| !word.starts_with('[')) {
            match word.strip_suffix('*') {
                Some(family) => names.families.push(family),
                None => _ = names.exact.insert(word),
            }
        }
    }
    sections
});

/// The sections beside `machinery` and `helpers` that hold for a kind.
fn sections(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::HungTask | Kind::ScheduleInAtomic | Kind::SleepInAtomic | Kind::WorkqueueLockup => &["waiters"],
        Kind::PageCorruption => &["pages"],
        Kind::DebugObjects => &["objects"],
        Kind::DmaApi => &["dma"],
        Kind::SoftLockup | Kind::HardLockup => &["interrupted"],
        // Of a task that does not run, what it waits for.
        Kind::RcuStall => &["interrupted", "waiters"],
        Kind::MemoryLeak => &["allocators"],
        _ => &[],
    }
}

/// Whether a function is only a helper in a report of this kind.
pub(super) fn is_helper(kind: Kind, function: &str) -> bool {
    let name = plain_name(function);
    ["machinery", "helpers"]
        .iter()
        .chain(sections(kind))
        .any(|section| SECTIONS.get(*section).is_some_and(|names| names.has(name)))
}

/// Whether a function only prints or raises reports: nobody needs to read it at the head of a stack.
pub fn is_machinery(function: &str) -> bool {
    SECTIONS.get("machinery").is_some_and(|names| names.has(plain_name(function)))
}

/// The first function of a stack that is to blame. Frames that the unwinder is not sure of count where the others are
/// helpers, as in the dump of a task that was preempted; where all are helpers, it is the innermost one.
pub(super) fn blame(kind: Kind, frames: &[Frame]) -> Option<&str> {
    // `f+0x20/0x20` is no return address: %pB takes one off, so that it is a pointer to the function behind f.
    let pointer = |frame: &Frame| !frame.reliable && frame.offset.is_some() && frame.offset == frame.size;
    let culprit = |sure: bool| {
        let mut suspects = frames.iter().filter(|frame| frame.reliable == sure && !pointer(frame));
        suspects.find(|frame| !is_helper(kind, &frame.function))
    };
    culprit(true)
        .or_else(|| culprit(false))
        .or_else(|| frames.iter().find(|frame| frame.reliable))
        .or_else(|| frames.first())
        .map(|frame| plain_name(&frame.function))
}

/// The lock assertion a WARNING came from, if it came from one (include/linux/lockdep.h, kernel/cpu.c).
pub(super) fn assertion(frames: &[Frame]) -> Option<&str> {
    frames
        .iter()
        .filter(|frame| frame.reliable)
        .take(4)
        .map(|frame| plain_name(&frame.function))
        .find(|name| name.starts_with("lockdep_assert_") || name.starts_with("__lockdep_assert_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_told_from_culprits() {
        for helper in [
            "dump_stack_lvl",
            "__asan_report_load8_noabort",
            "kasan_report.part.0",
            "_raw_spin_lock",
            "__mutex_lock",
        ] {
            assert!(is_helper(Kind::Kasan, helper), "{helper}");
        }
        for culprit in
            ["list_lru_add", "flush_all_cpus_locked", "kfree_skb", "panic_write", "die_rules", "up_store"]
        {
            assert!(!is_helper(Kind::Kasan, culprit), "{culprit}");
        }
        assert!(
            is_helper(Kind::HungTask, "schedule_timeout") && !is_helper(Kind::Warning, "schedule_timeout")
        );
    }
}

//! Finds the function to blame for a report: the first one of a stack that is not a helper of a
//! checker or a lock.
//!
//! `helpers.txt` lists the helpers. A word is the name of a function; with a star it stands for all
//! names that begin with it. [`sections`] names the sections that apply to a kind.

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

/// The sections that apply to a kind, besides `machinery` and `helpers`.
fn sections(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::HungTask | Kind::ScheduleInAtomic | Kind::SleepInAtomic | Kind::WorkqueueLockup => &["waiters"],
        Kind::PageCorruption => &["pages"],
        Kind::DebugObjects => &["objects"],
        Kind::DmaApi => &["dma"],
        Kind::SoftLockup | Kind::HardLockup => &["interrupted"],
        // The task may not be running; then the function that it waits in is a helper, too.
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

/// Whether a function only prints or raises reports, so that it can be left out at the head of a
/// stack.
pub fn is_machinery(function: &str) -> bool {
    SECTIONS.get("machinery").is_some_and(|names| names.has(plain_name(function)))
}

/// The function of a stack that is to blame: the first one that is not a helper. If all reliable
/// frames are helpers, unreliable frames count, as in the dump of a preempted task. If these are
/// helpers, too, the innermost frame is to blame.
pub(super) fn blame(kind: Kind, frames: &[Frame]) -> Option<&str> {
    // `f+0x20/0x20` is not a return address: %pB subtracts one, so it is a pointer to the function
    // after f.
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

/// The lock assertion that printed a WARNING, if one did (include/linux/lockdep.h, kernel/cpu.c).
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

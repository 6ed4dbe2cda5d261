//! The sections of hotplug code whose locks a change affects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layout::Chain;

/// The lock that is held while blocks of memory go online or offline, and while their notifiers run
/// (`mm/memory_hotplug.c`).
const MEMORY_LOCK: &str = "mem_hotplug_lock";

/// The lock that is held while a CPU comes or goes, and while its callbacks run (kernel/cpu.c).
const CPU_LOCK: &str = "cpu_hotplug_lock";

/// Files whose sections are those of memory hotplug.
const MEMORY_FILES: [&str; 4] =
    ["mm/memory_hotplug.c", "drivers/base/memory.c", "drivers/base/node.c", "include/linux/memory_hotplug.h"];

/// Files whose sections are those of CPU hotplug.
const CPU_FILES: [&str; 3] = ["kernel/cpu.c", "include/linux/cpu.h", "include/linux/cpuhplock.h"];

/// Functions that take or release one of the two locks.
const MEMORY_CALLS: [&str; 4] =
    ["mem_hotplug_begin", "mem_hotplug_done", "get_online_mems", "put_online_mems"];
const CPU_CALLS: [&str; 4] =
    ["cpus_write_lock", "cpus_write_unlock", "cpu_hotplug_disable", "cpu_hotplug_enable"];

/// The beginnings of the names of functions that take or release any lock.
const LOCKING: [&str; 14] = [
    "cpus_read_",
    "cpus_write_",
    "get_online_",
    "put_online_",
    "mem_hotplug_",
    "lock_device_hotplug",
    "unlock_device_hotplug",
    "mutex_",
    "percpu_down_",
    "percpu_up_",
    "down_",
    "up_",
    "spin_",
    "raw_spin_",
];

/// The sections whose locks a change affects, each with what shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockingChange {
    /// Memory hotplug: changed lines and dependencies that show it.
    pub memory: Vec<String>,
    /// CPU hotplug.
    pub cpu: Vec<String>,
    /// Why the change itself could not be read; null if it was read.
    pub unread: Option<String>,
}

impl LockingChange {
    /// The sections that a diff changes: its changed lines take or release a lock in a file of
    /// hotplug, or take or release one of the hotplug locks.
    pub fn of_diff(diff: &str) -> Self {
        let mut all = Self::default();
        let (mut file, mut in_hunk) = ("", false);
        for line in diff.lines() {
            if let Some(path) = line.strip_prefix("+++ ") {
                let path = path.split('\t').next().unwrap_or(path);
                file = path.strip_prefix("b/").unwrap_or(path);
            } else if line.starts_with("@@ ") {
                in_hunk = true;
            } else if line.starts_with("diff --git ") || line == "-- " {
                in_hunk = false;
            } else if in_hunk && line.starts_with(['+', '-']) && !line.starts_with("---") {
                for call in calls(code(&line[1..])) {
                    all.add(file, call);
                }
            }
        }
        all
    }

    fn add(&mut self, file: &str, call: &str) {
        let words = format!("{file}: {call}()");
        if MEMORY_FILES.contains(&file) || MEMORY_CALLS.contains(&call) {
            note(&mut self.memory, words.clone());
        }
        if CPU_FILES.contains(&file) || CPU_CALLS.contains(&call) {
            note(&mut self.cpu, words);
        }
    }

    /// Adds the sections whose lock has other neighbours in the lock order: dependencies that only
    /// one of the kernels has.
    pub fn add_dependencies<'a>(&mut self, differing: impl Iterator<Item = (&'a str, &'a str)>) {
        for (from, to) in differing {
            let words = format!("lock order: {from} > {to}");
            let is = |lock: &str| from == lock || to == lock;
            if is(MEMORY_LOCK) {
                note(&mut self.memory, words.clone());
            }
            if is(CPU_LOCK) {
                note(&mut self.cpu, words);
            }
        }
    }

    /// Whether notifiers of this chain run in a section that the change affects.
    pub fn affects(&self, chain: Chain) -> bool {
        chain.is_of_memory() && !self.memory.is_empty()
    }
}

fn note(all: &mut Vec<String>, words: String) {
    if !all.contains(&words) {
        all.push(words);
    }
}

/// A line of C without its comment. A line inside a comment of several lines begins with a star, as
/// the kernel's style has it (Documentation/process/coding-style.rst).
fn code(line: &str) -> &str {
    if line.trim_start().starts_with('*') {
        return "";
    }
    let end = ["/*", "//"].into_iter().filter_map(|comment| line.find(comment)).min();
    &line[..end.unwrap_or(line.len())]
}

/// The calls of locking functions in a line of C.
fn calls(line: &str) -> impl Iterator<Item = &str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices('(').filter_map(move |(at, _)| {
        let before = &line[..at];
        let start = before.rfind(|c| !is_name(c)).map_or(0, |at| at + 1);
        before.get(start..).filter(|name| LOCKING.iter().any(|known| name.starts_with(known)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_patch_changes_the_locks_of_memory_hotplug() {
        let patch = include_str!(
            "../../../guest-images/patches/seed/0001-mm-memory_hotplug-Don-t-take-the-cpu_hotplug_lock.patch"
        );
        let change = LockingChange::of_diff(patch);
        let file = "mm/memory_hotplug.c";
        assert_eq!(
            change.memory,
            [format!("{file}: cpus_read_lock()"), format!("{file}: cpus_read_unlock()")]
        );
        assert!(change.cpu.is_empty());
        assert!(change.affects(Chain::Node) && !change.affects(Chain::Reboot));
    }

    #[test]
    fn a_comment_changes_no_lock() {
        let patch = include_str!("../../../guest-images/patches/clean/comment-only.patch");
        assert_eq!(LockingChange::of_diff(patch), LockingChange::default());
        assert_eq!(code("\tfoo(); /* mutex_lock() */"), "\tfoo(); ");
        assert_eq!(code("\t * until mem_hotplug_done()"), "");
    }

    #[test]
    fn other_changes_do_not() {
        let hunk =
            |file: &str, line: &str| format!("--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n{line}\n-- \n2.0\n");
        let of = |file: &str, line: &str| LockingChange::of_diff(&hunk(file, line));
        assert_eq!(of("mm/memory_hotplug.c", "+\tpr_info(\"mutex_lock\");"), LockingChange::default());
        assert_eq!(of("mm/memory_hotplug.c", " \tmutex_lock(&x);"), LockingChange::default());
        assert_eq!(of("mm/slub.c", "+\tmutex_lock(&slab_mutex);"), LockingChange::default());
        assert_eq!(of("mm/slub.c", "+\tget_online_mems();").memory, ["mm/slub.c: get_online_mems()"]);
        assert_eq!(of("kernel/cpu.c", "-\tmutex_unlock(&m);").cpu, ["kernel/cpu.c: mutex_unlock()"]);
    }
}

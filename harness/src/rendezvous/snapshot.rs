//! Who waits for whom at one moment, and which locks keep two apart.
//!
//! lockdep lists a lock among those that a task holds before the task waits for it (`lock_acquire()` comes first in
//! kernel/locking/mutex.c, rwsem.c, percpu-rwsem.c and in `include/linux/spinlock_api_smp.h`): who waits has it last.

use std::collections::HashMap;

use super::hold::{Task, Waiting};

/// Functions in which a task waits for the lock that it has last in its list.
const LOCKING: [&str; 14] = [
    "__mutex_lock",
    "__mutex_lock_common",
    "mutex_lock_nested",
    "mutex_lock_killable_nested",
    "mutex_lock_interruptible_nested",
    "rwsem_down_read_slowpath",
    "rwsem_down_write_slowpath",
    "down_read",
    "down_write",
    "percpu_rwsem_wait",
    "__percpu_down_read",
    "percpu_down_write",
    "queued_spin_lock_slowpath",
    "native_queued_spin_lock_slowpath",
];

/// Who finds a mutex taken sleeps here and begins anew, so that lockdep sees no wait (drivers/base/core.c).
const TRIES_AGAIN: [(&str, &str); 1] = [("lock_device_hotplug_sysfs", "device_hotplug_lock")];

/// Who has a worker do something on another CPU waits for it, by lockdep's name for what the worker does (kernel/workqueue.c,
/// `work_on_cpu()`): `cpu_down()` has `_cpu_down()` done so.
const HAS_WORK_DONE: [(&str, &str); 2] =
    [("work_on_cpu", "(work_completion)(&wfc.work)"), ("work_on_cpu_key", "(work_completion)(&wfc.work)")];

/// How lockdep calls what it lists like a lock, and what several may have at the same time: what a worker or a timer does
/// (kernel/workqueue.c, `process_one_work()`), the CPU hotplug thread's states (kernel/cpu.c), reclaim (`mm/page_alloc.c`).
const NO_LOCKS: [&str; 3] = ["(", "cpuhp_state", "fs_reclaim"];

/// What every wait has on its stack.
const SLEEPING: [&str; 9] = [
    "context_switch",
    "__schedule",
    "__schedule_loop",
    "schedule",
    "schedule_preempt_disabled",
    "schedule_timeout",
    "schedule_timeout_uninterruptible",
    "preempt_schedule_common",
    "preempt_schedule",
];

/// A lock among those of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldLock {
    /// Its `lockdep_map`, by which two of a class are told apart.
    pub(super) instance: u64,
    /// Its class's number.
    pub(super) class: u64,
    /// Others may have it at the same time.
    pub(super) shared: bool,
}

/// A lock that a task has, or that somebody has who waits for the task's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    instance: u64,
    shared: bool,
    name: String,
}

/// `__START_KERNEL_map` of `arch/x86/include/asm/page_64_types.h`: the kernel's own variables are above it, what it allocates
/// is below, where a file that is closed makes room for the next one's `f_pos_lock`.
const KERNEL_IMAGE: u64 = 0xffff_ffff_8000_0000;

impl Lock {
    /// The first of `one`'s locks that keeps it and whoever has those `other` apart, by lockdep's name. The two lists may be of
    /// different times: only a lock that is there as long as the kernel is surely the same one.
    pub fn of_both(one: &[Self], other: &[Self]) -> Option<String> {
        let keeps = |mine: &&Self| {
            let is_none =
                mine.instance < KERNEL_IMAGE || NO_LOCKS.iter().any(|name| mine.name.starts_with(name));
            let theirs = other.iter().find(|theirs| theirs.instance == mine.instance);
            !is_none && theirs.is_some_and(|theirs| !(mine.shared && theirs.shared))
        };
        one.iter().find(keeps).map(|lock| lock.name.clone())
    }
}

/// A task that holds locks, or waits for one.
#[derive(Debug, Clone)]
pub(super) struct Thread {
    /// Its `task_struct`.
    pub address: u64,
    /// Who it is.
    pub task: Task,
    /// It runs, or wants to.
    pub(super) runs: bool,
    /// It sleeps, and no signal wakes it.
    pub(super) is_stuck: bool,
    pub(super) locks: Vec<HeldLock>,
    /// Where it sleeps, innermost first.
    pub(super) frames: Vec<String>,
}

impl Thread {
    fn is_in(&self, function: &str) -> bool {
        self.frames.iter().any(|frame| frame == function)
    }

    fn told(&self, lock: Option<String>) -> Waiting {
        let frames = self.frames.iter().filter(|name| !SLEEPING.contains(&name.as_str())).take(8);
        let mut frames: Vec<String> = frames.cloned().collect();
        // Two calls of one function with another compiled into it.
        frames.dedup();
        Waiting { task: self.task.clone(), lock, frames }
    }

    /// It sleeps in a function that waits for a lock.
    fn is_locking(&self) -> bool {
        LOCKING.iter().any(|function| self.is_in(function))
    }

    /// It waits for no lock, and for whom it has sent.
    fn has_work_done(&self) -> bool {
        HAS_WORK_DONE.iter().any(|(function, _)| self.is_in(function))
    }
}

/// All tasks with locks at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(super) threads: Vec<Thread>,
    /// lockdep's names for the classes that were met.
    pub(super) names: HashMap<u64, String>,
}

impl Snapshot {
    /// Who waits, directly or behind others who do, for a lock of the task at `held`.
    pub fn behind(&self, held: u64) -> Vec<(u64, Waiting)> {
        let waits: HashMap<u64, (u64, u64)> = self
            .threads
            .iter()
            .filter_map(|thread| Some((thread.address, self.waits(thread, held)?)))
            .collect();
        let reaches = |start: u64| {
            let mut at = start;
            for _ in 0..=waits.len() {
                match waits.get(&at) {
                    Some((_, owner)) if *owner == held => return true,
                    Some((_, owner)) => at = *owner,
                    None => return false,
                }
            }
            false
        };
        let behind = self.threads.iter().filter(|thread| thread.address != held && reaches(thread.address));
        let told = behind.filter(|thread| !thread.has_work_done()).filter_map(|thread| {
            let (class, _) = waits.get(&thread.address)?;
            let lock = self.names.get(class).cloned().unwrap_or_default();
            Some((thread.address, thread.told(Some(lock))))
        });
        told.collect()
    }

    /// All locks of a task, and before them those of the one that waits for its work.
    pub fn locks(&self, task: u64) -> Vec<Lock> {
        let of = |who: u64| self.threads.iter().filter(move |thread| thread.address == who);
        let all = self.sender(task).into_iter().chain([task]).flat_map(of).flat_map(|thread| &thread.locks);
        let named = all.map(|lock| Lock {
            instance: lock.instance,
            shared: lock.shared,
            name: self.names.get(&lock.class).cloned().unwrap_or_default(),
        });
        named.collect()
    }

    /// For whom a worker does something, who waits for it.
    pub fn sender(&self, worker: u64) -> Option<u64> {
        let worker = self.threads.iter().find(|thread| thread.address == worker)?;
        let does = |name: &str| {
            worker.locks.iter().any(|lock| self.names.get(&lock.class).is_some_and(|n| n == name))
        };
        let sent = |thread: &&Thread| {
            thread.address != worker.address
                && HAS_WORK_DONE.iter().any(|(function, work)| thread.is_in(function) && does(work))
        };
        self.threads.iter().find(sent).map(|thread| thread.address)
    }

    /// Who sleeps with locks of its own and is not `behind` somebody: for grace periods, for work on other CPUs, for the time to pass.
    pub fn stuck(&self, behind: &[(u64, Waiting)]) -> Vec<Waiting> {
        let is_behind = |who: u64| behind.iter().any(|(address, _)| *address == who);
        let stuck = self.threads.iter().filter(|thread| thread.is_stuck && !is_behind(thread.address));
        stuck.map(|thread| thread.told(None)).collect()
    }

    /// For a lock of which class a task waits, and who has it. `held` is known to run, and so to have all of its own.
    fn waits(&self, thread: &Thread, held: u64) -> Option<(u64, u64)> {
        if thread.address == held {
            return None;
        }
        let by_name = TRIES_AGAIN.iter().chain(&HAS_WORK_DONE).find(|(function, _)| thread.is_in(function));
        if let Some((_, lock)) = by_name {
            let class = self.names.iter().find(|(_, name)| name == lock).map(|(class, _)| *class)?;
            let mut others = self.threads.iter().filter(|other| other.address != thread.address);
            let owner = others.find(|other| other.locks.iter().any(|lock| lock.class == class))?;
            return Some((class, owner.address));
        }
        if !thread.runs && !thread.is_locking() {
            return None;
        }
        let last = thread.locks.last()?;
        let has = |other: &&Thread| {
            let place = other.locks.iter().position(|lock| lock.instance == last.instance);
            place.is_some_and(|place| {
                // Two readers are not in each other's way, unless a writer came between them: the second then sleeps.
                let both = last.shared && other.locks[place].shared && thread.runs;
                // Who has it last may wait for it just so, unless it is known to do something else.
                let elsewhere = !other.runs && !other.is_locking();
                !both && (other.address == held || place + 1 < other.locks.len() || elsewhere)
            })
        };
        let mut owners = self.threads.iter().filter(|other| other.address != thread.address).filter(has);
        let owner = owners.clone().find(|other| other.address == held).or_else(|| owners.next())?;
        Some((last.class, owner.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Locks below 900 are the kernel's own variables, others are allocated.
    fn thread(address: u64, runs: bool, locks: &[(u64, u64)], frames: &[&str]) -> Thread {
        Thread {
            address,
            task: Task { comm: format!("t{address}"), pid: u32::try_from(address).unwrap() },
            runs,
            is_stuck: !runs,
            locks: locks
                .iter()
                .map(|(number, class)| HeldLock {
                    instance: if *number < 900 { KERNEL_IMAGE + number } else { *number },
                    class: *class,
                    shared: *class == 6,
                })
                .collect(),
            frames: frames.iter().map(|frame| (*frame).to_owned()).collect(),
        }
    }

    fn snapshot(threads: Vec<Thread>) -> Snapshot {
        let names = [(1, "device_hotplug_lock"), (2, "cpu_hotplug_lock"), (3, "mem_hotplug_lock")];
        Snapshot { threads, names: names.into_iter().map(|(class, name)| (class, name.to_owned())).collect() }
    }

    fn behind(snapshot: &Snapshot, held: u64) -> Vec<(u64, String)> {
        snapshot
            .behind(held)
            .into_iter()
            .map(|(address, waiting)| (address, waiting.lock.unwrap_or_default()))
            .collect()
    }

    #[test]
    fn who_waits_for_the_held_task_is_found_also_behind_another() {
        let all = snapshot(vec![
            thread(10, true, &[(100, 1), (200, 2)], &[]),
            thread(
                11,
                false,
                &[(300, 3), (200, 2)],
                &["schedule", "percpu_rwsem_wait", "__percpu_down_read"],
            ),
            thread(12, false, &[(300, 3)], &["schedule", "rwsem_down_write_slowpath"]),
            // It sleeps with a lock, and not for one.
            thread(13, false, &[(200, 2)], &["schedule", "do_wait"]),
            // Another lock of the same class.
            thread(14, false, &[(201, 2)], &["schedule", "rwsem_down_write_slowpath"]),
        ]);
        let wanted = vec![(11, "cpu_hotplug_lock".to_owned()), (12, "mem_hotplug_lock".to_owned())];
        assert_eq!(behind(&all, 10), wanted);
        assert_eq!(behind(&all, 14), Vec::new());
    }

    #[test]
    fn who_tries_again_waits_too() {
        let frames = ["schedule_timeout", "msleep", "lock_device_hotplug_sysfs", "online_store"];
        let all = snapshot(vec![thread(10, true, &[(100, 1)], &[]), thread(11, false, &[(400, 4)], &frames)]);
        assert_eq!(behind(&all, 10), [(11, "device_hotplug_lock".to_owned())]);
        // Of nobody who has it.
        let all = snapshot(vec![thread(10, true, &[(200, 2)], &[]), thread(11, false, &[(400, 4)], &frames)]);
        assert_eq!(behind(&all, 10), Vec::new());
    }

    #[test]
    fn who_waits_for_somebody_with_a_worker_waits_for_the_worker() {
        let mut all = snapshot(vec![
            thread(10, true, &[(700, 7)], &[]),
            thread(
                11,
                false,
                &[(100, 1)],
                &["wait_for_completion", "__flush_work", "work_on_cpu", "cpu_down"],
            ),
            thread(12, false, &[(100, 1)], &["schedule", "__mutex_lock"]),
        ]);
        all.names.insert(7, "(work_completion)(&wfc.work)".into());
        assert_eq!((all.sender(10), all.sender(11), all.sender(99)), (Some(11), None, None));
        // The one that sent it does not count: it would wait whoever else there is.
        assert_eq!(behind(&all, 10), [(12, "device_hotplug_lock".to_owned())]);
    }

    #[test]
    fn what_two_have_that_one_at_a_time_may_have_keeps_them_apart() {
        let sent = ["wait_for_completion", "__flush_work", "work_on_cpu", "cpu_down"];
        let mut all = snapshot(vec![
            thread(10, true, &[(901, 8), (700, 7), (600, 6)], &[]),
            thread(11, false, &[(100, 1)], &sent),
            thread(12, true, &[(901, 8), (600, 6), (700, 7), (100, 1)], &[]),
            thread(13, true, &[(600, 6), (101, 1)], &[]),
        ]);
        all.names.insert(7, "(work_completion)(&wfc.work)".into());
        let both = |one: u64, other: u64| Lock::of_both(&all.locks(one), &all.locks(other));
        // By the one that sent the worker; what a worker does is no lock, two may read, and what is allocated where another was
        // before is not the same.
        assert_eq!(both(10, 12).as_deref(), Some("device_hotplug_lock"));
        assert_eq!(both(12, 10).as_deref(), Some("device_hotplug_lock"));
        // Others of the same class.
        assert_eq!((both(10, 13), both(12, 13), both(12, 99)), (None, None, None));
    }

    #[test]
    fn a_spinning_task_waits_for_what_it_has_last() {
        let all = snapshot(vec![thread(10, true, &[(500, 5)], &[]), thread(11, true, &[(500, 5)], &[])]);
        assert_eq!(behind(&all, 10).len(), 1);
        // Not where both read.
        let all = snapshot(vec![thread(10, true, &[(600, 6)], &[]), thread(11, true, &[(600, 6)], &[])]);
        assert_eq!(behind(&all, 10).len(), 0);
    }
}

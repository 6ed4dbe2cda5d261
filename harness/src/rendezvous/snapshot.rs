//! The waits between tasks at one moment, and the locks that keep two tasks apart.
//!
//! lockdep adds a lock to the list of a task's held locks before the task waits for the lock
//! (`lock_acquire()` comes first in kernel/locking/mutex.c, rwsem.c, percpu-rwsem.c and in
//! `include/linux/spinlock_api_smp.h`). So a task that waits for a lock has it last in its list.

use std::collections::HashMap;

use super::hold::{Task, Waiting};

/// Functions in which a task waits for the last lock of its list.
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

/// Functions that try to take a mutex, and if it is taken sleep and try again, so lockdep records
/// no wait (drivers/base/core.c). The second value is lockdep's name for the mutex.
const TRIES_AGAIN: [(&str, &str); 1] = [("lock_device_hotplug_sysfs", "device_hotplug_lock")];

/// Functions in which a task waits for a worker that runs a function on another CPU for it. The
/// second value is lockdep's name for that work (kernel/workqueue.c, `work_on_cpu()`). `cpu_down()`
/// has `_cpu_down()` run in this way.
const HAS_WORK_DONE: [(&str, &str); 2] =
    [("work_on_cpu", "(work_completion)(&wfc.work)"), ("work_on_cpu_key", "(work_completion)(&wfc.work)")];

/// The beginnings of lockdep's names for entries that are listed like locks, but that several tasks
/// may have at the same time: the work of a worker or a timer (kernel/workqueue.c,
/// `process_one_work()`), the states of the CPU hotplug thread (kernel/cpu.c), and reclaim
/// (`mm/page_alloc.c`).
const NO_LOCKS: [&str; 3] = ["(", "cpuhp_state", "fs_reclaim"];

/// Functions that every wait has on its stack.
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

/// A lock in a task's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldLock {
    /// The address of its `lockdep_map`, which distinguishes two locks of one class.
    pub(super) instance: u64,
    /// The number of its class.
    pub(super) class: u64,
    /// Whether other tasks may have it at the same time.
    pub(super) shared: bool,
}

/// A lock that a task has, or that the task that waits for its work has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLock {
    instance: u64,
    shared: bool,
    name: String,
}

/// `__START_KERNEL_map` of `arch/x86/include/asm/page_64_types.h`. The kernel's own variables are
/// above it, and allocated memory is below it. Allocated memory is reused: after a file is closed,
/// the next file's `f_pos_lock` can have the same address.
const KERNEL_IMAGE: u64 = 0xffff_ffff_8000_0000;

impl TaskLock {
    /// The first lock of `one` that keeps this task and the task with the locks `other` apart, by
    /// lockdep's name. The two lists may be from different times. So only a lock that exists as
    /// long as the kernel counts, because another one may be a different lock by then.
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
    /// The address of its `task_struct`.
    pub address: u64,
    /// The task.
    pub task: Task,
    /// Whether it runs or is runnable.
    pub(super) runs: bool,
    /// Whether it sleeps uninterruptibly.
    pub(super) is_stuck: bool,
    pub(super) locks: Vec<HeldLock>,
    /// The functions on its stack if it sleeps, innermost first.
    pub(super) frames: Vec<String>,
}

impl Thread {
    fn is_in(&self, function: &str) -> bool {
        self.frames.iter().any(|frame| frame == function)
    }

    fn told(&self, lock: Option<String>) -> Waiting {
        let frames = self.frames.iter().filter(|name| !SLEEPING.contains(&name.as_str())).take(8);
        let mut frames: Vec<String> = frames.cloned().collect();
        // Removes repeated names, as from two calls of one function with another one inlined into
        // it.
        frames.dedup();
        Waiting { task: self.task.clone(), lock, frames }
    }

    /// Whether it sleeps in a function that waits for a lock.
    fn is_locking(&self) -> bool {
        LOCKING.iter().any(|function| self.is_in(function))
    }

    /// Whether it waits for a worker, and so for no lock.
    fn has_work_done(&self) -> bool {
        HAS_WORK_DONE.iter().any(|(function, _)| self.is_in(function))
    }
}

/// All tasks that have locks at one moment.
#[derive(Debug, Clone, Default)]
pub struct LockSnapshot {
    pub(super) threads: Vec<Thread>,
    /// lockdep's names for the classes of these locks.
    pub(super) names: HashMap<u64, String>,
}

impl LockSnapshot {
    /// The tasks that wait for a lock of the task at `held`, directly or behind other waiters.
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

    /// All locks of a task. If it is a worker whose work another task waits for, they follow the
    /// locks of that task.
    pub fn locks(&self, task: u64) -> Vec<TaskLock> {
        let of = |who: u64| self.threads.iter().filter(move |thread| thread.address == who);
        let all = self.sender(task).into_iter().chain([task]).flat_map(of).flat_map(|thread| &thread.locks);
        let named = all.map(|lock| TaskLock {
            instance: lock.instance,
            shared: lock.shared,
            name: self.names.get(&lock.class).cloned().unwrap_or_default(),
        });
        named.collect()
    }

    /// The task that waits for the work of a worker.
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

    /// The tasks that sleep with locks of their own and do not wait `behind` the held task, but for
    /// grace periods, for work on other CPUs, or for a time to pass.
    pub fn stuck(&self, behind: &[(u64, Waiting)]) -> Vec<Waiting> {
        let is_behind = |who: u64| behind.iter().any(|(address, _)| *address == who);
        let stuck = self.threads.iter().filter(|thread| thread.is_stuck && !is_behind(thread.address));
        stuck.map(|thread| thread.told(None)).collect()
    }

    /// The class of the lock that a task waits for, and the task that has the lock. `held` is known
    /// to run, and so has all locks of its list.
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
                // Two readers do not exclude each other, unless a writer came between them. In that
                // case the second one sleeps.
                let both = last.shared && other.locks[place].shared && thread.runs;
                // A task that has this lock last may itself wait for it, unless it is known to do
                // something else.
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

    /// Locks below 900 are variables of the kernel, and others are allocated.
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

    fn snapshot(threads: Vec<Thread>) -> LockSnapshot {
        let names = [(1, "device_hotplug_lock"), (2, "cpu_hotplug_lock"), (3, "mem_hotplug_lock")];
        LockSnapshot {
            threads,
            names: names.into_iter().map(|(class, name)| (class, name.to_owned())).collect(),
        }
    }

    fn behind(snapshot: &LockSnapshot, held: u64) -> Vec<(u64, String)> {
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
            // This task sleeps with a lock, but does not wait for one.
            thread(13, false, &[(200, 2)], &["schedule", "do_wait"]),
            // This task has another lock of the same class.
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
        // No task has the mutex.
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
        // The task that queued the work does not count: it would wait whether or not another task
        // is held.
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
        let both = |one: u64, other: u64| TaskLock::of_both(&all.locks(one), &all.locks(other));
        // The lock of the task that queued the work counts. The worker's work is not a lock, two
        // readers share a lock, and an allocated lock at the same address is not the same lock.
        assert_eq!(both(10, 12).as_deref(), Some("device_hotplug_lock"));
        assert_eq!(both(12, 10).as_deref(), Some("device_hotplug_lock"));
        // These have other locks of the same class.
        assert_eq!((both(10, 13), both(12, 13), both(12, 99)), (None, None, None));
    }

    #[test]
    fn a_spinning_task_waits_for_what_it_has_last() {
        let all = snapshot(vec![thread(10, true, &[(500, 5)], &[]), thread(11, true, &[(500, 5)], &[])]);
        assert_eq!(behind(&all, 10).len(), 1);
        // Two readers do not wait.
        let all = snapshot(vec![thread(10, true, &[(600, 6)], &[]), thread(11, true, &[(600, 6)], &[])]);
        assert_eq!(behind(&all, 10).len(), 0);
    }
}

//! Who is there in a guest, which locks they hold, and for which they wait: read from its memory while it stands still.
//!
//! lockdep lists a lock among those that a task holds before the task waits for it (`lock_acquire()` comes first in
//! kernel/locking/mutex.c, rwsem.c, percpu-rwsem.c and in `include/linux/spinlock_api_smp.h`): who waits has it last.

use std::collections::{HashMap, HashSet};

use object::{Object, ObjectSymbol};

use super::hold::{Task, Waiting};
use super::places::Places;
use crate::gdb::{Gdb, GdbError, Registers, Vcpu, little};
use crate::vmlinux::structures;

/// `MAX_LOCK_DEPTH` of include/linux/sched.h.
const DEEPEST: u32 = 48;

/// Tasks that are looked at; a guest has a hundred.
const MOST: usize = 4096;

/// Frames of a task that waits.
const FRAMES: usize = 16;

/// `inactive_task_frame` of `arch/x86/include/asm/switch_to.h`: where `bp` is in what a sleeping task's `thread.sp` points to,
/// behind r15, r14, r13, r12 and bx; the return address follows.
const FRAME_BP: u64 = 40;

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

/// Functions in which a CPU spins for another CPU.
const SPINNING: [&str; 10] = [
    "csd_lock_wait",
    "__csd_lock_wait",
    "smp_call_function_many_cond",
    "smp_call_function_single",
    "queued_spin_lock_slowpath",
    "native_queued_spin_lock_slowpath",
    "multi_cpu_stop",
    "rep_nop",
    "cpu_relax",
    "stop_machine_yield",
];

/// Functions of a CPU that has nothing to do.
const IDLE: [&str; 7] = [
    "default_idle",
    "native_safe_halt",
    "pv_native_safe_halt",
    "arch_safe_halt",
    "native_halt",
    "halt",
    "default_idle_call",
];

/// Where a kernel keeps what is read here, bytes (`struct task_struct`, `struct held_lock`, `struct lock_class`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    init_task: u64,
    /// Among a CPU's own variables.
    current: u64,
    tasks: u64,
    thread_node: u64,
    thread_head: u64,
    signal: u64,
    pid: u64,
    comm: u64,
    state: u64,
    /// Its stack pointer, while it sleeps.
    sp: u64,
    depth: u64,
    held: u64,
    held_bytes: u64,
    held_class: u64,
    held_instance: u64,
    classes: u64,
    class_bytes: u64,
    class_name: u64,
}

impl Members {
    /// Reads them from a vmlinux; an error says what it has not.
    pub(super) fn of(file: &object::File<'_>) -> Result<Self, String> {
        let wanted = ["init_task", "current_task", "pcpu_hot", "lock_classes"];
        let symbols: HashMap<&str, u64> = file
            .symbols()
            .filter_map(|symbol| {
                Some((symbol.name().ok().filter(|name| wanted.contains(name))?, symbol.address()))
            })
            .collect();
        let symbol = |name: &str| symbols.get(name).copied().ok_or_else(|| format!("no symbol {name}"));
        let structures = structures(file).map_err(|error| error.to_string())?;
        let structure =
            |name: &str| structures.get(name).ok_or_else(|| format!("no struct {name}, which lockdep has"));
        let member = |of: &str, name: &str| {
            structure(of)?.members.get(name).copied().ok_or_else(|| format!("no {of}.{name}"))
        };
        // Between 6.2 and 6.14 it is the first of `struct pcpu_hot` (arch/x86/include/asm/current.h).
        let current = symbol("current_task").or_else(|_| symbol("pcpu_hot"))?;
        Ok(Self {
            init_task: symbol("init_task")?,
            current,
            tasks: member("task_struct", "tasks")?,
            thread_node: member("task_struct", "thread_node")?,
            thread_head: member("signal_struct", "thread_head")?,
            signal: member("task_struct", "signal")?,
            pid: member("task_struct", "pid")?,
            comm: member("task_struct", "comm")?,
            state: member("task_struct", "__state")?,
            sp: member("task_struct", "thread")? + member("thread_struct", "sp")?,
            depth: member("task_struct", "lockdep_depth")?,
            held: member("task_struct", "held_locks")?,
            held_bytes: structure("held_lock")?.bytes,
            held_class: member("held_lock", "class_idx")?,
            held_instance: member("held_lock", "instance")?,
            classes: symbol("lock_classes")?,
            class_bytes: structure("lock_class")?.bytes,
            class_name: member("lock_class", "name")?,
        })
    }
}

/// A lock among those of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lock {
    /// Its `lockdep_map`, by which two of a class are told apart.
    instance: u64,
    /// Its class's number.
    class: u64,
    /// Others may have it at the same time.
    shared: bool,
}

/// A task that holds locks, or waits for one.
#[derive(Debug, Clone)]
pub struct Thread {
    /// Its `task_struct`.
    pub address: u64,
    /// Who it is.
    pub task: Task,
    /// It runs, or wants to.
    runs: bool,
    /// It sleeps, and no signal wakes it.
    is_stuck: bool,
    locks: Vec<Lock>,
    /// Where it sleeps, innermost first.
    frames: Vec<String>,
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
    threads: Vec<Thread>,
    /// lockdep's names for the classes that were met.
    names: HashMap<u64, String>,
}

/// Reads a guest's tasks.
#[derive(Debug)]
pub struct Tasks<'a> {
    members: &'a Members,
    places: &'a Places,
    names: HashMap<u64, String>,
}

impl<'a> Tasks<'a> {
    /// Of a kernel; none where its image does not tell.
    pub fn of(places: &'a Places) -> Option<Self> {
        Some(Self { members: places.members.as_ref().ok()?, places, names: HashMap::new() })
    }

    /// The task that a vCPU runs.
    pub async fn current(&self, gdb: &mut Gdb, at: Registers) -> Result<Option<(u64, Task)>, GdbError> {
        let Some(address) = gdb.word(at.gs_base.wrapping_add(self.members.current)).await? else {
            return Ok(None);
        };
        Ok(self.task(gdb, address).await?.map(|task| (address, task)))
    }

    async fn task(&self, gdb: &mut Gdb, address: u64) -> Result<Option<Task>, GdbError> {
        let pid = gdb.read(address.wrapping_add(self.members.pid), 4).await?;
        let comm = gdb.read(address.wrapping_add(self.members.comm), 16).await?;
        let (Some(pid), Some(comm)) = (pid, comm) else { return Ok(None) };
        let pid = little(&pid);
        Ok(Some(Task { comm: text(&comm), pid: u32::try_from(pid).unwrap_or(u32::MAX) }))
    }

    /// All tasks that hold locks or sleep where somebody tries again, while the guest stands still. Its memory may be any:
    /// lists without an end are left.
    pub async fn all(&mut self, gdb: &mut Gdb) -> Result<Snapshot, GdbError> {
        let Members { init_task, tasks, thread_node, thread_head, signal, .. } = *self.members;
        let mut threads = Vec::new();
        let mut seen = HashSet::new();
        let mut leader = init_task;
        loop {
            let head =
                gdb.word(leader.wrapping_add(signal)).await?.map(|signal| signal.wrapping_add(thread_head));
            let mut node = match head {
                Some(head) => gdb.word(head).await?,
                None => None,
            };
            while let Some(at) = node.filter(|at| Some(*at) != head) {
                let address = at.wrapping_sub(thread_node);
                if !seen.insert(address) || seen.len() > MOST {
                    break;
                }
                threads.extend(self.thread(gdb, address).await?);
                node = gdb.word(at).await?;
            }
            let next = gdb.word(leader.wrapping_add(tasks)).await?.map(|next| next.wrapping_sub(tasks));
            match next {
                Some(next) if next != init_task && seen.len() <= MOST => leader = next,
                _ => break,
            }
        }
        Ok(Snapshot { threads, names: self.names.clone() })
    }

    async fn thread(&mut self, gdb: &mut Gdb, address: u64) -> Result<Option<Thread>, GdbError> {
        let m = self.members;
        let depth = gdb.read(address.wrapping_add(m.depth), 4).await?.map_or(0, |depth| little(&depth));
        let state = gdb.read(address.wrapping_add(m.state), 4).await?.map_or(0, |state| little(&state));
        let depth = u32::try_from(depth).unwrap_or(0).min(DEEPEST);
        // Who begins anew, in `restart_syscall()`'s way, holds what the file's open and write hold.
        if depth == 0 {
            return Ok(None);
        }
        let Some(task) = self.task(gdb, address).await? else { return Ok(None) };
        let held = gdb.read(address.wrapping_add(m.held), m.held_bytes * u64::from(depth)).await?;
        let mut locks = Vec::new();
        for one in held.unwrap_or_default().chunks_exact(usize::try_from(m.held_bytes).unwrap_or(1).max(1)) {
            // `class_idx` has 13 bits (`MAX_LOCKDEP_KEYS_BITS`), then come `irq_context` 2, `trylock` 1, `read` 2.
            let word = field(one, m.held_class, 4);
            let class = word & 0x1fff;
            locks.push(Lock { instance: field(one, m.held_instance, 8), class, shared: word >> 16 & 3 != 0 });
            self.name(gdb, class).await?;
        }
        // `TASK_UNINTERRUPTIBLE` of include/linux/sched.h; kthreads that idle have `TASK_NOLOAD` (0x400) beside it.
        let (runs, is_stuck) = (state == 0, state & 0x402 == 2);
        let frames = if runs { Vec::new() } else { self.frames(gdb, address).await? };
        Ok(Some(Thread { address, task, runs, is_stuck, locks, frames }))
    }

    async fn name(&mut self, gdb: &mut Gdb, class: u64) -> Result<(), GdbError> {
        if self.names.contains_key(&class) {
            return Ok(());
        }
        let m = self.members;
        let at = m.classes.wrapping_add(class * m.class_bytes).wrapping_add(m.class_name);
        let name = match gdb.word(at).await? {
            // As lock-order.json has it: the guest's own text, which may be any.
            Some(name) => gdb.read(name, 64).await?.map(|bytes| text(&bytes)),
            None => None,
        };
        // As people write it: `&dev->mutex`, and `mem_hotplug_lock` for `mem_hotplug_lock.rw_sem`.
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("class {class}"));
        self.names.insert(class, name);
        Ok(())
    }

    /// Where a sleeping task sleeps, by its frame pointers.
    async fn frames(&self, gdb: &mut Gdb, address: u64) -> Result<Vec<String>, GdbError> {
        let mut all = Vec::new();
        let Some(sp) = gdb.word(address.wrapping_add(self.members.sp)).await? else { return Ok(all) };
        let mut at = sp.wrapping_add(FRAME_BP);
        for _ in 0..FRAMES {
            let Some(frame) = gdb.read(at, 16).await? else { break };
            let (next, back) = (little(&frame[..8]), little(&frame[8..]));
            // Behind the call.
            let names = self.places.functions_at(back.wrapping_sub(1));
            if names.is_empty() {
                break;
            }
            all.extend(names);
            if next <= at {
                break;
            }
            at = next;
        }
        Ok(all)
    }

    /// Whether a CPU that is not held spins for another one; none where it does something.
    pub async fn spins(&self, gdb: &mut Gdb, vcpu: Vcpu) -> Result<Option<bool>, GdbError> {
        let at = gdb.registers(vcpu).await?;
        let names = self.places.functions_at(at.rip);
        let is = |list: &[&str]| names.iter().any(|name| list.contains(&name.as_str()));
        Ok(if is(&SPINNING) {
            Some(true)
        } else if is(&IDLE) {
            Some(false)
        } else {
            None
        })
    }
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

fn field(bytes: &[u8], at: u64, length: usize) -> u64 {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    bytes.get(at..at.saturating_add(length)).map_or(0, little)
}

/// Up to its zero, what cannot be printed left out.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes[..end]
        .iter()
        .filter(|byte| byte.is_ascii_graphic() || **byte == b' ')
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(address: u64, runs: bool, locks: &[(u64, u64)], frames: &[&str]) -> Thread {
        Thread {
            address,
            task: Task { comm: format!("t{address}"), pid: u32::try_from(address).unwrap() },
            runs,
            is_stuck: !runs,
            locks: locks
                .iter()
                .map(|(instance, class)| Lock { instance: *instance, class: *class, shared: *class == 6 })
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
    fn a_spinning_task_waits_for_what_it_has_last() {
        let all = snapshot(vec![thread(10, true, &[(500, 5)], &[]), thread(11, true, &[(500, 5)], &[])]);
        assert_eq!(behind(&all, 10).len(), 1);
        // Not where both read.
        let all = snapshot(vec![thread(10, true, &[(600, 6)], &[]), thread(11, true, &[(600, 6)], &[])]);
        assert_eq!(behind(&all, 10).len(), 0);
    }

    #[test]
    fn a_guests_text_is_only_text() {
        assert_eq!(text(b"kworker/u8:1\0\x1b[31m"), "kworker/u8:1");
        assert_eq!(text(b"\x1b[2Jx y\n"), "[2Jx y");
        assert_eq!((little(&[1, 2]), field(&[0, 0, 7], 2, 1), field(&[0], 2, 1)), (0x201, 7, 0));
    }
}

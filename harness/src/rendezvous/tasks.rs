//! Reads the tasks of a guest, the locks that they have, and the functions in which they sleep,
//! from the guest's memory while the guest is stopped.

use std::collections::{HashMap, HashSet};

use hotplug_vmlinux::{LOCKDEP, structures};
use object::{Object, ObjectSymbol};

use super::hold::Task;
use super::places::Places;
use super::snapshot::{HeldLock, LockSnapshot, Thread};
use crate::vmm::gdb::{Gdb, GdbError, Registers, Vcpu, little};

/// `MAX_LOCK_DEPTH` of include/linux/sched.h.
const DEEPEST: u32 = 48;

/// The most tasks that are read. A guest has a hundred.
const MOST: usize = 4096;

/// `TASK_COMM_LEN`.
const COMM: usize = 16;

/// The most frames read of a waiting task's stack.
const FRAMES: usize = 16;

/// The offset of `bp` in `inactive_task_frame` (`arch/x86/include/asm/switch_to.h`), in bytes. The
/// `thread.sp` of a sleeping task points to this structure. r15, r14, r13, r12 and bx come before
/// `bp`, and the return address follows it.
const FRAME_BP: u64 = 40;

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

/// Functions in which a CPU idles.
const IDLE: [&str; 7] = [
    "default_idle",
    "native_safe_halt",
    "pv_native_safe_halt",
    "arch_safe_halt",
    "native_halt",
    "halt",
    "default_idle_call",
];

/// The symbols, offsets and sizes of what is read here, in bytes (`struct task_struct`,
/// `struct held_lock`, `struct lock_class`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    init_task: u64,
    /// The offset of the current task's pointer in the per-CPU area.
    current: u64,
    tasks: u64,
    thread_node: u64,
    thread_head: u64,
    signal: u64,
    pid: u64,
    comm: u64,
    state: u64,
    /// The stack pointer of a task that sleeps.
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
    /// Reads them from a vmlinux. The error names the symbol, structure or member that it lacks.
    pub(super) fn of(file: &object::File<'_>) -> Result<Self, String> {
        let wanted = ["init_task", "current_task", "pcpu_hot", "lock_classes"];
        let symbols: HashMap<&str, u64> = file
            .symbols()
            .filter_map(|symbol| {
                Some((symbol.name().ok().filter(|name| wanted.contains(name))?, symbol.address()))
            })
            .collect();
        let symbol = |name: &str| symbols.get(name).copied().ok_or_else(|| format!("no symbol {name}"));
        let structures = structures(file, LOCKDEP).map_err(|error| error.to_string())?;
        let structure =
            |name: &str| structures.get(name).ok_or_else(|| format!("no struct {name}, which lockdep needs"));
        let member = |of: &str, name: &str| {
            structure(of)?.members.get(name).copied().ok_or_else(|| format!("no {of}.{name}"))
        };
        // From 6.2 to 6.14, this is the first member of `struct pcpu_hot`
        // (arch/x86/include/asm/current.h).
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

impl Members {
    /// The part of `task_struct` that holds every member that is read for each task: its offset and
    /// its length.
    fn span(&self) -> (u64, u64) {
        let words = [self.tasks, self.thread_node, self.signal, self.pid, self.state, self.depth];
        let start = words.into_iter().fold(self.comm, u64::min);
        let end = words.into_iter().map(|at| at + 8).fold(self.comm + COMM as u64, u64::max);
        (start, end - start)
    }
}

/// A part of a `task_struct`.
struct Block {
    /// Its offset in `struct task_struct`.
    start: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn word(&self, at: u64) -> u64 {
        field(&self.bytes, at - self.start, 8)
    }

    fn half(&self, at: u64) -> u64 {
        field(&self.bytes, at - self.start, 4)
    }

    fn task(&self, members: &Members) -> Task {
        let at = usize::try_from(members.comm - self.start).unwrap_or(usize::MAX);
        let comm = self.bytes.get(at..).unwrap_or_default();
        let comm = text(&comm[..comm.len().min(COMM)]);
        Task { comm, pid: u32::try_from(self.half(members.pid)).unwrap_or(u32::MAX) }
    }
}

/// Reads a guest's tasks.
#[derive(Debug)]
pub struct Tasks<'a> {
    members: &'a Members,
    places: &'a Places,
    names: HashMap<u64, String>,
}

impl<'a> Tasks<'a> {
    /// The reader for a kernel. `None` if the layout is not known from its image.
    pub fn of(places: &'a Places) -> Option<Self> {
        Some(Self { members: places.members.as_ref().ok()?, places, names: HashMap::new() })
    }

    /// The task that a vCPU runs, with the address of its `task_struct`.
    pub async fn current(&self, gdb: &mut Gdb, at: Registers) -> Result<Option<(u64, Task)>, GdbError> {
        let Some(address) = gdb.word(at.per_cpu.wrapping_add(self.members.current)).await? else {
            return Ok(None);
        };
        Ok(self.task(gdb, address).await?.map(|task| (address, task)))
    }

    /// Reads the members that are read for each task, in one request: each request to the stub
    /// costs more than the bytes that it reads.
    async fn block(&self, gdb: &mut Gdb, address: u64) -> Result<Option<Block>, GdbError> {
        let (start, bytes) = self.members.span();
        let read = gdb.read(address.wrapping_add(start), bytes).await?;
        Ok(read.map(|bytes| Block { start, bytes }))
    }

    async fn task(&self, gdb: &mut Gdb, address: u64) -> Result<Option<Task>, GdbError> {
        Ok(self.block(gdb, address).await?.map(|block| block.task(self.members)))
    }

    /// All tasks that hold locks, while the guest is stopped. The guest's memory may have any
    /// content, so lists without an end are abandoned.
    pub async fn all(&mut self, gdb: &mut Gdb) -> Result<LockSnapshot, GdbError> {
        let Members { init_task, tasks, thread_node, thread_head, signal, .. } = *self.members;
        let mut threads = Vec::new();
        let mut seen = HashSet::new();
        let mut leader = init_task;
        while let Some(first) = self.block(gdb, leader).await? {
            let next = first.word(tasks).wrapping_sub(tasks);
            // The leader is the first in the list of its threads: copy_process() of kernel/fork.c
            // puts it there, and de_thread() of fs/exec.c leaves it alone there.
            let head = first.word(signal).wrapping_add(thread_head);
            let (mut address, mut block) = (leader, first);
            while seen.insert(address) && seen.len() <= MOST {
                threads.extend(self.thread(gdb, address, &block).await?);
                let node = block.word(thread_node);
                if node == head {
                    break;
                }
                address = node.wrapping_sub(thread_node);
                let Some(another) = self.block(gdb, address).await? else { break };
                block = another;
            }
            if next == init_task || seen.len() > MOST || seen.contains(&next) {
                break;
            }
            leader = next;
        }
        Ok(LockSnapshot { threads, names: self.names.clone() })
    }

    async fn thread(
        &mut self,
        gdb: &mut Gdb,
        address: u64,
        block: &Block,
    ) -> Result<Option<Thread>, GdbError> {
        let m = self.members;
        let depth = u32::try_from(block.half(m.depth)).unwrap_or(0).min(DEEPEST);
        // A task that restarts its system call with `restart_syscall()` still holds the locks of
        // the file's open and write.
        if depth == 0 {
            return Ok(None);
        }
        let (state, task) = (block.half(m.state), block.task(m));
        let held = gdb.read(address.wrapping_add(m.held), m.held_bytes * u64::from(depth)).await?;
        let mut locks = Vec::new();
        for one in held.unwrap_or_default().chunks_exact(usize::try_from(m.held_bytes).unwrap_or(1).max(1)) {
            // `class_idx` has 13 bits (`MAX_LOCKDEP_KEYS_BITS`). `irq_context` (2 bits), `trylock`
            // (1) and `read` (2) follow.
            let word = field(one, m.held_class, 4);
            let class = word & 0x1fff;
            locks.push(HeldLock {
                instance: field(one, m.held_instance, 8),
                class,
                shared: word >> 16 & 3 != 0,
            });
            self.name(gdb, class).await?;
        }
        // `TASK_UNINTERRUPTIBLE` of include/linux/sched.h. Idle kthreads also have `TASK_NOLOAD`
        // (0x400).
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
            // The name as in lock-order.json. It is the guest's text and may have any content.
            Some(name) => gdb.read(name, 64).await?.map(|bytes| text(&bytes)),
            None => None,
        };
        // lockdep's name is the name in the source: `&dev->mutex`, or `mem_hotplug_lock` for
        // `mem_hotplug_lock.rw_sem`.
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("class {class}"));
        self.names.insert(class, name);
        Ok(())
    }

    /// The functions on the stack of a sleeping task, by its frame pointers.
    async fn frames(&self, gdb: &mut Gdb, address: u64) -> Result<Vec<String>, GdbError> {
        let mut all = Vec::new();
        let Some(sp) = gdb.word(address.wrapping_add(self.members.sp)).await? else { return Ok(all) };
        let mut at = sp.wrapping_add(FRAME_BP);
        for _ in 0..FRAMES {
            let Some(frame) = gdb.read(at, 16).await? else { break };
            let (next, back) = (little(&frame[..8]), little(&frame[8..]));
            // The return address is that of the instruction after the call.
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

    /// Whether a CPU spins, waiting for another one. False if it idles, and `None` if it does
    /// something else.
    pub async fn spins(&self, gdb: &mut Gdb, vcpu: Vcpu) -> Result<Option<bool>, GdbError> {
        let at = gdb.registers(vcpu).await?;
        let names = self.places.functions_at(at.program_counter);
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

fn field(bytes: &[u8], at: u64, length: usize) -> u64 {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    bytes.get(at..at.saturating_add(length)).map_or(0, little)
}

/// The text up to the first zero byte, without characters that cannot be printed.
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

    #[test]
    fn a_guests_text_is_only_text() {
        assert_eq!(text(b"kworker/u8:1\0\x1b[31m"), "kworker/u8:1");
        assert_eq!(text(b"\x1b[2Jx y\n"), "[2Jx y");
        assert_eq!((little(&[1, 2]), field(&[0, 0, 7], 2, 1), field(&[0], 2, 1)), (0x201, 7, 0));
    }
}

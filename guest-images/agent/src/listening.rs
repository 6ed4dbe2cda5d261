//! Reserves one CPU for the threads that listen to the host. The threads that carry out requests
//! leave it ([`hotplug_protocol::Request::Listen`]).

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// No CPU has this number.
const NONE: u32 = u32::MAX;

static CPU: AtomicU32 = AtomicU32::new(NONE);

/// Binds all existing threads to `cpu` (all of them listen, except the caller), and routes device
/// interrupts to it.
pub(crate) fn on(cpu: u32) -> io::Result<()> {
    let mut one = CpuSet::new();
    one.set(usize::try_from(cpu).map_err(io::Error::other)?)?;
    for thread in std::fs::read_dir("/proc/self/task")?.flatten() {
        let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A thread that has ended in the meantime does not listen.
        let _ = sched_setaffinity(Pid::from_raw(thread), &one);
    }
    CPU.store(cpu, Ordering::Relaxed);
    leave();
    for irq in std::fs::read_dir("/proc/irq")?.flatten() {
        // Only interrupts with a handler are routed: each handler has a folder (kernel/irq/proc.c,
        // `register_handler_proc()`).
        let is_heard = std::fs::read_dir(irq.path())
            .is_ok_and(|all| all.flatten().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())));
        if !is_heard {
            continue;
        }
        // Timers and similar interrupts cannot be moved.
        let _ = std::fs::write(irq.path().join("smp_affinity_list"), cpu.to_string());
    }
    Ok(())
}

/// Binds the calling thread to all other CPUs, including those that are plugged later.
pub(crate) fn leave() {
    let cpu = CPU.load(Ordering::Relaxed);
    if cpu == NONE {
        return;
    }
    let mut others = CpuSet::new();
    for other in (0..CpuSet::count()).filter(|other| u32::try_from(*other).is_ok_and(|other| other != cpu)) {
        let _ = others.set(other);
    }
    // Best effort: a thread that stays on this CPU may be held there and block the listeners.
    let _ = sched_setaffinity(Pid::from_raw(0), &others);
}

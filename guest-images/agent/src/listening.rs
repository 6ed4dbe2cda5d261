//! One CPU for whoever listens to the host, and none of what is asked for ([`hotplug_protocol::Request::Listen`]).

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// No CPU has this number.
const NONE: u32 = u32::MAX;

static CPU: AtomicU32 = AtomicU32::new(NONE);

/// Has the threads that there are, all of which listen but the caller, run on `cpu` alone, and devices interrupt it.
pub(crate) fn on(cpu: u32) -> io::Result<()> {
    let mut one = CpuSet::new();
    one.set(usize::try_from(cpu).map_err(io::Error::other)?)?;
    for thread in std::fs::read_dir("/proc/self/task")?.flatten() {
        let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile need not listen.
        let _ = sched_setaffinity(Pid::from_raw(thread), &one);
    }
    CPU.store(cpu, Ordering::Relaxed);
    leave();
    for irq in std::fs::read_dir("/proc/irq")?.flatten() {
        // Nobody hears the others: of each who does there is a folder (kernel/irq/proc.c, `register_handler_proc()`).
        let is_heard = std::fs::read_dir(irq.path())
            .is_ok_and(|all| all.flatten().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())));
        if !is_heard {
            continue;
        }
        // Timers and the like stay where they are.
        let _ = std::fs::write(irq.path().join("smp_affinity_list"), cpu.to_string());
    }
    Ok(())
}

/// Has the calling thread run on all other CPUs, those that come later too.
pub(crate) fn leave() {
    let cpu = CPU.load(Ordering::Relaxed);
    if cpu == NONE {
        return;
    }
    let mut others = CpuSet::new();
    for other in (0..CpuSet::count()).filter(|other| u32::try_from(*other).is_ok_and(|other| other != cpu)) {
        let _ = others.set(other);
    }
    // Best effort: one that stays may be held where it should listen.
    let _ = sched_setaffinity(Pid::from_raw(0), &others);
}

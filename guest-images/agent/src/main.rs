//! The guest's PID 1, and everything else that runs in the guest: one static binary with four
//! roles.
//!
//! | started as | role |
//! | --- | --- |
//! | `/init` by the kernel | [`supervisor`]: mounts, starts the agent, reaps orphans, outlives it |
//! | `/init agent` | the agent: answers the host, forwards kernel records, brings CPUs online |
//! | `/init load JSON` | [`worker`]: one process of a load |
//! | `/init mount PATH` | [`slab_cache`]: the mounting process of one of the loads |
//!
//! An oops ends the task that it hits, and the kernel panics if that was the last thread of PID 1
//! (6.1 kernel/exit.c:840-849, `group_dead && is_global_init()`). So PID 1 is a supervisor that
//! does nothing that could oops. In the agent, all calls into the code under test are in threads of
//! their own: `oops_end()` ends in `make_task_dead()` -> `do_exit()` (6.1
//! arch/x86/kernel/dumpstack.c:410, kernel/exit.c:992), which ends that one thread and not its
//! group.

mod attributes;
mod block_io;
mod cgroup;
mod channel;
mod churn;
mod counters;
mod glob;
mod huge_memory;
mod kmsg;
mod listening;
mod load;
mod mapping;
mod merged_memory;
mod modules;
mod pace;
mod per_cpu;
mod plan9;
mod program;
mod rest;
mod serve;
mod slab_cache;
mod snapshot;
mod supervisor;
mod swapped_memory;
mod timed;
mod uevents;
mod uring;
mod virtual_machine;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::{io, thread};

use hotplug_protocol::AgentEvent;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("agent"), None) => complain("agent", agent()),
        (Some("load"), Some(load)) => complain("load", worker::run(&load)),
        (Some("mount"), Some(path)) => complain("mount", slab_cache::mount_for_ever(path.as_ref()).map(drop)),
        // The kernel passes unknown words of its command line to init as arguments.
        _ => supervisor::run(),
    }
}

/// Serves the host until one of its ports is gone for good.
fn agent() -> io::Result<()> {
    // If the OOM killer ended the agent, the host could no longer send requests to the guest.
    std::fs::write("/proc/self/oom_score_adj", "-1000")?;
    // Before the ports are sought: a module may bring them.
    modules::load();
    // Before sysfs is read: the socket then has the events of all later changes.
    let uevents = uevents::listen()?;
    let [agent_port, kmsg_port] = channel::ports()?;
    let (lines, out) = channel::open(&agent_port)?;
    let drainer = kmsg::start(&kmsg_port, out.clone())?;
    out.event(AgentEvent::Ready(serve::hello()));
    uevents::start(uevents, out.clone())?;
    serve::run(lines, &out, &drainer, &Arc::default())
}

/// Prints an error on standard error, which is the console or the file that the parent set.
fn complain(role: &str, result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hotplug {role}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts a thread that is never joined: a thread that an oops ended never returns, and joining it
/// would panic.
///
/// Kernel reports print its name as that of the task, so it is short and always the same.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    /// Enough for the deepest thread (JSON of a snapshot). The default is 2 MiB.
    const STACK_BYTES: usize = 256 << 10;
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(|| {
            listening::leave();
            body();
        })
        .map(drop)
}

//! The guest's PID 1, and all else that runs in the guest: one static binary, four roles.
//!
//! | started as | role |
//! | --- | --- |
//! | `/init` by the kernel | [`supervisor`]: mounts, starts the agent, reaps orphans, outlives the agent |
//! | `/init agent` | the agent proper: answers the host, forwards kernel records, brings CPUs online |
//! | `/init load JSON` | [`worker`]: one process of a load |
//! | `/init mount PATH` | [`slab_cache`]: the process of one of the loads that mounts |
//!
//! Why a supervisor: an oops ends the task it hits, and the kernel panics when that was the last thread of
//! PID 1 (6.1 kernel/exit.c:840-849, `group_dead && is_global_init()`). So PID 1 does nothing that could oops.
//! In the agent, whatever calls into the code under test runs in a thread of its own: `oops_end()` ends in
//! `make_task_dead()` -> `do_exit()` (6.1 arch/x86/kernel/dumpstack.c:410, kernel/exit.c:992), which takes that
//! one thread and not its group.

mod attributes;
mod cgroup;
mod channel;
mod churn;
mod counters;
mod glob;
mod kmsg;
mod listening;
mod load;
mod pace;
mod plan9;
mod serve;
mod slab_cache;
mod snapshot;
mod supervisor;
mod timed;
mod uevents;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::{io, thread};

use hotplug_protocol::{AGENT_PORT, Event, KMSG_PORT};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("agent"), None) => complain("agent", agent()),
        (Some("load"), Some(load)) => complain("load", worker::run(&load).map(drop)),
        (Some("mount"), Some(path)) => complain("mount", slab_cache::mount_for_ever(path.as_ref()).map(drop)),
        // The kernel hands words of its command line that it does not know to init as arguments.
        _ => supervisor::run(),
    }
}

/// Serves the host until a port of it is gone for good.
fn agent() -> io::Result<()> {
    // An agent that the OOM killer took would be a guest that cannot be asked anything.
    std::fs::write("/proc/self/oom_score_adj", "-1000")?;
    // Before anything is looked at: what changes after the look is in the socket then.
    let uevents = uevents::listen()?;
    let [agent_port, kmsg_port] = channel::find([AGENT_PORT, KMSG_PORT])?;
    let (lines, out) = channel::open(&agent_port)?;
    let drainer = kmsg::start(&kmsg_port, out.clone())?;
    out.event(Event::Ready(serve::hello()));
    uevents::start(uevents, out.clone())?;
    serve::run(lines, &out, &drainer, &Arc::default())
}

/// Standard error is the console, or what the parent made it.
fn complain(role: &str, result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hotplug {role}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A thread that nobody waits for: one that an oops took never returns, and joining it would panic.
///
/// Its name is what kernel reports print as the task's, so it is short and always the same.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    /// Enough for the deepest of them (JSON of a snapshot); the default is 2 MiB.
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

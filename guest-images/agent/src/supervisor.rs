//! PID 1: mounts, starts the agent, reaps orphans, and keeps the machine running even if the agent
//! ends, so that the host can still read the kernel's messages.

use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, pause};

/// The type, which is also the source; the target; whether the mount must succeed. Optional ones
/// depend on the configuration of the kernel.
const MOUNTS: [(&str, &str, Need); 8] = [
    ("proc", "/proc", Need::Must),
    ("sysfs", "/sys", Need::Must),
    ("devtmpfs", "/dev", Need::Must),
    ("debugfs", "/sys/kernel/debug", Need::May),
    ("tracefs", "/sys/kernel/tracing", Need::May),
    ("cgroup2", "/sys/fs/cgroup", Need::May),
    ("tmpfs", "/tmp", Need::May),
    ("tmpfs", "/run", Need::May),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    May,
}

/// Never returns while the machine runs: the kernel panics when init ends.
pub(crate) fn run() -> ExitCode {
    for (kind, target, need) in MOUNTS {
        let mounted = mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>);
        if let (Err(error), Need::Must) = (mounted, need) {
            eprintln!("hotplug init: cannot mount {kind} on {target}: {error}");
        }
    }
    let agent = match Command::new("/init").arg("agent").spawn() {
        Ok(child) => i32::try_from(child.id()).ok().map(Pid::from_raw),
        Err(error) => {
            eprintln!("hotplug init: cannot start the agent: {error}");
            None
        }
    };
    loop {
        match wait() {
            Ok(status) if agent.is_some() && status.pid() == agent => mourn(status),
            Ok(_) | Err(Errno::EINTR) => {}
            // No children are left. Init ignores signals without a handler, so this sleeps for
            // ever.
            Err(_) => pause(),
        }
    }
}

fn mourn(status: WaitStatus) {
    match status {
        WaitStatus::Exited(_, code) => eprintln!("hotplug init: the agent ended with status {code}"),
        WaitStatus::Signaled(_, signal, _) => eprintln!("hotplug init: the agent was ended by {signal}"),
        _ => {}
    }
}

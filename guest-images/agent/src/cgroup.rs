//! Loads of cgroups. One creates and removes a cgroup. Its cpuset follows the CPUs and memory nodes
//! as they come and go (kernel/cgroup/cpuset.c), and the memory controller's state for each CPU and
//! node is allocated and freed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::worker::{Loop, lacks};
use crate::{serve, snapshot};

/// The place of the unified hierarchy.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// The cgroup of a worker. It exists only during a loop.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    loops: usize,
}

impl Cgroup {
    pub(crate) fn new(worker: u32) -> io::Result<Self> {
        let controllers = controllers()?;
        for controller in controllers.split_whitespace().filter(|name| matches!(*name, "memory" | "cpuset")) {
            enable(controller)?;
        }
        Ok(Self { path: path(worker), loops: 0 })
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        serve::write(&self.path.join(file).to_string_lossy(), value)
    }

    /// Removes the leftovers of a killed worker.
    pub(crate) fn clean_up(worker: u32) {
        let _ = std::fs::remove_dir(path(worker));
    }
}

impl Loop for Cgroup {
    /// Creates the cgroup, moves into it, changes its CPUs and nodes, moves out and removes it.
    fn once(&mut self) -> io::Result<()> {
        self.loops = self.loops.wrapping_add(1);
        std::fs::create_dir(&self.path).or_else(|error| match error.kind() {
            // The loop before ended early.
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
        let inside = self.write("cgroup.procs", "0").and_then(|()| {
            let online = snapshot::cpus("online")?;
            let one = online.get(self.loops % online.len().max(1)).copied().unwrap_or_default();
            // Errors do not matter: a CPU or a node may be gone, and without the controller there
            // is no such file.
            let _ = self.write("cpuset.cpus", &one.to_string());
            let _ = self.write("cpuset.mems", "0");
            // All CPUs that are online, and not an empty mask: the kernel then takes the mask of
            // the parent without a write.
            let _ = self.write("cpuset.cpus", &list(&online));
            Ok(())
        });
        // The worker moves out in any case; otherwise the cgroup cannot be removed.
        serve::write(&format!("{ROOT}/cgroup.procs"), "0")?;
        std::fs::remove_dir(&self.path)?;
        inside
    }
}

/// A cgroup whose tasks may run for 2 of 10 milliseconds, and a task in it that does not stop. All
/// workers are in the same cgroup. Throttled tasks of a CPU that goes are released
/// (kernel/sched/fair.c, `unthrottle_offline_cfs_rqs`).
#[derive(Debug)]
pub(crate) struct Throttled;

impl Throttled {
    pub(crate) fn new() -> io::Result<Self> {
        needs("cpu", "CONFIG_CFS_BANDWIDTH")?;
        let path = made("throttled")?;
        serve::write(&format!("{path}/cpu.max"), "2000 10000")
            .map_err(lacks("cpu.max", "CONFIG_CFS_BANDWIDTH"))?;
        serve::write(&format!("{path}/cgroup.procs"), "0")?;
        Ok(Self)
    }

    /// Removes the cgroup after its last worker.
    pub(crate) fn clean_up() {
        let _ = std::fs::remove_dir(format!("{ROOT}/throttled"));
    }
}

impl Loop for Throttled {
    /// Runs for longer than the kernel lets it, without a system call.
    fn once(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        Ok(())
    }
}

/// A cgroup that has a CPU for itself and gives it back, again and again
/// (Documentation/admin-guide/cgroup-v2.rst, `cpuset.cpus.partition`). The kernel builds the
/// scheduling domains anew each time, as for a CPU that comes or goes.
#[derive(Debug)]
pub(crate) struct Partition {
    path: String,
    is_isolated: bool,
}

impl Partition {
    pub(crate) fn new() -> io::Result<Self> {
        needs("cpuset", "CONFIG_CPUSETS")?;
        Ok(Self { path: made("partition")?, is_isolated: false })
    }

    /// Removes the cgroup after its last worker.
    pub(crate) fn clean_up() {
        let _ = std::fs::remove_dir(format!("{ROOT}/partition"));
    }
}

impl Loop for Partition {
    fn once(&mut self) -> io::Result<()> {
        self.is_isolated = !self.is_isolated;
        let online = snapshot::cpus("online")?;
        let write = |file: &str, value: &str| serve::write(&format!("{}/{file}", self.path), value);
        // Errors do not matter: the CPU may be gone, and one CPU cannot be isolated.
        if let (true, Some(last)) = (self.is_isolated, online.last()) {
            let _ = write("cpuset.cpus", &last.to_string());
            let _ = write("cpuset.cpus.partition", "isolated");
        } else {
            let _ = write("cpuset.cpus.partition", "member");
        }
        Ok(())
    }
}

/// The controllers of the root of cgroup2.
fn controllers() -> io::Result<String> {
    std::fs::read_to_string(format!("{ROOT}/cgroup.controllers"))
        .map_err(lacks("no cgroup2 at /sys/fs/cgroup", "CONFIG_CGROUPS"))
}

/// Enables a controller that a load needs.
fn needs(controller: &str, option: &str) -> io::Result<()> {
    if !controllers()?.split_whitespace().any(|name| name == controller) {
        return Err(io::Error::other(format!("no controller `{controller}`, which needs {option}")));
    }
    enable(controller)
}

fn enable(controller: &str) -> io::Result<()> {
    serve::write(&format!("{ROOT}/cgroup.subtree_control"), &format!("+{controller}"))
}

/// A cgroup that the workers of a load share.
fn made(name: &str) -> io::Result<String> {
    let path = format!("{ROOT}/{name}");
    match std::fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path),
    }
}

fn path(worker: u32) -> PathBuf {
    Path::new(ROOT).join(format!("load-{worker}"))
}

fn list(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn cpus_are_listed_as_the_kernel_reads_them() {
        assert_eq!(super::list(&[0, 2, 3]), "0,2,3");
        assert_eq!(super::list(&[]), "");
    }
}

//! A load that creates and removes a cgroup. Its cpuset follows the CPUs and memory nodes as they
//! come and go (kernel/cgroup/cpuset.c), and the memory controller's state for each CPU and node is
//! allocated and freed.

use std::io;
use std::path::{Path, PathBuf};

use crate::{serve, snapshot};

const ROOT: &str = "/sys/fs/cgroup";

/// The cgroup of a worker. It exists only during a loop.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    loops: usize,
}

impl Cgroup {
    pub(crate) fn new(worker: u32) -> io::Result<Self> {
        let controllers = std::fs::read_to_string(format!("{ROOT}/cgroup.controllers"));
        let controllers = controllers.map_err(|error| {
            io::Error::other(format!("no cgroup2 at {ROOT}, which needs CONFIG_CGROUPS: {error}"))
        })?;
        for controller in controllers.split_whitespace().filter(|name| matches!(*name, "memory" | "cpuset")) {
            serve::write(&format!("{ROOT}/cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        Ok(Self { path: path(worker), loops: 0 })
    }

    /// Creates the cgroup, moves into it, changes its CPUs and nodes, moves out and removes it.
    pub(crate) fn once(&mut self) -> io::Result<()> {
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

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        serve::write(&self.path.join(file).to_string_lossy(), value)
    }

    /// Removes the leftovers of a killed worker.
    pub(crate) fn clean_up(worker: u32) {
        let _ = std::fs::remove_dir(path(worker));
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

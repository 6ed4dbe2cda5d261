//! A cgroup that comes and goes: its cpuset follows CPUs and memory nodes as they do (kernel/cgroup/cpuset.c), and the
//! memory controller's state for each CPU and node is allocated and freed.

use std::io;
use std::path::{Path, PathBuf};

use crate::{serve, snapshot};

const ROOT: &str = "/sys/fs/cgroup";

/// A worker's cgroup, while it is not there.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    loops: usize,
}

impl Cgroup {
    pub(crate) fn new(worker: u32) -> io::Result<Self> {
        let controllers = std::fs::read_to_string(format!("{ROOT}/cgroup.controllers"));
        let controllers = controllers.map_err(|error| {
            io::Error::other(format!("no cgroup2 is at {ROOT}: it needs CONFIG_CGROUPS: {error}"))
        })?;
        for controller in controllers.split_whitespace().filter(|name| matches!(*name, "memory" | "cpuset")) {
            serve::write(&format!("{ROOT}/cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        Ok(Self { path: path(worker), loops: 0 })
    }

    /// Makes it, moves in, changes its CPUs and nodes, moves out, removes it.
    pub(crate) fn once(&mut self) -> io::Result<()> {
        self.loops = self.loops.wrapping_add(1);
        std::fs::create_dir(&self.path).or_else(|error| match error.kind() {
            // The one before ended early.
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
        let inside = self.write("cgroup.procs", "0").and_then(|()| {
            let online = snapshot::cpus("online")?;
            let one = online.get(self.loops % online.len().max(1)).copied().unwrap_or_default();
            // A CPU or a node may have gone meanwhile, and without the controller there is no such file: all the same.
            let _ = self.write("cpuset.cpus", &one.to_string());
            let _ = self.write("cpuset.mems", "0");
            // All that there are, which an empty mask is not: the kernel then takes the parent's without a write.
            let _ = self.write("cpuset.cpus", &list(&online));
            Ok(())
        });
        // Out in any case, or it cannot be removed.
        serve::write(&format!("{ROOT}/cgroup.procs"), "0")?;
        std::fs::remove_dir(&self.path)?;
        inside
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        serve::write(&self.path.join(file).to_string_lossy(), value)
    }

    /// Removes what a killed worker left behind.
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

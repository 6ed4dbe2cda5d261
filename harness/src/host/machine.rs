//! Cores, memory, disk: what the kernel of this machine says about it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::System;
use crate::kernel::Cache;

/// An amount of memory or disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// So many GiB.
    pub const fn gib(amount: u64) -> Self {
        Self(amount << 30)
    }
}

/// In GiB with one decimal, rounded down: a need of 3.0 is never shown as met when it is not.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = u128::from(self.0) * 10 / (1 << 30);
        write!(f, "{}.{} GiB", tenths / 10, tenths % 10)
    }
}

/// The processor's name.
pub(super) fn cpu_model(system: &System) -> String {
    let cpuinfo = system.read("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == "model name");
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Release of the running kernel.
pub(super) fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |uname| uname.release().to_string_lossy().into_owned())
}

/// Cores this process may use: its affinity and its cgroup's quota count.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory in all, and what could be had without swapping (proc(5), `MemAvailable`).
pub(super) fn memory(system: &System) -> (Bytes, Bytes) {
    let meminfo = system.read("/proc/meminfo").unwrap_or_default();
    (meminfo_field(&meminfo, "MemTotal"), meminfo_field(&meminfo, "MemAvailable"))
}

fn meminfo_field(meminfo: &str, name: &str) -> Bytes {
    let value = meminfo.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name);
    let kib = value.and_then(|(_, rest)| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Bytes(kib.unwrap_or(0) << 10)
}

/// The kernel cache's folder; where there is no home, a place whose room can still be told.
pub(super) fn cache_folder() -> PathBuf {
    Cache::default_path().unwrap_or_else(|_| std::env::temp_dir())
}

/// What this user may still write on the file system that holds `folder`, or will hold it once it is made.
pub(super) fn free_space(folder: &Path) -> Bytes {
    let there = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    nix::sys::statvfs::statvfs(there)
        .map_or(Bytes(0), |fs| Bytes(fs.blocks_available().saturating_mul(fs.fragment_size())))
}

/// What the files below `folder` take on disk; zero where there is no such folder.
pub(super) fn used_space(folder: &Path) -> Bytes {
    // Enough is known once it is more than this: a cache of many kernel trees has a million files.
    const ENOUGH: u64 = 1 << 30;
    let mut total = 0;
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
        total +=
            entry.metadata().map_or(0, |metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
        if total > ENOUGH {
            break;
        }
    }
    Bytes(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_meminfo_and_shows_sizes() {
        let meminfo =
            "MemTotal:       24684416 kB\nMemFree:        22934328 kB\nMemAvailable:   24000000 kB\n";
        assert_eq!(meminfo_field(meminfo, "MemTotal"), Bytes(24_684_416 << 10));
        assert_eq!(meminfo_field(meminfo, "SwapTotal"), Bytes(0));
        assert_eq!(Bytes(24_684_416 << 10).to_string(), "23.5 GiB");
        assert_eq!(Bytes(Bytes::gib(3).0 - 1).to_string(), "2.9 GiB");
    }

    #[test]
    fn free_space_of_a_folder_to_be_made_is_that_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(&folder.path().join("a/b")) > Bytes(0));
    }
}

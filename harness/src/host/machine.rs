//! Cores, memory and disk of this machine, as its kernel reports them.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::System;
use crate::kernel::Cache;

/// An amount of memory or disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl ByteCount {
    /// `amount` GiB.
    pub const fn gib(amount: u64) -> Self {
        Self(amount << 30)
    }
}

/// Prints GiB with one decimal, rounded down. An amount below a need of 3.0 GiB is thus never
/// printed as 3.0.
impl fmt::Display for ByteCount {
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

/// The release of the running kernel.
pub(super) fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |uname| uname.release().to_string_lossy().into_owned())
}

/// The number of cores that this process may use, according to its affinity and its cgroup's quota.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The total memory, and the memory available without swapping (proc(5), `MemAvailable`).
pub(super) fn memory(system: &System) -> (ByteCount, ByteCount) {
    let meminfo = system.read("/proc/meminfo").unwrap_or_default();
    (meminfo_field(&meminfo, "MemTotal"), meminfo_field(&meminfo, "MemAvailable"))
}

fn meminfo_field(meminfo: &str, name: &str) -> ByteCount {
    let value = meminfo.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name);
    let kib = value.and_then(|(_, rest)| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    ByteCount(kib.unwrap_or(0) << 10)
}

/// The kernel cache's folder. Without a home folder, the folder of temporary files, so that free
/// space can still be shown.
pub(super) fn cache_folder() -> PathBuf {
    Cache::default_path().unwrap_or_else(|_| std::env::temp_dir())
}

/// The free space for this user on the file system that holds `folder`, or on which it would be
/// created.
pub(crate) fn free_space(folder: &Path) -> ByteCount {
    let there = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    nix::sys::statvfs::statvfs(there)
        .map_or(ByteCount(0), |fs| ByteCount(fs.blocks_available().saturating_mul(fs.fragment_size())))
}

/// The disk space that the files below `folder` use. Zero if the folder does not exist.
pub(super) fn used_space(folder: &Path) -> ByteCount {
    // The count stops above this limit, because a cache with many kernel trees has a million files.
    const ENOUGH: u64 = 1 << 30;
    let mut total = 0;
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
        total +=
            entry.metadata().map_or(0, |metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
        if total > ENOUGH {
            break;
        }
    }
    ByteCount(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_meminfo_and_shows_sizes() {
        let meminfo =
            "MemTotal:       24684416 kB\nMemFree:        22934328 kB\nMemAvailable:   24000000 kB\n";
        assert_eq!(meminfo_field(meminfo, "MemTotal"), ByteCount(24_684_416 << 10));
        assert_eq!(meminfo_field(meminfo, "SwapTotal"), ByteCount(0));
        assert_eq!(ByteCount(24_684_416 << 10).to_string(), "23.5 GiB");
        assert_eq!(ByteCount(ByteCount::gib(3).0 - 1).to_string(), "2.9 GiB");
    }

    #[test]
    fn free_space_of_a_folder_to_be_made_is_that_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(&folder.path().join("a/b")) > ByteCount(0));
    }
}

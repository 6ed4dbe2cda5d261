//! The machine as the guest sees it now, from procfs and sysfs.

use std::fs::read_to_string;
use std::io;

use hotplug_protocol::{Block, Snapshot, Zone};
use nix::errno::Errno;

const BLOCKS: &str = "/sys/devices/system/memory";

/// Takes the snapshot.
///
/// The CPUs come from the masks, so that no attribute of a CPU that may be about to go is opened.
pub(crate) fn take() -> io::Result<Snapshot> {
    let unreadable = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("cannot parse {what}"));
    let meminfo = "/proc/meminfo";
    let tainted = "/proc/sys/kernel/tainted";
    Ok(Snapshot {
        mem_total_kib: meminfo_kib(&read_to_string(meminfo)?, "MemTotal")
            .ok_or_else(|| unreadable(meminfo))?,
        zones: zones(&read_to_string("/proc/zoneinfo")?),
        blocks: blocks()?,
        cpus_present: cpus("present")?,
        cpus_online: cpus("online")?,
        tainted: read_to_string(tainted)?.trim().parse().map_err(|_| unreadable(tainted))?,
    })
}

/// Bytes in a memory block; `None` without memory hotplug. The attribute is hexadecimal without a
/// prefix (6.1 drivers/base/memory.c, `block_size_bytes_show`).
pub(crate) fn block_bytes() -> Option<u64> {
    u64::from_str_radix(read_to_string(format!("{BLOCKS}/block_size_bytes")).ok()?.trim(), 16).ok()
}

/// One of the masks in `/sys/devices/system/cpu`, expanded.
pub(crate) fn cpus(mask: &str) -> io::Result<Vec<u32>> {
    let path = format!("/sys/devices/system/cpu/{mask}");
    let list = read_to_string(&path)?;
    expand(&list)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("cannot parse {path}: {list:?}")))
}

/// `0-2,5`, as the kernel prints a mask of CPUs. Empty for an empty list.
fn expand(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(low.parse().ok()?..=high.parse::<u32>().ok()?);
    }
    Some(cpus)
}

/// A value of `/proc/meminfo`, such as that of `MemTotal`, in KiB.
pub(crate) fn meminfo_kib(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

/// `Node 0, zone   Normal` begins a zone; indented lines follow. A zone with managed but without
/// present pages would be a bug in the kernel, so it is listed.
fn zones(zoneinfo: &str) -> Vec<Zone> {
    let mut zones: Vec<Zone> = Vec::new();
    for line in zoneinfo.lines() {
        if let Some((node, name)) = line.strip_prefix("Node ").and_then(|rest| rest.split_once(", zone")) {
            let node = node.trim().parse().unwrap_or_default();
            zones.push(Zone { node, name: name.trim().to_owned(), present_pages: 0, managed_pages: 0 });
        } else if let Some(zone) = zones.last_mut() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next().and_then(|pages| pages.parse().ok()), words.next()) {
                (Some("present"), Some(pages), None) => zone.present_pages = pages,
                (Some("managed"), Some(pages), None) => zone.managed_pages = pages,
                _ => {}
            }
        }
    }
    zones.retain(|zone| zone.present_pages != 0 || zone.managed_pages != 0);
    zones
}

/// Memory blocks by number. A block that is removed during the reading is left out.
fn blocks() -> io::Result<Vec<Block>> {
    let entries = match std::fs::read_dir(BLOCKS) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut blocks = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_prefix("memory")?.parse().ok()) else {
            continue;
        };
        match read_to_string(entry.path().join("state")) {
            Ok(state) => blocks.push(Block { number, state: state.trim_end().to_owned() }),
            // ENODEV: the attribute was open when its block was removed (kernfs_get_active).
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::ENOENT | Errno::ENODEV)
                ) => {}
            Err(error) => return Err(error),
        }
    }
    blocks.sort_unstable_by_key(|block| block.number);
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    // From a guest with 6.1.192, 512 MiB and a DIMM of 256 MiB.
    const ZONEINFO: &str = include_str!("../samples/zoneinfo");

    #[test]
    fn zones_without_pages_are_left_out() {
        let zone = |name: &str, present_pages, managed_pages| Zone {
            node: 0,
            name: name.to_owned(),
            present_pages,
            managed_pages,
        };
        assert_eq!(zones(ZONEINFO), [zone("DMA32", 130_942, 101_168), zone("Movable", 65_536, 65_536)]);
    }

    #[test]
    fn pages_that_are_managed_but_not_present_are_shown() {
        let lost =
            zones("Node 1, zone  Movable\n  pages free     0\n        present  0\n        managed  32768\n");
        assert_eq!(lost.first().map(|zone| (zone.node, zone.managed_pages)), Some((1, 32768)));
    }

    #[test]
    fn cpu_lists_expand() {
        assert_eq!(expand("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(expand("0\n"), Some(vec![0]));
        assert_eq!(expand("\n"), Some(vec![]));
        assert_eq!(expand("0-x"), None);
    }

    #[test]
    fn mem_total_is_in_kib() {
        assert_eq!(
            meminfo_kib("MemTotal:         404672 kB\nMemFree:          388144 kB\n", "MemTotal"),
            Some(404_672)
        );
        assert_eq!(meminfo_kib("MemFree: 1 kB\n", "MemTotal"), None);
    }
}

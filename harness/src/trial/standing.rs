//! Values of the kernel that describe its state and not its history: spans, watermarks, lists of
//! nodes and CPUs. Once everything that a trial brought is gone, they should be as they were.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::{try_join, try_join_all};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::guest::{Agent, AgentError};
use crate::text::harmless;

const ZONES: &str = "/proc/zoneinfo";
const VMSTAT: &str = "/proc/vmstat";
const SELF: &str = "/proc/self/status";

/// Files that are one value each. What a guest lacks is left out.
const WHOLE: [&str; 9] = [
    "/proc/irq/default_smp_affinity",
    "/proc/sys/vm/min_free_kbytes",
    "/sys/devices/system/node/has_cpu",
    "/sys/devices/system/node/has_memory",
    "/sys/devices/system/node/has_normal_memory",
    "/sys/devices/system/node/online",
    "/sys/devices/virtual/workqueue/cpumask",
    "/sys/fs/cgroup/cpuset.cpus.effective",
    "/sys/fs/cgroup/cpuset.mems.effective",
];

/// Fields of a zone (`zoneinfo_show_print()` in mm/vmstat.c).
const OF_ZONE: [&str; 12] = [
    "min",
    "low",
    "high",
    "spanned",
    "present",
    "managed",
    "cma",
    "protection:",
    "high:",
    "high_min:",
    "high_max:",
    "batch:",
];
/// Fields of a node that are 0 while nothing happens, or that only hotplug changes. 6.12 and newer
/// kernels have the last two.
const OF_NODE: [&str; 5] =
    ["nr_isolated_anon", "nr_isolated_file", "nr_writeback", "nr_memmap_pages", "nr_memmap_boot_pages"];

/// The most values that are kept of a guest, and the most bytes of each.
const MOST: usize = 4096;
const LONGEST: usize = 1000;

/// The values of a guest, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StandingValues(BTreeMap<String, String>);

/// A value that a trial left changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unrestored {
    /// Its name: the file, and the place in it.
    pub name: String,
    /// The value before the trial. Null: there was none.
    pub was: Option<String>,
    /// The value after it. Null: there is none.
    pub is: Option<String>,
}

impl Unrestored {
    /// The name without the number of a CPU.
    pub fn value(&self) -> String {
        let name: Vec<&str> = self.name.split(' ').collect();
        let is_number_of_cpu = |place: usize| place > 0 && name[place - 1] == "cpu";
        let kept = name.iter().enumerate().filter(|(place, _)| !is_number_of_cpu(*place));
        kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    }

    /// What is the same for equal changes of other trials: the value, and the difference of two
    /// numbers, or both of them. A count that leaks changes from trial to trial of a guest, and its
    /// difference does not.
    pub fn key(&self) -> String {
        let number = |value: &Option<String>| value.as_ref()?.parse::<i64>().ok();
        let change = match number(&self.is).zip(number(&self.was)) {
            Some((is, was)) => format!("{:+}", is.saturating_sub(was)),
            None => self.change(),
        };
        format!("{} {change}", self.value())
    }

    /// The two values, in words.
    fn change(&self) -> String {
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".into());
        format!("is {}, was {}", or_none(&self.is), or_none(&self.was))
    }
}

impl std::fmt::Display for Unrestored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.change())
    }
}

impl StandingValues {
    /// Reads them.
    pub(super) async fn read(agent: &Agent) -> Result<Self, AgentError> {
        let mut all = Self::default();
        // They are asked for at once, because each answer that is waited for costs a while.
        let whole = try_join_all(WHOLE.map(|path| agent.read_if_there(path)));
        let parts = try_join_all([ZONES, VMSTAT, SELF].map(|path| agent.read_if_there(path)));
        let (whole, parts) = try_join(whole, parts).await?;
        for (path, text) in WHOLE.into_iter().zip(whole) {
            if let Some(text) = text {
                all.add(path.to_owned(), text.trim());
            }
        }
        let readers = [Self::add_zones as fn(&mut Self, &str), Self::add_vmstat, Self::add_masks];
        for (read, text) in readers.into_iter().zip(parts) {
            if let Some(text) = text {
                read(&mut all, &text);
            }
        }
        Ok(all)
    }

    fn add(&mut self, name: String, value: &str) {
        if self.0.len() <= MOST {
            self.0.insert(name, harmless(value, LONGEST));
        }
    }

    /// Whether there are more than can be kept.
    fn is_cut(&self) -> bool {
        self.0.len() > MOST
    }

    fn add_zones(&mut self, text: &str) {
        let (mut zone, mut cpu) = (String::new(), String::new());
        for line in text.lines() {
            if line.starts_with("Node ") {
                zone = line.split_whitespace().collect::<Vec<_>>().join(" ");
                cpu.clear();
                continue;
            }
            let line = line.trim();
            let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            match name {
                "cpu:" => cpu = format!(" cpu {}", value.trim()),
                "per-node" | "pagesets" => cpu.clear(),
                // These follow the lists of the CPUs.
                "start_pfn:" | "node_unreclaimable:" => {
                    self.add(format!("{ZONES} {zone} {}", name.trim_end_matches(':')), value.trim());
                }
                _ if OF_NODE.contains(&name) || OF_ZONE.contains(&name) => {
                    self.add(format!("{ZONES} {zone}{cpu} {}", name.trim_end_matches(':')), value.trim());
                }
                _ => {}
            }
        }
        // Kernels that print the limits of a list tune the list's own `high` between them, all the
        // time (mm/page_alloc.c, nr_pcp_high(), from 6.7 on).
        if self.0.keys().any(|name| name.ends_with(" high_min")) {
            self.0.retain(|name, _| !(name.contains(" cpu ") && name.ends_with(" high")));
        }
    }

    fn add_vmstat(&mut self, text: &str) {
        for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            if OF_NODE.contains(&name) {
                self.add(format!("{VMSTAT} {name}"), value);
            }
        }
    }

    fn add_masks(&mut self, text: &str) {
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            if matches!(name, "Cpus_allowed_list" | "Mems_allowed_list") {
                self.add(format!("{SELF} {name}"), value.trim());
            }
        }
    }

    /// What differs in `now`. A node that came or went is one difference. None if not all values are
    /// known.
    pub(super) fn unrestored(&self, now: &Self) -> Option<Vec<Unrestored>> {
        (!self.is_cut() && !now.is_cut()).then(|| self.differences(now))
    }

    fn differences(&self, now: &Self) -> Vec<Unrestored> {
        let node = |name: &str| {
            let zone = name.strip_prefix(ZONES)?;
            Some(format!("{ZONES}{}", zone.split_once(',')?.0))
        };
        let nodes = |all: &Self| all.0.keys().filter_map(|name| node(name)).collect::<BTreeSet<_>>();
        let (were, are) = (nodes(self), nodes(now));
        let there = |is: bool| is.then(|| "there".to_owned());
        let mut all: Vec<Unrestored> = were
            .symmetric_difference(&are)
            .map(|name| Unrestored {
                name: name.clone(),
                was: there(were.contains(name)),
                is: there(are.contains(name)),
            })
            .collect();
        let names: BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        for name in names {
            let (was, is) = (self.0.get(name), now.0.get(name));
            let is_of_both = node(name).is_none_or(|node| were.contains(&node) && are.contains(&node));
            if was != is && is_of_both {
                all.push(Unrestored { name: name.clone(), was: was.cloned(), is: is.cloned() });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONEINFO: &str = "\
Node 0, zone    DMA32
  per-node stats
      nr_inactive_anon 512
      nr_isolated_anon 0
  pages free     97000
        min      1000
        high     1500
        spanned  130942
        protection: (0, 0, 8, 0)
      nr_free_pages 97000
  pagesets
    cpu: 0
              count: 3
              high:  378
              batch: 63
  vm stats threshold: 12
  start_pfn:           1
";

    fn values(text: &str) -> StandingValues {
        let mut all = StandingValues::default();
        all.add_zones(text);
        all
    }

    #[test]
    fn the_state_of_a_zone_is_kept_and_not_its_history() {
        let all = values(ZONEINFO);
        let names: Vec<_> = all
            .0
            .keys()
            .map(|name| name.strip_prefix("/proc/zoneinfo Node 0, zone DMA32 ").unwrap())
            .collect();
        let should = [
            "cpu 0 batch",
            "cpu 0 high",
            "high",
            "min",
            "nr_isolated_anon",
            "protection",
            "spanned",
            "start_pfn",
        ];
        assert_eq!(names, should);
        assert_eq!(all.0["/proc/zoneinfo Node 0, zone DMA32 protection"], "(0, 0, 8, 0)");
    }

    #[test]
    fn only_what_differs_is_unrestored() {
        let was = values(ZONEINFO);
        assert_eq!(was.differences(&was), []);
        let is = values(&ZONEINFO.replace("97000", "96000").replace("min      1000", "min      900"));
        let all = was.differences(&is);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].to_string(), "/proc/zoneinfo Node 0, zone DMA32 min is 900, was 1000");
    }

    #[test]
    fn equal_changes_have_one_key() {
        let key = |name: &str, was: &str, is: &str| {
            Unrestored { name: name.into(), was: Some(was.into()), is: Some(is.into()) }.key()
        };
        assert_eq!(key("zone DMA32 cpu 3 high", "12", "10"), "zone DMA32 cpu high -2");
        assert_eq!(key("zone DMA32 cpu 0 high", "10", "8"), "zone DMA32 cpu high -2");
        assert_eq!(key("online", "0-1", "0"), "online is 0, was 0-1");
    }

    #[test]
    fn a_limit_that_the_kernel_tunes_is_history() {
        let tuned =
            ZONEINFO.replace("              batch: 63", "              batch: 63\n              high_min: 9");
        let all = values(&tuned);
        let of_cpu: Vec<_> = all.0.keys().filter(|name| name.contains(" cpu ")).collect();
        assert!(of_cpu.len() == 2 && of_cpu[1].ends_with("cpu 0 high_min"), "{of_cpu:?}");
        assert!(all.0.contains_key("/proc/zoneinfo Node 0, zone DMA32 high"));
    }

    #[test]
    fn a_guest_with_too_many_values_is_not_compared() {
        let mut all = StandingValues::default();
        (0..=MOST).for_each(|n| all.add(n.to_string(), "1"));
        assert!(all.is_cut());
        assert!(!values(ZONEINFO).is_cut());
    }

    #[test]
    fn counters_of_the_memory_map_are_kept() {
        // From 7.3.4.
        let mut all = StandingValues::default();
        all.add_vmstat("nr_free_pages 12\nnr_memmap_pages 2048\nnr_memmap_boot_pages 2560\n");
        assert_eq!(all.0.len(), 2);
    }

    #[test]
    fn a_node_that_stays_is_one_difference() {
        let more = format!("{ZONEINFO}{}", ZONEINFO.replace("Node 0", "Node 1"));
        let all = values(ZONEINFO).differences(&values(&more));
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].to_string(), "/proc/zoneinfo Node 1 is there, was absent");
        assert_eq!(values(&more).differences(&values(ZONEINFO))[0].is, None);
    }
}

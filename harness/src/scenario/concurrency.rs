//! The sections whose overlap is measured: `[overlap]` of a scenario.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::probe_point::is_name;

/// The sections that are traced if a scenario names none: plug and unplug of memory and CPUs, and
/// what they have in common with slab, vmstat, zones and ACPI. All are functions of 6.1 and of 6.12
/// that a tracer can see. `cpus_write_lock()` is not among them, because gcc inlines it into its
/// callers `_cpu_up()` and `_cpu_down()`.
const DEFAULT: [&str; 20] = [
    "acpi_device_hotplug",
    "add_memory_resource",
    "try_remove_memory",
    "online_pages",
    "offline_pages",
    "mem_hotplug_begin..mem_hotplug_done",
    "zone_pcp_disable..zone_pcp_enable",
    "move_pfn_range_to_zone",
    "remove_pfn_range_from_zone",
    "migrate_pages",
    "slab_memory_callback",
    "kmem_cache_destroy",
    "_cpu_up",
    "_cpu_down",
    "slub_cpu_dead",
    "vmstat_cpu_dead",
    "page_alloc_cpu_dead",
    "try_online_node",
    "build_all_zonelists",
    "refresh_zone_stat_thresholds",
];

/// The sections to trace, and the pairs that must overlap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlapSpec {
    /// Functions, and sections between two functions.
    #[serde(default = "default")]
    pub functions: Vec<CriticalSection>,
    /// Pairs of sections that must overlap, of `functions` or of others. If a pair never overlaps,
    /// trials without a report are no evidence about its race.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub race: Vec<[CriticalSection; 2]>,
    /// Traced trials of each kernel. Absent: as many as are judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<u32>,
}

fn default() -> Vec<CriticalSection> {
    DEFAULT.iter().filter_map(|name| name.parse().ok()).collect()
}

impl Default for OverlapSpec {
    /// The default functions, and no pair that must overlap.
    fn default() -> Self {
        Self { functions: default(), race: Vec::new(), trials: None }
    }
}

/// A section that a task can be inside: a function, or the section between two functions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub enum CriticalSection {
    /// A function, from its beginning to its end.
    Function(String),
    /// From the end of the first function to the beginning of the second, in one task:
    /// `mem_hotplug_begin..mem_hotplug_done`.
    Between(String, String),
}

impl CriticalSection {
    /// The functions that must be traced for the section.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Function(name) => (name, None),
            Self::Between(first, second) => (first, Some(second)),
        };
        std::iter::once(first).chain(second).map(String::as_str)
    }
}

impl fmt::Display for CriticalSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(name) => f.pad(name),
            Self::Between(first, last) => f.pad(&format!("{first}..{last}")),
        }
    }
}

impl FromStr for CriticalSection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("..") {
            Some((first, last)) if is_name(first) && is_name(last) && first != last => {
                Ok(Self::Between(first.to_owned(), last.to_owned()))
            }
            None if is_name(text) => Ok(Self::Function(text.to_owned())),
            _ => Err(format!(
                "`{text}` is neither a function nor a section between two; write \"offline_pages\" or \
                 \"mem_hotplug_begin..mem_hotplug_done\""
            )),
        }
    }
}

impl From<CriticalSection> for String {
    fn from(critical: CriticalSection) -> Self {
        critical.to_string()
    }
}

impl TryFrom<String> for CriticalSection {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl OverlapSpec {
    /// All sections to trace: those of `functions`, and those of the pairs.
    pub fn traced(&self) -> Vec<CriticalSection> {
        let mut all: Vec<CriticalSection> = Vec::new();
        for one in self.functions.iter().chain(self.race.iter().flatten()) {
            if !all.contains(one) {
                all.push(one.clone());
            }
        }
        all
    }

    /// All functions that must be traced, each once.
    pub fn functions(&self) -> Vec<String> {
        let traced = self.traced();
        let mut all: Vec<String> =
            traced.iter().flat_map(CriticalSection::functions).map(str::to_owned).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The fault of the table, and the help.
    pub(super) fn wrong(&self) -> Option<(String, &'static str)> {
        if self.traced().is_empty() {
            return Some(("nothing is traced".into(), "functions = [\"offline_pages\", \"_cpu_up\"]"));
        }
        if self.trials == Some(0) {
            return Some(("without trials there is no overlap".into(), "trials = 5"));
        }
        let sorted = |[a, b]: &[CriticalSection; 2]| (a.clone().min(b.clone()), a.clone().max(b.clone()));
        let mut pairs: Vec<(CriticalSection, CriticalSection)> = self.race.iter().map(sorted).collect();
        pairs.sort();
        if let Some(twice) = pairs.windows(2).find(|both| both[0] == both[1]) {
            return Some((
                format!("the pair of {} and {} is named twice", twice[0].0, twice[0].1),
                "name the pair once",
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{SAMPLE as SCENARIO, Scenario};

    fn parse(overlap: &str) -> crate::Result<Scenario> {
        Scenario::parse("t.toml", &format!("{}\n[overlap]\n{overlap}\n", SCENARIO.1))
    }

    #[test]
    fn what_is_not_named_is_the_usual_and_what_races_is_traced_too() {
        let scenario = parse("race = [[\"offline_pages\", \"_cpu_up\"], [\"a..b\", \"c\"]]").unwrap();
        let racing = scenario.overlap.as_ref().unwrap();
        assert_eq!(racing.functions.len(), DEFAULT.len());
        let all = racing.traced();
        assert_eq!(all.len(), DEFAULT.len() + 2);
        assert_eq!(all[DEFAULT.len()].to_string(), "a..b");
        assert!(
            ["a", "b", "c", "mem_hotplug_done"]
                .iter()
                .all(|name| racing.functions().contains(&(*name).into()))
        );
        let again = Scenario::parse("t.toml", &scenario.to_toml()).unwrap();
        assert_eq!(again.overlap, scenario.overlap);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (overlap, said) in [
            ("functions = []", "nothing is traced"),
            ("functions = [\"offline pages\"]", "`offline pages` is neither a function"),
            ("functions = [\"a..a\"]", "`a..a` is neither a function"),
            ("trials = 0", "without trials there is no overlap"),
            ("race = [[\"a\", \"b\"], [\"b\", \"a\"]]", "the pair of a and b is named twice"),
            ("race = [[\"a\"]]", "array"),
            ("pairs = []", "pairs"),
        ] {
            let error = parse(overlap).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}

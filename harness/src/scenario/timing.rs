//! The metrics to time, and the floors below which a change does not matter: `[latency]` of a
//! scenario.

use std::fmt;
use std::str::FromStr;

use hotplug_protocol::Load;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::concurrency::CriticalSection;
use super::load;

/// The metrics to time, and how they are timed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Kernel functions, or spans `first..last` from the beginning of one function to the end of
    /// another in one task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
    /// Parts of operations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Span>,
    /// Lock classes, as `/proc/lock_stat` names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<String>,
    /// Boots of each kernel. Absent: as many as the clock needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boots: Option<u32>,
    /// Trials of each boot.
    #[serde(default = "trials")]
    pub trials: u32,
    /// The relative floor, in per cent: a smaller change does not matter. Absent: what the clock
    /// can resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_percent: Option<f64>,
    /// The absolute floor, in microseconds: a smaller change does not matter. Absent: what the
    /// clock can resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_us: Option<f64>,
    /// Ordinary work that runs meanwhile. Each of its loops is timed.
    #[serde(default, skip_serializing, deserialize_with = "load::victims")]
    pub victims: Vec<Victim>,
}

fn trials() -> u32 {
    2
}

/// Ordinary work that suffers from hotplug.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Victim {
    /// The victim's name. Without a name of its own it is the kind of the load.
    pub name: String,
    /// The load, which runs in one process.
    pub load: Load,
}

/// A metric: one figure of each trial, or several, that the verdict judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric<'a> {
    /// The duration of a function, or of a span from one function to another.
    Function(&'a str),
    /// The duration of a part of an operation.
    Phase(&'a Span),
    /// The longest loop of a victim.
    Longest(&'a str),
    /// The average hold time of a lock.
    Held(&'a str),
    /// The sum of all waits for a lock in a trial.
    Waited(&'a str),
}

impl fmt::Display for Metric<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(name) => f.write_str(name),
            Self::Phase(part) => part.fmt(f),
            Self::Longest(victim) => write!(f, "{victim}: longest"),
            Self::Held(lock) => write!(f, "{lock}: held"),
            Self::Waited(lock) => write!(f, "{lock}: waited"),
        }
    }
}

/// A point in the course of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mark {
    /// The request is sent. This mark and those up to `Ended` are by the host's clock.
    Asked,
    /// QEMU, or the agent, has accepted it.
    Accepted,
    /// The guest's first response has arrived: a uevent for a plug, `_OST` for an unplug.
    Told,
    /// The guest's report has arrived that the first block, or the CPU, is online.
    ToldOnline,
    /// The guest's report has arrived that the first block, or the CPU, is offline.
    ToldOffline,
    /// QEMU has sent `DEVICE_DELETED`.
    Deleted,
    /// The operation has ended.
    Ended,
    /// The firmware's event is there (`acpi_hotplug_schedule()`). This mark and those after it are
    /// by the guest's clock.
    Delivered,
    /// The driver starts (`acpi_memory_device_add()`, `acpi_processor_add()`).
    Driver,
    /// The memory blocks, or the CPU, are in sysfs (`create_memory_block_devices()`,
    /// `arch_register_cpu()`).
    Registered,
    /// The last block, or the CPU, is online (`online_pages()`, `_cpu_up()`).
    Online,
    /// A process that waits for uevents has received the event. `MemTotal` and the mask of online
    /// CPUs are up to date before it (`online_pages()` in `mm/memory_hotplug.c`, `device_online()`
    /// in `drivers/base/core.c`).
    Visible,
    /// The first block, or the CPU, begins to go offline (`offline_pages()`, `_cpu_down()`).
    OfflineBegun,
    /// The last block, or the CPU, is offline.
    OfflineDone,
    /// The driver has released the device (`acpi_memory_device_remove()`,
    /// `acpi_processor_remove()`, `acpi_processor_post_eject()`).
    Removed,
    /// The kernel has requested the ejection from the firmware (`acpi_evaluate_ej0()`).
    Ejected,
}

/// The clock that times a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClockSource {
    /// The host's monotonic clock.
    Host,
    /// The guest's `CLOCK_MONOTONIC`.
    Guest,
}

impl Mark {
    /// All of them, in their order within an operation.
    pub const ALL: [Self; 16] = [
        Self::Asked,
        Self::Accepted,
        Self::Told,
        Self::ToldOnline,
        Self::ToldOffline,
        Self::Deleted,
        Self::Ended,
        Self::Delivered,
        Self::Driver,
        Self::Registered,
        Self::Online,
        Self::Visible,
        Self::OfflineBegun,
        Self::OfflineDone,
        Self::Removed,
        Self::Ejected,
    ];

    /// The clock that times this mark.
    pub fn teller(self) -> ClockSource {
        if self < Self::Delivered { ClockSource::Host } else { ClockSource::Guest }
    }

    /// The mark's name in a scenario file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Accepted => "accepted",
            Self::Told => "told",
            Self::ToldOnline => "told-online",
            Self::ToldOffline => "told-offline",
            Self::Deleted => "deleted",
            Self::Ended => "ended",
            Self::Delivered => "delivered",
            Self::Driver => "driver",
            Self::Registered => "registered",
            Self::Online => "online",
            Self::Visible => "visible",
            Self::OfflineBegun => "offline-begun",
            Self::OfflineDone => "offline-done",
            Self::Removed => "removed",
            Self::Ejected => "ejected",
        }
    }
}

/// A part of an operation, timed by one clock: `plug dimm: driver..online`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    /// The operation without its number, such as `plug dimm`.
    pub operation: String,
    /// The mark at which the part begins.
    pub first: Mark,
    /// The mark at which the part ends.
    pub last: Mark,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}..{}", self.operation, self.first.word(), self.last.word())
    }
}

impl From<Span> for String {
    fn from(part: Span) -> Self {
        part.to_string()
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a part of an operation; write it as \"plug dimm: driver..online\"");
        let (operation, marks) = text.split_once(": ").ok_or_else(wrong)?;
        let (first, last) = marks.split_once("..").ok_or_else(wrong)?;
        let mark = |word: &str| {
            Mark::ALL.into_iter().find(|mark| mark.word() == word).ok_or_else(|| {
                let all = Mark::ALL.map(Mark::word).join(", ");
                format!("`{text}`: an operation has no mark `{word}`; the marks are {all}")
            })
        };
        let (first, last) = (mark(first)?, mark(last)?);
        if first.teller() != last.teller() {
            return Err(format!(
                "`{text}`: `{}` and `{}` are timed by different clocks",
                first.word(),
                last.word()
            ));
        }
        if operation.is_empty() || first >= last {
            return Err(wrong());
        }
        Ok(Self { operation: operation.to_owned(), first, last })
    }
}

impl Timing {
    /// The relative floor, in per cent: that of the scenario, or else what the clock can resolve
    /// with a few boots.
    pub fn floor_percent(&self, clock: Clock) -> f64 {
        self.floor_percent.unwrap_or(match clock {
            Clock::Exact => 0.5,
            Clock::Wall => 5.0,
        })
    }

    /// The absolute floor, in microseconds.
    pub fn floor_us(&self, clock: Clock) -> f64 {
        self.floor_us.unwrap_or(match clock {
            Clock::Exact => 0.5,
            Clock::Wall => 20.0,
        })
    }

    /// The metrics, in the order in which they are shown.
    pub fn metrics(&self) -> Vec<Metric<'_>> {
        let functions = self.functions.iter().map(|name| Metric::Function(name));
        let phases = self.phases.iter().map(Metric::Phase);
        let victims = self.victims.iter().map(|victim| Metric::Longest(&victim.name));
        let locks = self.locks.iter().flat_map(|lock| [Metric::Held(lock), Metric::Waited(lock)]);
        functions.chain(phases).chain(victims).chain(locks).collect()
    }

    /// The functions that must be traced for the metrics.
    pub fn traced(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.functions.iter().flat_map(|metric| metric.split("..")).map(str::to_owned).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The fault of the table, and the help.
    pub(super) fn wrong(&self) -> Option<(String, &'static str)> {
        let metrics = self.metrics();
        if metrics.is_empty() {
            return Some(("nothing is timed".into(), "functions = [\"offline_pages\", \"online_pages\"]"));
        }
        if let Some(odd) = self.functions.iter().find(|metric| metric.parse::<CriticalSection>().is_err()) {
            let what = format!("`{odd}` is neither a function nor a span of two");
            return Some((what, "write \"offline_pages\" or \"mem_hotplug_begin..mem_hotplug_done\""));
        }
        if let Some(odd) = self.locks.iter().find(|lock| lock.trim().is_empty() || lock.contains(['\n', ':']))
        {
            let what = format!("`{}` is not a lock class", odd.escape_debug());
            return Some((
                what,
                "write \"mem_hotplug_lock\", or \"cpu_hotplug_lock-R\" for its readers, as /proc/lock_stat does",
            ));
        }
        let names: Vec<String> = metrics.iter().map(ToString::to_string).collect();
        if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Some((format!("`{twice}` is timed twice"), "name it once"));
        }
        if self.boots.is_some_and(|boots| boots < 2) {
            return Some(("the scatter of boots needs two or more".into(), "boots = 5 or more"));
        }
        if self.trials == 0 {
            return Some(("without trials nothing is timed".into(), "trials = 2"));
        }
        let floors = [self.floor_percent.unwrap_or(1.0), self.floor_us.unwrap_or(1.0)];
        let sound = |floor: &f64| floor.is_finite() && *floor >= 0.0;
        if !floors.iter().all(sound) || floors.iter().all(|floor| *floor == 0.0) {
            return Some(("without a floor every difference would matter".into(), "floor_percent = 2"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{SAMPLE, Scenario};

    fn parse(latency: &str) -> crate::Result<Scenario> {
        Scenario::parse("t.toml", &format!("{}\n[latency]\n{latency}\n", SAMPLE.1))
    }

    #[test]
    fn each_function_is_traced_once() {
        let timing = parse("functions = [\"a..b\", \"b\", \"c\"]").unwrap().latency.unwrap();
        assert_eq!(timing.traced(), ["a", "b", "c"]);
        assert_eq!((timing.trials, timing.boots), (2, None));
        assert!(timing.floor_percent(Clock::Exact) < timing.floor_percent(Clock::Wall));
    }

    #[test]
    fn every_kind_of_metric_has_a_name() {
        let all = "functions = [\"a..b\"]\nphases = [\"plug dimm: driver..online\"]\nlocks = [\"m-W\"]\n\
            victims = [{ kind = \"fork\", rate = 100 }, { name = \"flip\", kind = \"write\", path = \"/p\", data = [\"1\"] }]";
        let scenario = parse(all).unwrap();
        let timing = scenario.latency.as_ref().unwrap();
        let names: Vec<String> = timing.metrics().iter().map(ToString::to_string).collect();
        let expected = [
            "a..b",
            "plug dimm: driver..online",
            "fork: longest",
            "flip: longest",
            "m-W: held",
            "m-W: waited",
        ];
        assert_eq!(names, expected);
        assert_eq!(Scenario::parse("t.toml", &scenario.to_toml()).unwrap(), scenario);
    }

    #[test]
    fn marks_are_written_as_they_are_read() {
        for mark in Mark::ALL {
            assert_eq!(serde_json::to_value(mark).unwrap(), mark.word());
        }
    }

    #[test]
    fn what_cannot_be_timed_is_refused() {
        for (latency, what) in [
            ("functions = []", "nothing is timed"),
            ("functions = [\"a b\"]", "`a b` is neither a function nor a span of two"),
            ("functions = [\"a..\"]", "`a..` is neither"),
            ("functions = [\"a..a\"]", "`a..a` is neither"),
            ("functions = [\"a\", \"b\", \"a\"]", "`a` is timed twice"),
            ("phases = [\"plug dimm\"]", "not a part of an operation"),
            ("phases = [\"plug dimm: driver..seen\"]", "has no mark `seen`; the marks are asked, accepted"),
            (
                "phases = [\"plug dimm: accepted..online\"]",
                "`accepted` and `online` are timed by different clocks",
            ),
            ("phases = [\"plug dimm: online..driver\"]", "not a part of an operation"),
            ("locks = [\"\"]", "`` is not a lock class"),
            ("victims = [{ kind = \"fork\" }, { kind = \"fork\" }]", "`fork: longest` is timed twice"),
            ("victims = [{ kind = \"fork\", workers = 2 }]", "a victim has one worker"),
            ("functions = [\"a\"]\nboots = 1", "the scatter of boots needs two or more"),
            ("functions = [\"a\"]\ntrials = 0", "without trials nothing is timed"),
            ("functions = [\"a\"]\nfloor_percent = -1", "without a floor"),
            ("functions = [\"a\"]\nfloor_percent = 0\nfloor_us = 0", "without a floor"),
            ("functions = [\"a\"]\nfloor_us = inf", "without a floor"),
            ("functions = [\"a\"]\nsamples = 3", "unknown field `samples`"),
        ] {
            let error = parse(latency).unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(said.contains(what), "{latency}: {said}");
        }
    }
}

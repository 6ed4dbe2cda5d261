//! The marks of an operation in the guest, from the traced calls and from the uevents that a
//! process received, all by the guest's `CLOCK_MONOTONIC`.
//!
//! Hotplug of memory and of CPUs both end in `acpi_device_hotplug()` (drivers/acpi/scan.c), on an
//! ordered workqueue and under `device_hotplug_lock`. So everything that goes online or offline
//! between its start and its end belongs to it, in whatever task.

use serde::{Deserialize, Serialize};

use super::trace::Call;
use crate::arch::PhaseFunctions;
use crate::scenario::{Mark, Span};

/// The functions that are traced for the marks of [`courses`].
pub fn traced(of: &PhaseFunctions) -> Vec<&'static str> {
    let firmware = [of.delivered, of.hotplug, of.memory_added, of.memory_removed, of.cpu_added];
    let core = ["create_memory_block_devices", of.cpu_registered, of.ejected];
    let common = ["online_pages", "offline_pages", "_cpu_up", "_cpu_down"];
    firmware.into_iter().chain(of.cpu_removed.iter().copied()).chain(core).chain(common).collect()
}

/// The marks of an operation by one clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// The operation without its number, such as `plug dimm`.
    pub operation: String,
    /// The time of each mark in microseconds, in the order of time.
    pub marks: Vec<(Mark, f64)>,
}

impl Course {
    /// The duration of this part, in nanoseconds; `None` for another operation, or if a mark is
    /// missing.
    pub fn took(&self, part: &Span) -> Option<f64> {
        let at = |wanted: Mark| self.marks.iter().find(|(mark, _)| *mark == wanted).map(|(_, at)| *at);
        let took = (at(part.last)? - at(part.first)?) * 1e3;
        (self.operation == part.operation && took >= 0.0).then_some(took)
    }

    /// The parts between consecutive marks, and from the first to the last.
    pub fn parts(&self) -> Vec<Span> {
        let part = |first: Mark, last: Mark| Span { operation: self.operation.clone(), first, last };
        let mut all: Vec<Span> = self.marks.windows(2).map(|both| part(both[0].0, both[1].0)).collect();
        if let ([(first, _), _, .., (last, _)], true) = (self.marks.as_slice(), all.len() > 1) {
            all.push(part(*first, *last));
        }
        all
    }
}

/// A uevent of a memory block or a CPU that came online.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CameOnline {
    /// When a process received it, in microseconds.
    pub at: f64,
    /// Whether it is a CPU. Otherwise it is a memory block.
    pub is_cpu: bool,
}

/// The courses of all devices that were plugged or unplugged by ACPI. A request that the guest
/// refused has none.
pub fn courses(names: &PhaseFunctions, calls: &[Call], online: &[CameOnline]) -> Vec<Course> {
    let mut calls: Vec<&Call> = calls.iter().collect();
    calls.sort_by(|a, b| a.began_us.total_cmp(&b.began_us));
    let of = |name: &'static str| calls.iter().copied().filter(move |call| call.function == name);
    let mut delivered = of(names.delivered);
    let hotplugs: Vec<&Call> = of(names.hotplug).collect();
    let mut all = Vec::new();
    for (at, hotplug) in hotplugs.iter().enumerate() {
        let (begin, end) = (hotplug.began_us, hotplug.ended_us());
        let next = hotplugs.get(at + 1).map_or(f64::INFINITY, |next| next.began_us);
        let within =
            |name: &'static str| of(name).filter(move |call| begin <= call.began_us && call.began_us <= end);
        // The workqueue is ordered, so each of these calls is the work of one that was scheduled.
        let delivered = delivered.next().map(|call| call.began_us).filter(|at| *at <= begin);
        let first = |name: &'static str| within(name).next().map(|call| call.began_us);
        let last = |name: &'static str| within(name).next_back().map(Call::ended_us);
        let mut marks = vec![(Mark::Delivered, delivered)];
        let operation = if let Some(driver) = first(names.memory_added) {
            let blocks = within("online_pages").count();
            let heard = online.iter().filter(|event| !event.is_cpu && event.at >= driver && event.at < next);
            marks.extend([
                (Mark::Driver, Some(driver)),
                (Mark::Registered, last("create_memory_block_devices")),
                (Mark::Online, last("online_pages")),
                (Mark::Visible, blocks.checked_sub(1).and_then(|nth| heard.map(|event| event.at).nth(nth))),
            ]);
            "plug dimm"
        } else if let Some(driver) = first(names.cpu_added) {
            // The CPU is brought online later, through sysfs.
            let up = of("_cpu_up").find(|call| driver <= call.began_us && call.began_us < next);
            let up = up.map(Call::ended_us);
            let heard = online.iter().find(|event| event.is_cpu && up.is_some_and(|up| event.at >= up));
            marks.extend([
                (Mark::Driver, Some(driver)),
                (Mark::Registered, last(names.cpu_registered)),
                (Mark::Online, up),
                (Mark::Visible, heard.map(|event| event.at)),
            ]);
            "plug cpu"
        } else {
            let cpu_removed = names.cpu_removed.iter().copied().find_map(last);
            let (offline, removed, operation) = match (last(names.memory_removed), cpu_removed) {
                (Some(removed), _) => ("offline_pages", removed, "unplug dimm"),
                (None, Some(removed)) => ("_cpu_down", removed, "unplug cpu"),
                (None, None) => continue,
            };
            marks.extend([
                (Mark::OfflineBegun, first(offline)),
                (Mark::OfflineDone, last(offline)),
                (Mark::Removed, Some(removed)),
                (Mark::Ejected, last(names.ejected)),
            ]);
            operation
        };
        let mut marks: Vec<(Mark, f64)> =
            marks.into_iter().filter_map(|(mark, at)| Some((mark, at?))).collect();
        // The order of removal and ejection depends on the kernel.
        marks.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.push(Course { operation: operation.to_owned(), marks });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Architecture;

    fn courses(calls: &[Call], online: &[CameOnline]) -> Vec<Course> {
        super::courses(Architecture::X86.table().phases.unwrap(), calls, online)
    }

    fn call(function: &str, task: u32, began_us: f64, us: f64) -> Call {
        Call { function: function.into(), task, began_us, nanoseconds: us * 1e3 }
    }

    fn marks(course: &Course) -> Vec<(&str, f64)> {
        course.marks.iter().map(|(mark, at)| (mark.word(), *at)).collect()
    }

    #[test]
    fn a_dimm_of_two_blocks_comes_and_goes() {
        let calls = [
            call("acpi_hotplug_schedule", 5, 100.0, 2.0),
            call("acpi_device_hotplug", 7, 110.0, 900.0),
            call("acpi_memory_device_add", 7, 120.0, 880.0),
            call("create_memory_block_devices", 7, 200.0, 50.0),
            call("online_pages", 7, 300.0, 100.0),
            call("online_pages", 7, 500.0, 100.0),
            // Its request arrived before the first plug had ended.
            call("acpi_hotplug_schedule", 5, 700.0, 2.0),
            // Not part of the plug, but later.
            call("online_pages", 9, 1100.0, 10.0),
            call("acpi_device_hotplug", 7, 2000.0, 1000.0),
            call("offline_pages", 7, 2100.0, 100.0),
            call("offline_pages", 7, 2300.0, 100.0),
            call("acpi_memory_device_remove", 7, 2500.0, 300.0),
            call("acpi_evaluate_ej0", 7, 2900.0, 50.0),
        ];
        let block = |at| CameOnline { at, is_cpu: false };
        let online = [block(430.0), CameOnline { at: 610.0, is_cpu: true }, block(650.0), block(1150.0)];
        let all = courses(&calls, &online);
        let [plug, unplug] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(plug.operation, "plug dimm");
        let expected = [
            ("delivered", 100.0),
            ("driver", 120.0),
            ("registered", 250.0),
            ("online", 600.0),
            ("visible", 650.0),
        ];
        assert_eq!(marks(plug), expected);
        assert_eq!(unplug.operation, "unplug dimm");
        let expected = [
            ("delivered", 700.0),
            ("offline-begun", 2100.0),
            ("offline-done", 2400.0),
            ("removed", 2800.0),
            ("ejected", 2950.0),
        ];
        assert_eq!(marks(unplug), expected);
        let part: Span = "plug dimm: driver..online".parse().unwrap();
        assert_eq!((plug.took(&part), unplug.took(&part)), (Some(480_000.0), None));
        let parts: Vec<String> = unplug.parts().iter().map(ToString::to_string).collect();
        assert_eq!(parts.len(), 5, "{parts:?}");
        assert_eq!(parts[4], "unplug dimm: delivered..ejected");
    }

    #[test]
    fn a_cpu_is_brought_online_by_somebody_else_and_may_be_ejected_first() {
        let calls = [
            call("acpi_hotplug_schedule", 5, 100.0, 2.0),
            call("acpi_device_hotplug", 7, 110.0, 90.0),
            call("acpi_processor_add", 7, 120.0, 50.0),
            call("arch_register_cpu", 7, 130.0, 20.0),
            call("_cpu_up", 31, 400.0, 1000.0),
            call("acpi_hotplug_schedule", 5, 2000.0, 2.0),
            call("acpi_device_hotplug", 7, 2010.0, 900.0),
            call("_cpu_down", 44, 2050.0, 500.0),
            call("acpi_evaluate_ej0", 7, 2600.0, 20.0),
            call("acpi_processor_post_eject", 7, 2700.0, 100.0),
        ];
        let all = courses(&calls, &[CameOnline { at: 1450.0, is_cpu: true }]);
        let [plug, unplug] = all.as_slice() else { panic!("{all:?}") };
        let expected = [
            ("delivered", 100.0),
            ("driver", 120.0),
            ("registered", 150.0),
            ("online", 1400.0),
            ("visible", 1450.0),
        ];
        assert_eq!((plug.operation.as_str(), marks(plug)), ("plug cpu", expected.to_vec()));
        let expected = [
            ("delivered", 2000.0),
            ("offline-begun", 2050.0),
            ("offline-done", 2550.0),
            ("ejected", 2620.0),
            ("removed", 2800.0),
        ];
        assert_eq!((unplug.operation.as_str(), marks(unplug)), ("unplug cpu", expected.to_vec()));
    }

    #[test]
    fn what_was_refused_has_no_course() {
        let calls = [call("acpi_device_hotplug", 7, 110.0, 900.0), call("offline_pages", 7, 200.0, 100.0)];
        assert_eq!(courses(&calls, &[]), []);
        assert_eq!(courses(&[], &[]), []);
    }
}

//! The callbacks that ran in a guest, from its trace.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The callbacks that ran in one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// The number of calls of each notifier; null if the kernel has no trace event for them.
    pub notifiers: Option<BTreeMap<String, u64>>,
    /// The callbacks of each CPU hotplug state, by its number.
    pub steps: BTreeMap<u32, StepRuns>,
}

/// The callbacks of one CPU hotplug state that ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRuns {
    /// The number of calls of each function.
    pub calls: BTreeMap<String, u64>,
    /// Of these, the calls on the way back after a callback had failed.
    pub rollbacks: BTreeMap<String, u64>,
    /// The number of calls that failed.
    pub failures: u64,
}

/// The state of one CPU while it comes or goes.
#[derive(Debug, Default)]
struct Course {
    /// The state that it goes to.
    target: i64,
    /// A callback has failed, and this is the state that the CPU was to reach.
    failed: Option<i64>,
}

/// Reads the trace events `cpuhp_enter`, `cpuhp_multi_enter`, `cpuhp_exit` and `notifier_run`
/// (include/trace/events/cpuhp.h, notifier.h). Other lines are ignored. `traces_notifiers` says
/// whether the kernel has the last one.
pub fn runs(trace: &str, traces_notifiers: bool) -> Runs {
    let mut all = Runs { notifiers: traces_notifiers.then(BTreeMap::new), steps: BTreeMap::new() };
    let mut courses: BTreeMap<u32, Course> = BTreeMap::new();
    for line in trace.lines() {
        let Some((event, rest)) = event(line) else { continue };
        match event {
            "notifier_run" => {
                if let Some(notifiers) = &mut all.notifiers {
                    *notifiers.entry(rest.trim().to_owned()).or_default() += 1;
                }
            }
            "cpuhp_enter" | "cpuhp_multi_enter" => {
                let function = rest.rsplit_once('(').map(|(_, name)| name.trim_end_matches(')').trim());
                let (Some(cpu), Some(target), Some(step), Some(function)) =
                    (number(rest, "cpu:"), number(rest, "target:"), number(rest, "step:"), function)
                else {
                    continue;
                };
                let course = courses.entry(u32::try_from(cpu).unwrap_or(0)).or_default();
                course.target = target;
                // The way back has another target. A later operation may have the old one again.
                if course.failed == Some(target) {
                    course.failed = None;
                }
                let step = all.steps.entry(u32::try_from(step).unwrap_or(0)).or_default();
                *step.calls.entry(function.to_owned()).or_default() += 1;
                if course.failed.is_some() {
                    *step.rollbacks.entry(function.to_owned()).or_default() += 1;
                }
            }
            "cpuhp_exit" => {
                let (Some(cpu), Some(step), Some(result)) =
                    (number(rest, "cpu:"), number(rest, "step:"), number(rest, "ret:"))
                else {
                    continue;
                };
                if result < 0 {
                    all.steps.entry(u32::try_from(step).unwrap_or(0)).or_default().failures += 1;
                    let course = courses.entry(u32::try_from(cpu).unwrap_or(0)).or_default();
                    course.failed.get_or_insert(course.target);
                }
            }
            _ => {}
        }
    }
    all
}

/// The event of a line of the trace, and its fields: `task-12  [001] d..1.  3.456789: event:
/// fields` (Documentation/trace/ftrace.rst).
fn event(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once("] ")?;
    let (_, rest) = rest.split_once(": ")?;
    rest.split_once(": ")
}

/// The number after a label.
fn number(fields: &str, label: &str) -> Option<i64> {
    let (_, rest) = fields.split_once(label)?;
    let text = rest.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
     hotplug-agent-1       [000] .....    12.500000: cpuhp_enter: cpu: 0001 target: 238 step:   7 (page_alloc_cpu_online)
     hotplug-agent-1       [000] .....    12.500100: cpuhp_exit:  cpu: 0001  state:   7 step:   7 ret: 0
           cpuhp/1-18      [001] .....    12.500200: cpuhp_multi_enter: cpu: 0001 target: 238 step:  60 (virtnet_cpu_online)
           cpuhp/1-18      [001] .....    12.500300: cpuhp_exit:  cpu: 0001  state:  60 step:  60 ret: -12
     hotplug-agent-1       [000] .....    12.500400: cpuhp_enter: cpu: 0001 target:   0 step:   7 (page_alloc_cpu_dead)
     hotplug-agent-1       [000] .....    12.500500: cpuhp_enter: cpu: 0001 target: 238 step:   7 (page_alloc_cpu_online)
    kworker/u4:2-40        [000] .....    13.000000: notifier_run: slab_memory_callback
    kworker/u4:2-40        [000] .....    13.000001: notifier_run: slab_memory_callback
";

    #[test]
    fn calls_failures_and_the_way_back_are_counted() {
        let all = runs(TRACE, true);
        assert_eq!(all.notifiers.unwrap(), BTreeMap::from([("slab_memory_callback".to_owned(), 2)]));
        let seven = &all.steps[&7];
        assert_eq!(seven.calls["page_alloc_cpu_online"], 2);
        assert_eq!(seven.rollbacks, BTreeMap::from([("page_alloc_cpu_dead".to_owned(), 1)]));
        assert_eq!((all.steps[&60].failures, all.steps[&60].calls["virtnet_cpu_online"]), (1, 1));
        // Without the event, the absence of its lines means nothing.
        assert_eq!(runs(TRACE, false).notifiers, None);
        assert_eq!(runs("no trace\n[ : : : cpu: x", true).steps, BTreeMap::new());
    }
}

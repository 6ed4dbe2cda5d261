//! The callbacks that ran in a guest, from its trace.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The callbacks that ran in one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// The notifiers that ran.
    pub notifiers: NotifierRuns,
    /// The callbacks of each CPU hotplug state, by its number.
    pub steps: BTreeMap<u32, StepRuns>,
    /// The number of calls of each callback that has a kprobe because it runs on a CPU that is not
    /// online.
    #[serde(default)]
    pub functions: BTreeMap<String, u64>,
}

/// The notifiers that ran in one guest, as far as its kernel can trace them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifierRuns {
    /// It cannot.
    #[default]
    Untraced,
    /// By the event `notifier_run`: the number of calls of each function.
    Functions(BTreeMap<String, u64>),
    /// By kprobes.
    Blocks {
        /// The addresses of the functions that have a kprobe.
        probed: BTreeSet<u64>,
        /// The number of calls for each transition, by its number, of each notifier, by the address
        /// of its block.
        calls: BTreeMap<u64, BTreeMap<u64, u64>>,
    },
}

/// What a guest's trace records of callbacks beside the events of CPU hotplug.
#[derive(Debug, Clone, Default)]
pub struct TraceSetup {
    /// Whether it has the event `notifier_run`.
    pub notifier_event: bool,
    /// The addresses of the notifiers' functions that have a kprobe.
    pub notifiers: BTreeSet<u64>,
    /// The callbacks that have a kprobe of their own, by its number.
    pub functions: BTreeMap<usize, String>,
}

/// The group of the kprobes.
pub const PROBE_GROUP: &str = "hotplug";

/// The kprobe of a notifier's function at `place`: its definition for `kprobe_events`
/// (Documentation/trace/kprobetrace.rst).
pub fn notifier_probe(address: u64, place: &str) -> String {
    format!("p:{PROBE_GROUP}/{NOTIFIER}{address:x} {place} block=$arg1:x64 action=$arg2:u64")
}

/// The kprobe of another callback, by a number of its own.
pub fn function_probe(number: usize, place: &str) -> String {
    format!("p:{PROBE_GROUP}/{FUNCTION}{number} {place}")
}

/// The beginnings of the names of the two kinds of kprobes.
const NOTIFIER: &str = "notifier_";
const FUNCTION: &str = "callback_";

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

/// The way of one CPU that comes or goes.
#[derive(Debug, Clone, Copy)]
struct Course {
    /// The state that it goes to.
    target: i64,
    /// The last state whose callback ran.
    last: u32,
    /// Whether a callback returned an error.
    has_failed: bool,
    /// Whether it goes back, because a callback has failed.
    is_rollback: bool,
}

/// The first and the last state with a callback that left a trace.
fn ends(trace: &str) -> (u32, u32) {
    let steps = trace.lines().filter_map(event).filter(|(event, _)| event.ends_with("_enter"));
    let steps = steps.filter_map(|(_, rest)| u32::try_from(number(rest, "step:")?).ok());
    steps.fold((u32::MAX, 0), |(first, last), step| (first.min(step), last.max(step)))
}

/// Reads the trace events `cpuhp_enter`, `cpuhp_multi_enter`, `cpuhp_exit` and `notifier_run`
/// (include/trace/events/cpuhp.h, notifier.h), and those of the kprobes. Other lines are ignored.
pub fn runs(trace: &str, traced: TraceSetup) -> Runs {
    let TraceSetup { notifier_event, notifiers, functions } = traced;
    let mut all = Runs {
        notifiers: if !notifiers.is_empty() {
            NotifierRuns::Blocks { probed: notifiers, calls: BTreeMap::new() }
        } else if notifier_event {
            NotifierRuns::Functions(BTreeMap::new())
        } else {
            NotifierRuns::Untraced
        },
        steps: BTreeMap::new(),
        functions: functions.values().map(|name| (name.clone(), 0)).collect(),
    };
    let (first, last) = ends(trace);
    let mut courses: BTreeMap<u32, Course> = BTreeMap::new();
    for line in trace.lines() {
        let Some((event, rest)) = event(line) else { continue };
        match event {
            "notifier_run" => {
                if let NotifierRuns::Functions(calls) = &mut all.notifiers {
                    *calls.entry(rest.trim().to_owned()).or_default() += 1;
                }
            }
            "cpuhp_enter" | "cpuhp_multi_enter" => {
                let function = rest.rsplit_once('(').map(|(_, name)| name.trim_end_matches(')').trim());
                let (Some(cpu), Some(target), Some(step), Some(function)) =
                    (number(rest, "cpu:"), number(rest, "target:"), number(rest, "step:"), function)
                else {
                    continue;
                };
                let (cpu, step) = (u32::try_from(cpu).unwrap_or(0), u32::try_from(step).unwrap_or(0));
                // The way back has another target (`cpuhp_reset_state`), and begins before the way
                // has come to its end. A failure that is made on purpose leaves no trace itself.
                let is_rollback = courses.get(&cpu).is_some_and(|before| {
                    if before.target == target {
                        before.is_rollback
                    } else {
                        before.has_failed || ![first, last].contains(&before.last)
                    }
                });
                courses.insert(cpu, Course { target, last: step, has_failed: false, is_rollback });
                let step = all.steps.entry(step).or_default();
                *step.calls.entry(function.to_owned()).or_default() += 1;
                if is_rollback {
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
                    let course = u32::try_from(cpu).ok().and_then(|cpu| courses.get_mut(&cpu));
                    if let Some(course) = course {
                        course.has_failed = true;
                    }
                    all.steps.entry(u32::try_from(step).unwrap_or(0)).or_default().failures += 1;
                }
            }
            _ if event.starts_with(NOTIFIER) => {
                let block = rest
                    .split_once("block=0x")
                    .and_then(|(_, text)| u64::from_str_radix(text.split_whitespace().next()?, 16).ok());
                let action = number(rest, "action=").and_then(|action| u64::try_from(action).ok());
                if let (NotifierRuns::Blocks { calls, .. }, Some(block), Some(action)) =
                    (&mut all.notifiers, block, action)
                {
                    *calls.entry(block).or_default().entry(action).or_default() += 1;
                }
            }
            _ => {
                let function = event.strip_prefix(FUNCTION).and_then(|number| number.parse().ok());
                if let Some(name) = function.and_then(|number: usize| functions.get(&number)) {
                    *all.functions.entry(name.clone()).or_default() += 1;
                }
            }
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
        let by_event = || TraceSetup { notifier_event: true, ..TraceSetup::default() };
        let all = runs(TRACE, by_event());
        let calls = BTreeMap::from([("slab_memory_callback".to_owned(), 2)]);
        assert_eq!(all.notifiers, NotifierRuns::Functions(calls));
        let seven = &all.steps[&7];
        assert_eq!(seven.calls["page_alloc_cpu_online"], 2);
        assert_eq!(seven.rollbacks, BTreeMap::from([("page_alloc_cpu_dead".to_owned(), 1)]));
        assert_eq!((all.steps[&60].failures, all.steps[&60].calls["virtnet_cpu_online"]), (1, 1));
        // Without the event, the absence of its lines means nothing.
        assert_eq!(runs(TRACE, TraceSetup::default()).notifiers, NotifierRuns::Untraced);
        assert_eq!(runs("no trace\n[ : : : cpu: x", by_event()).steps, BTreeMap::new());
    }

    #[test]
    fn a_way_back_is_told_by_its_target() {
        // CPU 1 comes and goes whole; then it comes, and turns at state 40 without an error, as
        // after a failure that is made on purpose.
        let steps = [
            (238, 1),
            (238, 40),
            (238, 234),
            (0, 234),
            (0, 40),
            (0, 1),
            (238, 1),
            (238, 40),
            (0, 40),
            (0, 1),
            (238, 1),
        ];
        let lines = steps.map(|(target, step)| {
            format!(" a-1 [000] ..... 1.0: cpuhp_enter: cpu: 0001 target: {target} step: {step} (f{step})\n")
        });
        let all = runs(&lines.concat(), TraceSetup::default());
        let back = |step: u32| all.steps[&step].rollbacks.values().sum::<u64>();
        assert_eq!((back(1), back(40), back(234)), (1, 1, 0));
    }

    #[test]
    fn kprobes_show_each_notifier_and_its_transition() {
        let trace = "\
 kworker/u4:2-40 [000] d.... 13.0: notifier_ffffffff81234560: (ksm_memory_callback+0x0/0x110) block=0xffffffff82a01be0 action=2
 kworker/u4:2-40 [000] d.... 13.0: notifier_ffffffff81234560: (ksm_memory_callback+0x0/0x110) block=0xffffffff82a01be0 action=4
 kworker/u4:2-40 [000] d.... 13.0: notifier_ffffffff81234560: (ksm_memory_callback+0x0/0x110) block=zero action=4
 cpuhp/1-18      [001] d..1. 14.0: callback_3: (hrtimers_cpu_dying+0x0/0x80)
 cpuhp/1-18      [001] d..1. 14.0: callback_9: (other+0x0/0x80)
";
        let traced = TraceSetup {
            notifier_event: true,
            notifiers: BTreeSet::from([0xffff_ffff_8123_4560]),
            functions: BTreeMap::from([(3, "hrtimers_cpu_dying".into()), (4, "sched_cpu_starting".into())]),
        };
        let all = runs(trace, traced);
        let NotifierRuns::Blocks { probed, calls } = all.notifiers else { panic!("{all:?}") };
        assert_eq!(probed.len(), 1);
        assert_eq!(calls[&0xffff_ffff_82a0_1be0], BTreeMap::from([(2, 1), (4, 1)]));
        assert_eq!(all.functions["hrtimers_cpu_dying"], 1);
        assert_eq!(all.functions["sched_cpu_starting"], 0);
    }
}

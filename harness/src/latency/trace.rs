//! Parses the output of the function graph tracer (6.1 `kernel/trace/trace_functions_graph.c`) with
//! its options `funcgraph-abstime`, `funcgraph-proc` and `funcgraph-tail`: each call of the traced
//! functions, with its start and duration.
//!
//! ```text
//!    12.345678 |   1)  kworker-33   |               |  device_offline() {
//!    12.345690 |   1)  kworker-33   |     1.234 us  |    lock_device_hotplug();
//!    12.382345 |   1)  kworker-33   | # 36667.1 us  |  } /* device_offline */
//! ```
//!
//! A call without traced calls inside is one line. The duration of any other call is on the line of
//! its end. A task chooses its own name, which may contain anything, so lines are parsed from both
//! ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One call of a traced function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The function, without the compiler's suffix of a copy (`.part.0`).
    pub function: String,
    /// The number of the task.
    pub task: u32,
    /// Its start, in microseconds of the guest's trace clock.
    pub began_us: f64,
    /// Its duration including sleeps, in nanoseconds of the same clock.
    pub nanoseconds: f64,
}

impl Call {
    /// Its end, in microseconds of the guest's trace clock.
    pub fn ended_us(&self) -> f64 {
        self.began_us + self.nanoseconds / 1e3
    }
}

/// Times from the guest that are malformed or incomplete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest's {0}")]
pub struct MalformedTrace(String);

impl MalformedTrace {
    pub(super) fn new(what: &str, line: usize, why: &str) -> Self {
        Self(format!("{what}: line {line}: {why}"))
    }
}

/// The calls that ended while `text` was recorded, in the order of their ends. A call is left out
/// if its start or its end is missing because the trace began or ended in between.
pub fn calls(text: &str) -> Result<Vec<Call>, MalformedTrace> {
    let mut events = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let odd =
            |what: &str| MalformedTrace::new("trace", number + 1, &format!("{what}: {:?}", shortened(line)));
        if line.contains("[LOST ") {
            return Err(odd("the tracer lost events"));
        }
        if !line.starts_with('#') {
            events.extend(Event::parse(line).map_err(odd)?);
        }
    }
    Ok(in_order(&events))
}

/// One line of a call.
struct Event<'a> {
    /// The time stamp of the line, in microseconds.
    at_us: f64,
    task: u32,
    /// Needed because the idle task of every CPU has the number 0.
    cpu: u32,
    /// The kernel's name of the function, including suffixes such as `.part.0`.
    function: &'a str,
    kind: Kind,
}

enum Kind {
    Begin,
    End { nanoseconds: f64 },
    Leaf { nanoseconds: f64 },
}

impl<'a> Event<'a> {
    fn parse(line: &'a str) -> Result<Option<Self>, &'static str> {
        // There are lines without calls between tasks (`------` and `kworker-3 => agent-7`), and at
        // the entry and exit of interrupts.
        let mut columns = line.rsplitn(3, '|');
        let (Some(what), Some(duration), Some(who)) = (columns.next(), columns.next(), columns.next()) else {
            return Ok(None);
        };
        let what = what.trim();
        let (function, kind) = match nanoseconds(duration)? {
            None => match what.strip_suffix("() {") {
                Some(function) => (function, Kind::Begin),
                None => return Ok(None),
            },
            // The end of a call whose start is not in the trace.
            Some(_) if what == "}" => return Ok(None),
            Some(nanoseconds) => match what.strip_suffix("();") {
                Some(function) => (function, Kind::Leaf { nanoseconds }),
                None => match what.strip_prefix("} /* ").and_then(|rest| rest.strip_suffix(" */")) {
                    Some(function) => (function, Kind::End { nanoseconds }),
                    None => return Err("a duration without a call"),
                },
            },
        };
        let mut from_left = who.split('|').map(str::trim);
        let at = from_left.next().and_then(|time| time.parse::<f64>().ok()).filter(|time| time.is_finite());
        let cpu = from_left.next().and_then(|rest| rest.split(')').next()?.parse().ok());
        let task = who.trim_end().rsplit('-').next().and_then(|task| task.trim().parse().ok());
        let (Some(at), Some(cpu), Some(task)) = (at, cpu, task) else {
            return Err("no valid time, CPU or task");
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if function.starts_with('.') || function.is_empty() || !function.chars().all(is_name) {
            return Err("no valid function name");
        }
        Ok(Some(Self { at_us: at * 1e6, task, cpu, function, kind }))
    }
}

/// The calls of `events`. None begins before the end of what its task did earlier.
///
/// The tracer measures the duration of a call by two readings of the clock. The time stamp of its
/// line is a third one, taken when the line is written (6.1 kernel/trace/fgraph.c,
/// `ftrace_push_return_trace()` and `ftrace_return_to_handler()`;
/// `kernel/trace/trace_functions_graph.c`). The host may preempt the vCPU in between: 2.9 ms were
/// observed. So the time stamp is only an upper bound for that end of the call. The next event of
/// the same task is another upper bound, and possibly a tighter one. Therefore events are processed
/// from the last to the first.
fn in_order(events: &[Event]) -> Vec<Call> {
    /// The state of a task during this backward pass.
    struct Later {
        /// The start of the task's next event, in microseconds.
        next_us: f64,
        /// The calls that the task is inside of, as indices into the events, innermost last.
        inside: Vec<usize>,
    }
    let mut tasks: BTreeMap<(u32, Option<u32>), Later> = BTreeMap::new();
    let mut began_us = vec![None; events.len()];
    for (place, event) in events.iter().enumerate().rev() {
        let later = tasks
            .entry((event.task, (event.task == 0).then_some(event.cpu)))
            .or_insert(Later { next_us: f64::INFINITY, inside: Vec::new() });
        later.next_us = match event.kind {
            Kind::Leaf { nanoseconds } => {
                let began = event.at_us.min(later.next_us - nanoseconds / 1e3);
                began_us[place] = Some(began);
                began
            }
            Kind::End { nanoseconds } => {
                let ended = event.at_us.min(later.next_us);
                began_us[place] = Some(ended - nanoseconds / 1e3);
                later.inside.push(place);
                ended
            }
            Kind::Begin => {
                let mut began = event.at_us.min(later.next_us);
                let ends = later.inside.pop_if(|end| events[*end].function == event.function);
                if let Some(known) = ends.and_then(|end| began_us[end].as_mut()) {
                    began = began.min(*known);
                    *known = began;
                }
                began
            }
        };
    }
    let calls = events.iter().zip(began_us).filter_map(|(event, began_us)| {
        let (Kind::Leaf { nanoseconds } | Kind::End { nanoseconds }) = event.kind else { return None };
        let function = event.function.split('.').next().unwrap_or(event.function).to_owned();
        Some(Call { function, task: event.task, began_us: began_us?, nanoseconds })
    });
    calls.collect()
}

/// Parses a duration such as `# 1234.567 us`, where the mark stands for a long duration. `None` if
/// the column has no duration.
fn nanoseconds(column: &str) -> Result<Option<f64>, &'static str> {
    let Some(time) = column.trim().strip_suffix("us") else { return Ok(None) };
    let time = time.trim_end().trim_start_matches(['+', '!', '#', '*', '@', '$', ' ']);
    let microseconds: f64 = time.parse().map_err(|_| "not a valid duration")?;
    if microseconds.is_finite() && microseconds >= 0.0 {
        Ok(Some(microseconds * 1e3))
    } else {
        Err("not a valid duration")
    }
}

fn shortened(line: &str) -> String {
    line.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(calls: &[Call]) -> Vec<(&str, u32)> {
        calls.iter().map(|call| (call.function.as_str(), call.task)).collect()
    }

    #[test]
    fn a_leaf_begins_on_its_line_and_any_other_ends_there() {
        let text = "# tracer: function_graph\n#\n\
            \x20   10.000100 |   1)  agent-w-107  |               |  offline_pages() {\n\
            \x20   10.000150 |   1)  agent-w-107  |     7.500 us  |    lock();\n\
            \x20------------------------------------------\n\
            \x20  1)  agent-w-107  =>   <idle>-0  \n\
            \x20------------------------------------------\n\n\
            \x20   10.030100 |   1)  agent-w-107  | * 30000.25 us |  } /* offline_pages */\n";
        let all = calls(text).unwrap();
        assert_eq!(names(&all), [("lock", 107), ("offline_pages", 107)]);
        let near = |is: f64, should: f64| assert!((is - should).abs() < 1e-3, "{is} {should}");
        near(all[0].began_us, 10_000_150.0);
        near(all[0].nanoseconds, 7500.0);
        near(all[1].began_us, 10_000_099.75);
        near(all[1].nanoseconds, 30_000_250.0);
    }

    /// Observed on two cores with two guests of four CPUs: the vCPU was preempted between the
    /// tracer's reading of the clock and its line.
    #[test]
    fn what_a_task_did_next_says_when_it_had_ended() {
        let text = "\
            \x20   9.108706 |   0)  agent-w-120   |   18866.39 us |  mem_hotplug_begin();\n\
            \x20   9.112000 |   1)    <idle>-0    |     1.000 us  |  quiet_vmstat();\n\
            \x20   9.111000 |   2)    <idle>-0    |     1.000 us  |  quiet_vmstat();\n\
            \x20   9.124698 |   0)  agent-w-120   |   24.727 us   |  move_pfn_range_to_zone();\n\
            \x20   9.124721 |   0)  agent-w-120   |   23.706 us   |  mem_hotplug_done();\n\
            \x20   9.200000 |   0)  agent-w-120   |               |  online_pages() {\n\
            \x20   9.300000 |   0)  agent-w-120   |   100.000 us  |    up();\n\
            \x20   9.300080 |   0)  agent-w-120   |  102000.0 us  |  } /* online_pages */\n";
        let all = calls(text).unwrap();
        let near = |is: f64, should: f64| assert!((is - should).abs() < 1e-3, "{is} {should}: {all:#?}");
        let of = |name: &str| all.iter().find(|call| call.function == name).unwrap();
        near(of("mem_hotplug_done").began_us, 9_124_721.0);
        near(of("move_pfn_range_to_zone").ended_us(), 9_124_721.0);
        near(of("mem_hotplug_begin").ended_us(), of("move_pfn_range_to_zone").began_us);
        near(of("mem_hotplug_begin").nanoseconds, 18_866_390.0);
        near(of("up").ended_us(), 9_300_080.0);
        near(of("online_pages").began_us, 9_198_080.0);
        // The idle tasks of two CPUs are distinct.
        let idle: Vec<f64> =
            all.iter().filter(|call| call.task == 0).map(|call| call.began_us.round()).collect();
        assert_eq!(idle, [9_112_000.0, 9_111_000.0]);
    }

    #[test]
    fn half_a_call_is_no_call() {
        let text = "    1.000000 |   0)  a-1  |               |  up() {\n    1.000010 |   0)  a-1  |   1.0 us  |  }\n";
        assert_eq!(calls(text).unwrap(), []);
    }

    #[test]
    fn a_task_may_be_called_anything() {
        let text = "    1.000000 |   0)  ) a | b-c-31  |   1.0 us  |  try_remove_memory.part.0();\n";
        assert_eq!(names(&calls(text).unwrap()), [("try_remove_memory", 31)]);
    }

    #[test]
    fn what_is_no_trace_is_not_believed() {
        for (line, why) in [
            ("CPU:1 [LOST 12 EVENTS]", "lost"),
            ("    1.0 |   0)  a-1  |   x us  |  up();", "not a valid duration"),
            ("    1.0 |   0)  a-1  |   NaN us  |  up();", "not a valid duration"),
            ("    1.0 |   0)  a-1  |   -1.0 us  |  up();", "not a valid duration"),
            ("    1.0 |   0)  a-1  |   1.0 us  |  up() {", "a duration without a call"),
            ("    1.0 |   0)  a-x  |   1.0 us  |  up();", "no valid time, CPU or task"),
            ("    1.0 |   x)  a-1  |   1.0 us  |  up();", "no valid time, CPU or task"),
            ("    1.0 |   0)  a-1  |   1.0 us  |  \u{1b}[2J();", "no valid function name"),
            ("    1.0 |   0)  a-1  |   1.0 us  |  ();", "no valid function name"),
        ] {
            let odd = calls(line).unwrap_err().to_string();
            assert!(odd.contains(why) && odd.starts_with("the guest's trace: line 1"), "{odd}");
        }
        assert_eq!(calls("").unwrap(), []);
    }

    proptest::proptest! {
        #[test]
        fn no_text_ends_it(text in "[ -~|(){};\n]{0,200}") {
            let _ = calls(&text);
        }
    }
}

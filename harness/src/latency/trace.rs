//! What the function graph tracer printed (6.1 `kernel/trace/trace_functions_graph.c`), with its options `funcgraph-abstime`,
//! `funcgraph-proc` and `funcgraph-tail`: each call of the traced functions, with when it began and how long it took.
//!
//! ```text
//!    12.345678 |   1)  kworker-33   |               |  device_offline() {
//!    12.345690 |   1)  kworker-33   |     1.234 us  |    lock_device_hotplug();
//!    12.382345 |   1)  kworker-33   | # 36667.1 us  |  } /* device_offline */
//! ```
//!
//! A call that called nothing else that is traced is one line, any other's time is on the line of its end. A task's name is
//! its own to choose, and may hold anything: so lines are read from their ends.

use serde::{Deserialize, Serialize};

/// One call of a traced function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The function, without what a compiler appends to the name of its copy (`.part.0`).
    pub function: String,
    /// The task's number.
    pub task: u32,
    /// When it began: microseconds of the guest's trace clock.
    pub began_us: f64,
    /// How long it took, sleeps included, nanoseconds of the same clock.
    pub nanoseconds: f64,
}

impl Call {
    /// When it ended, microseconds of the guest's trace clock.
    pub fn ended_us(&self) -> f64 {
        self.began_us + self.nanoseconds / 1e3
    }
}

/// What the guest says of its times, and cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest's {0}")]
pub struct Odd(String);

impl Odd {
    pub(super) fn new(what: &str, line: usize, why: &str) -> Self {
        Self(format!("{what}: line {line}: {why}"))
    }
}

/// The calls that ended while `text` was recorded, in the order of their ends. A call whose other end is not there, since the
/// trace began or ended in between, is no call.
pub fn calls(text: &str) -> Result<Vec<Call>, Odd> {
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let odd = |what: &str| Odd::new("trace", number + 1, &format!("{what}: {:?}", shortened(line)));
        if line.contains("[LOST ") {
            return Err(odd("it lost what came too fast"));
        }
        if line.starts_with('#') {
            continue;
        }
        // Between tasks (`------` and `kworker-3 => agent-7`) and where interrupts come and go there are lines without calls.
        let mut columns = line.rsplitn(3, '|');
        let (Some(what), Some(duration), Some(who)) = (columns.next(), columns.next(), columns.next()) else {
            continue;
        };
        let Some(nanoseconds) = nanoseconds(duration).map_err(odd)? else { continue };
        let what = what.trim();
        let (function, is_leaf) = match what.strip_suffix("();") {
            Some(function) => (function, true),
            None => match what.strip_prefix("} /* ").and_then(|rest| rest.strip_suffix(" */")) {
                Some(function) => (function, false),
                // The end of a call whose beginning the trace does not have.
                None if what == "}" => continue,
                None => return Err(odd("a time of no call")),
            },
        };
        let at = who.split('|').next().and_then(|time| time.trim().parse::<f64>().ok());
        let task = who.trim_end().rsplit('-').next().and_then(|task| task.trim().parse().ok());
        let (Some(at), Some(task)) = (at, task) else { return Err(odd("no time or no task")) };
        // A leaf's line has the time of its begin, any other that of its end.
        let began_us = at * 1e6 - if is_leaf { 0.0 } else { nanoseconds / 1e3 };
        let function = function.split('.').next().unwrap_or(function);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if function.is_empty() || !function.chars().all(is_name) {
            return Err(odd("no name of a function"));
        }
        all.push(Call { function: function.to_owned(), task, began_us, nanoseconds });
    }
    Ok(all)
}

/// `# 1234.567 us`, with a mark for what takes long; none where there is no time.
fn nanoseconds(column: &str) -> Result<Option<f64>, &'static str> {
    let Some(time) = column.trim().strip_suffix("us") else { return Ok(None) };
    let time = time.trim_end().trim_start_matches(['+', '!', '#', '*', '@', '$', ' ']);
    let microseconds: f64 = time.parse().map_err(|_| "a time that is none")?;
    if microseconds.is_finite() && microseconds >= 0.0 {
        Ok(Some(microseconds * 1e3))
    } else {
        Err("a time that is none")
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
            ("    1.0 |   0)  a-1  |   x us  |  up();", "a time that is none"),
            ("    1.0 |   0)  a-1  |   NaN us  |  up();", "a time that is none"),
            ("    1.0 |   0)  a-1  |   -1.0 us  |  up();", "a time that is none"),
            ("    1.0 |   0)  a-1  |   1.0 us  |  up() {", "a time of no call"),
            ("    1.0 |   0)  a-x  |   1.0 us  |  up();", "no time or no task"),
            ("    1.0 |   0)  a-1  |   1.0 us  |  \u{1b}[2J();", "no name"),
            ("    1.0 |   0)  a-1  |   1.0 us  |  ();", "no name"),
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

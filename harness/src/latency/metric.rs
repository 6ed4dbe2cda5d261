//! The times of one trial, and the samples of each metric from them.

use std::collections::BTreeMap;

use hotplug_protocol::LoopTime;
use hotplug_side::Side;
use serde::{Deserialize, Serialize};

use super::lock_stat::LockTimes;
use super::phase::Course;
use super::trace::Call;
use crate::scenario::Metric;

/// The name of the file with a trial's times.
pub const FILE: &str = "latency.json";

/// The times of one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialTimes {
    /// The side of its kernel.
    pub side: Side,
    /// The trial's number within its boot.
    pub number: u32,
    /// Why its times cannot be used.
    pub odd: Option<String>,
    /// Functions that this kernel cannot trace.
    pub untraceable: Vec<String>,
    /// Every call, in the order of the ends.
    pub calls: Vec<Call>,
    /// The marks of its operations by the guest's clock, and by the host's unless the guest counts
    /// instructions.
    pub courses: Vec<Course>,
    /// The loops of each victim, in the order of the scenario.
    pub victims: Vec<VictimTimes>,
    /// The wait and hold times of locks; `None` if the kernel does not count them.
    pub locks: Option<Vec<LockTimes>>,
}

/// The loops of one victim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VictimTimes {
    /// Its name.
    pub name: String,
    /// The number of loops that ended, including those without a stored time.
    pub loops: u64,
    /// The stored times. The last one may be that of the loop in progress at the end.
    pub times: Vec<LoopTime>,
}

impl VictimTimes {
    /// The longest loop.
    pub fn longest(&self) -> Option<&LoopTime> {
        self.times.iter().max_by_key(|time| time.nanoseconds)
    }
}

impl TrialTimes {
    /// The times of a trial without any data yet.
    pub fn new(side: Side, number: u32) -> Self {
        Self {
            side,
            number,
            odd: None,
            untraceable: Vec::new(),
            calls: Vec::new(),
            courses: Vec::new(),
            victims: Vec::new(),
            locks: None,
        }
    }

    /// The samples of this metric, in nanoseconds.
    pub fn samples(&self, metric: &Metric<'_>) -> Vec<f64> {
        match metric {
            Metric::Function(name) => {
                let one =
                    || self.calls.iter().filter(|call| call.function == *name).map(|call| call.nanoseconds);
                let span = |(first, last)| self.spans(first, last);
                name.split_once("..").map_or_else(|| one().collect(), span)
            }
            Metric::Phase(part) => self.courses.iter().filter_map(|course| course.took(part)).collect(),
            Metric::Longest(name) => {
                let victim = self.victims.iter().find(|victim| victim.name == *name);
                #[expect(clippy::cast_precision_loss, reason = "below 2^52 ns, which are 52 days")]
                let nanoseconds = |time: &LoopTime| time.nanoseconds as f64;
                victim.and_then(VictimTimes::longest).map(nanoseconds).into_iter().collect()
            }
            Metric::Held(name) => self.lock(name).and_then(LockTimes::held_each).into_iter().collect(),
            Metric::Waited(name) => self.lock(name).map(|lock| lock.waited).into_iter().collect(),
        }
    }

    /// The spans from the start of one function to the end of the next call of the other in the
    /// same task.
    fn spans(&self, first: &str, last: &str) -> Vec<f64> {
        let mut begun: BTreeMap<u32, f64> = BTreeMap::new();
        let mut spans = Vec::new();
        let mut calls: Vec<&Call> = self.calls.iter().collect();
        calls.sort_by(|a, b| a.began_us.total_cmp(&b.began_us));
        for call in calls {
            if call.function == first {
                begun.insert(call.task, call.began_us);
            } else if call.function == last
                && let Some(began) = begun.remove(&call.task)
            {
                spans.push((call.began_us - began) * 1e3 + call.nanoseconds);
            }
        }
        spans
    }

    fn lock(&self, name: &str) -> Option<&LockTimes> {
        // The kernel appends `-W` for writers only if the class also has readers (`seq_stats()` in
        // kernel/locking/lockdep_proc.c).
        let plain = |class: &str| class.strip_suffix("-W").unwrap_or(class).to_owned();
        self.locks.as_ref()?.iter().find(|lock| plain(&lock.class) == plain(name))
    }

    /// The traced function that covers most of this time, in any task: a possible cause of a long
    /// loop.
    pub fn meanwhile(&self, time: &LoopTime) -> Option<&str> {
        #[expect(clippy::cast_precision_loss, reason = "below 2^52 us, which are 142 years")]
        let (begin, us) = (time.began.0 as f64, time.nanoseconds as f64 / 1e3);
        let overlap = |call: &Call| call.ended_us().min(begin + us) - call.began_us.max(begin);
        let others = self.calls.iter().filter(|call| overlap(call) > 0.0);
        // If two nested functions cover it equally, the inner one is more specific. It is the
        // shorter one.
        let order = |call: &Call| (overlap(call), -call.nanoseconds);
        let most = others.max_by(|a, b| order(a).partial_cmp(&order(b)).unwrap_or(std::cmp::Ordering::Equal));
        most.map(|call| call.function.as_str())
    }
}

#[cfg(test)]
mod tests {
    use hotplug_protocol::GuestTime;

    use super::*;

    fn call(function: &str, task: u32, began_us: f64, nanoseconds: f64) -> Call {
        Call { function: function.into(), task, began_us, nanoseconds }
    }

    #[test]
    fn a_span_goes_from_a_begin_to_the_next_end_in_one_task() {
        let calls = vec![
            call("begin", 1, 100.0, 5_000.0),
            // A call of another task, and one whose start is not in the trace.
            call("done", 2, 120.0, 1_000.0),
            call("done", 1, 150.0, 2_000.0),
            call("begin", 1, 200.0, 1_000.0),
            // This call encloses the end of the span.
            call("work", 1, 190.0, 90_000.0),
            call("done", 1, 260.0, 1_000.0),
            call("done", 1, 270.0, 1_000.0),
        ];
        let trial = TrialTimes { calls, ..TrialTimes::new(Side::Before, 0) };
        let samples = |name| trial.samples(&Metric::Function(name));
        assert_eq!(samples("begin..done"), [52_000.0, 61_000.0]);
        assert_eq!(samples("work..done"), [71_000.0]);
        assert_eq!(samples("work"), [90_000.0]);
        assert!(samples("begin..never").is_empty() && samples("never").is_empty());
    }

    #[test]
    fn a_victim_has_one_longest_loop_and_a_lock_one_average() {
        let time = |began, nanoseconds| LoopTime { began: GuestTime(began), nanoseconds };
        let times = vec![time(100, 5_000), time(200, 80_000), time(300, 7_000)];
        let lock =
            LockTimes { class: "m-W".into(), contentions: 1, waited: 30.0, acquisitions: 4, held: 100.0 };
        let trial = TrialTimes {
            calls: vec![
                call("outer", 1, 0.0, 1e6),
                call("inner", 1, 190.0, 95_000.0),
                call("late", 1, 270.0, 50_000.0),
            ],
            victims: vec![VictimTimes { name: "fork".into(), loops: 3, times }],
            locks: Some(vec![lock]),
            ..TrialTimes::new(Side::Before, 0)
        };
        assert_eq!(trial.samples(&Metric::Longest("fork")), [80_000.0]);
        assert!(trial.samples(&Metric::Longest("mmap")).is_empty());
        let longest = trial.victims[0].longest().unwrap();
        assert_eq!(trial.meanwhile(longest), Some("inner"));
        assert_eq!(trial.meanwhile(&time(5_000, 10)), None);
        assert_eq!(trial.samples(&Metric::Held("m-W")), [25.0]);
        assert_eq!(trial.samples(&Metric::Waited("m")), [30.0]);
        assert!(trial.samples(&Metric::Held("m-R")).is_empty());
    }
}

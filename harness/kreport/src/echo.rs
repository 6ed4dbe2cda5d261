//! Reports that a log has twice, because a test prints `dmesg` at its end.

use std::collections::{HashSet, VecDeque};

use super::Report;

/// Reports that are remembered.
const REMEMBERED: usize = 4096;

/// The reports of the running kernel so far, by the time and the identity of each.
#[derive(Debug, Default)]
pub(super) struct Echo {
    last: Option<u64>,
    /// The kernel's clock went back although the kernel did not start again: the log is printed a
    /// second time.
    back: bool,
    seen: HashSet<Event>,
    order: VecDeque<Event>,
}

/// The parts of a report that two events never share: the time to the microsecond, the first line
/// and the signature.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Event {
    time: u64,
    headline: Box<str>,
    key: String,
}

impl Echo {
    /// Reads the clock of a line.
    pub(super) fn clock(&mut self, time: u64) {
        self.back |= self.last.is_some_and(|last| time < last);
        self.last = Some(time);
    }

    /// The kernel starts: its clock begins anew.
    pub(super) fn start(&mut self) {
        *self = Self::default();
    }

    /// Whether the log has printed this report, with this first line, before.
    pub(super) fn repeats(&mut self, report: &Report, headline: &str) -> bool {
        let Some(time) = report.time else { return false };
        let event = Event { time, headline: headline.into(), key: report.signature.key.clone() };
        if self.seen.contains(&event) {
            return self.back;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(event.clone());
        self.seen.insert(event);
        false
    }
}

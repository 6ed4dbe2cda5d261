//! Reports that a log has twice, because a test prints `dmesg` at its end.

use std::collections::{HashMap, VecDeque};

/// Reports that are remembered.
const REMEMBERED: usize = 4096;

/// The first lines of the reports of the running kernel so far, by their times.
#[derive(Debug, Default)]
pub(super) struct Echo {
    last: Option<u64>,
    /// The kernel's clock went back although the kernel did not start again: the log is printed a
    /// second time.
    back: bool,
    seen: HashMap<u64, Vec<Box<str>>>,
    order: VecDeque<u64>,
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

    /// Whether the log has printed a report with this time and this first line before. Two events of
    /// one kernel do not share both. The end of the log may have cut the first line.
    pub(super) fn repeats(&mut self, time: u64, headline: &str) -> bool {
        let seen = self.seen.entry(time).or_default();
        if seen.iter().any(|first| first.starts_with(headline)) {
            return self.back;
        }
        seen.push(headline.into());
        self.order.push_back(time);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        false
    }
}

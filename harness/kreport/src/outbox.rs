//! Complete reports on their way out. A report in a text waits, because the lines that tell a
//! commit message come at its end.

use super::Report;
use super::container::LeftOutReason;
use super::echo::Echo;

/// Lines that a report waits for the end of its text.
const PATIENCE: u64 = 200;
/// Reports that wait at once.
const WAITING_LIMIT: usize = 64;

/// Reports of one reason that do not count.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// The reason.
    pub reason: LeftOutReason,
    /// Their number.
    pub count: u64,
    /// The first line of the first of them, counted from 1.
    pub first_line: u64,
}

/// A report that waits.
#[derive(Debug)]
struct Waiting {
    report: Report,
    headline: Box<str>,
    level: u8,
    since: u64,
}

/// The reports that count, and the number of those that do not.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub done: Vec<Report>,
    waiting: Vec<Waiting>,
    left_out: Vec<LeftOut>,
    pub echo: Echo,
}

impl Outbox {
    /// Whether a report waits, so that every line must be read.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes a complete report of a log, and its first line.
    pub(super) fn send(&mut self, report: Report, headline: &str) {
        if report.time.is_some_and(|time| self.echo.repeats(time, headline)) {
            self.leave_out(LeftOutReason::Repeated, *report.lines.start());
        } else {
            self.done.push(report);
        }
    }

    /// Takes a complete report of a text, quoted at a level, after `line`.
    pub(super) fn hold(&mut self, report: Report, headline: &str, level: u8, line: u64) {
        if self.waiting.len() >= WAITING_LIMIT {
            let first = self.waiting.remove(0);
            self.send(first.report, &first.headline);
        }
        self.waiting.push(Waiting { report, headline: headline.into(), level, since: line });
    }

    /// Counts a report that does not count.
    pub(super) fn leave_out(&mut self, reason: LeftOutReason, line: u64) {
        if let Some(known) = self.left_out.iter_mut().find(|known| known.reason == reason) {
            known.count += 1;
            known.first_line = known.first_line.min(line);
        } else {
            self.left_out.push(LeftOut { reason, count: 1, first_line: line });
        }
    }

    /// Reads a line of the text below the reports that wait.
    pub(super) fn see(&mut self, text: &str, level: u8, line: u64) {
        if is_trailer(text) {
            let (quoted, rest) =
                std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.level == level);
            self.waiting = rest;
            let quoted: Vec<Waiting> = quoted;
            for waiting in quoted {
                self.leave_out(LeftOutReason::CommitMessage, *waiting.report.lines.start());
            }
            return;
        }
        let ready = self.waiting.iter().take_while(|waiting| line > waiting.since + PATIENCE).count();
        self.release(ready);
    }

    /// Another text begins, or the input ends.
    pub(super) fn end(&mut self) {
        self.release(self.waiting.len());
    }

    fn release(&mut self, count: usize) {
        let ready: Vec<Waiting> = self.waiting.drain(..count).collect();
        for waiting in ready {
            self.send(waiting.report, &waiting.headline);
        }
    }

    /// The reports that do not count.
    pub(super) fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

/// Whether a line is a trailer that only commit messages have
/// (Documentation/process/submitting-patches.rst). Mails of robots ask for `Reported-by:` and
/// `Closes:`, so these do not tell.
pub(super) fn is_trailer(text: &str) -> bool {
    let fixes = text.strip_prefix("Fixes: ").and_then(|rest| rest.split(' ').next());
    text.starts_with("Signed-off-by: ")
        || fixes.is_some_and(|word| word.len() >= 7 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

//! The streaming scanner: it splits bytes into lines, skips at memory speed those that cannot
//! matter, and passes the others to `grouper`.

use std::collections::VecDeque;

use super::grouper::Gatherer;
use super::quote::Strip;
use super::refusal::Refusals;
use super::triggers::Triggers;
use super::{LeftOut, Refusal, Report, line};

/// Lines at the start of a log that are read even if they cannot begin a report: they show the
/// format of the log's lines.
const SAMPLE: u64 = 200;

/// Reads a kernel log as it grows. Its memory stays below a few MiB for any input.
///
/// ```
/// let mut scanner = hotplug_kreport::Scanner::new();
/// scanner.feed(b"[    1.0] hello\n");
/// assert!(scanner.drain().next().is_none());
/// assert!(scanner.finish().is_empty());
/// ```
#[derive(Debug)]
pub struct Scanner {
    triggers: &'static Triggers,
    gatherer: Gatherer,
    /// The incomplete last line, at most [`line::LIMIT`] bytes of it.
    partial: Vec<u8>,
    /// The last complete line of the chunk before: it may be a banner above a headline.
    previous: Vec<u8>,
    /// The number of complete lines so far.
    lines: u64,
    done: VecDeque<Report>,
    refusals: Option<Refusals>,
}

/// The rest of a log, once it has ended.
#[derive(Debug, Clone, Default)]
pub struct Remainder {
    /// The reports that were not drained, in the order of the log.
    pub reports: Vec<Report>,
    /// The numbers of reports that do not count, by reason.
    pub left_out: Vec<LeftOut>,
    /// The refusals of hotplug, in the order of the log. `None` if they were not looked for.
    pub refusals: Option<Vec<Refusal>>,
    /// The number of refusals that are not in `refusals`, because there are too many.
    pub more_refusals: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scanner at the start of a log.
    pub fn new() -> Self {
        Self {
            triggers: Triggers::get(),
            gatherer: Gatherer::default(),
            partial: Vec::new(),
            previous: Vec::new(),
            lines: 0,
            done: VecDeque::new(),
            refusals: None,
        }
    }

    /// Also looks for lines in which the kernel refuses hotplug.
    #[must_use]
    pub fn with_refusals(mut self) -> Self {
        self.refusals = Some(Refusals::default());
        self
    }

    /// A scanner at the start of a log that comes from the kernel itself, such as the records of
    /// `/dev/kmsg`. Nothing in such a log is quoted, broken or printed twice.
    pub fn of_kernel() -> Self {
        Self { gatherer: Gatherer::of_kernel(), ..Self::new() }
    }

    /// Reads one line, with or without its newline, such as a `/dev/kmsg` record.
    pub fn push_line(&mut self, line: &[u8]) {
        self.feed(line.strip_suffix(b"\n").unwrap_or(line));
        self.feed(b"\n");
    }

    /// Reads a chunk of the log. The result does not depend on where a log is split into chunks.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if !self.partial.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let head = &bytes[..end.unwrap_or(bytes.len())];
            let room = line::LIMIT.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&head[..head.len().min(room)]);
            let Some(end) = end else { return };
            bytes = &bytes[end + 1..];
            let whole = std::mem::take(&mut self.partial);
            self.whole_lines(&whole);
            self.partial = whole;
            self.partial.clear();
        }
        let Some(end) = memchr::memrchr(b'\n', bytes) else {
            self.keep_partial(bytes);
            return;
        };
        self.whole_lines(&bytes[..end]);
        self.keep_partial(&bytes[end + 1..]);
    }

    fn keep_partial(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(&bytes[..bytes.len().min(line::LIMIT)]);
    }

    /// Removes and returns the reports that are complete. Memory is bounded only if they are taken
    /// out.
    pub fn drain(&mut self) -> impl Iterator<Item = Report> + '_ {
        self.done.drain(..)
    }

    /// The number of lines read so far, without an incomplete last line.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Ends the log. Returns the reports that were not drained, in the order of the log.
    pub fn finish(self) -> Vec<Report> {
        self.finish_with_rest().reports
    }

    /// Ends the log. Returns everything that was found and not drained.
    pub fn finish_with_rest(mut self) -> Remainder {
        let partial = std::mem::take(&mut self.partial);
        if !partial.is_empty() {
            self.lines += 1;
            if let Some(refusals) = &mut self.refusals {
                refusals.lines(&partial, self.lines, Strip::All);
            }
            self.gatherer.line(&partial, self.lines, false, self.triggers);
        }
        self.gatherer.finish();
        self.done.extend(self.gatherer.take_done());
        let mut reports: Vec<Report> = self.done.into();
        reports.sort_by_key(|report| *report.lines.start());
        let (refusals, more_refusals) = self.refusals.map(Refusals::finish).unzip();
        let left_out = self.gatherer.left_out().to_vec();
        Remainder { reports, left_out, refusals, more_refusals: more_refusals.unwrap_or_default() }
    }

    /// Reads complete lines. `bytes` ends before the newline of the last one.
    fn whole_lines(&mut self, bytes: &[u8]) {
        if let Some(refusals) = &mut self.refusals {
            refusals.lines(bytes, self.lines + 1, Strip::All);
        }
        let mut at = 0;
        while at <= bytes.len() {
            if self.gatherer.is_idle() && self.lines >= SAMPLE {
                let Some(found) = self.triggers.find(&bytes[at..]) else {
                    self.lines += memchr::memchr_iter(b'\n', &bytes[at..]).count() as u64 + 1;
                    break;
                };
                let hit = at + found;
                let start = memchr::memrchr(b'\n', &bytes[at..hit]).map_or(at, |newline| at + newline + 1);
                self.lines += memchr::memchr_iter(b'\n', &bytes[at..start]).count() as u64;
                if start > at {
                    let before = &bytes[..start - 1];
                    let from = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
                    self.gatherer.saw(&before[from..], self.lines);
                } else if at == 0 && !self.previous.is_empty() {
                    self.gatherer.saw(&self.previous, self.lines);
                }
                at = start;
            }
            let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |newline| at + newline);
            self.lines += 1;
            self.gatherer.line(&bytes[at..end.min(at + line::LIMIT)], self.lines, true, self.triggers);
            self.done.extend(self.gatherer.take_done());
            at = end + 1;
        }
        let last = memchr::memrchr(b'\n', bytes).map_or(0, |newline| newline + 1);
        self.previous.clear();
        self.previous.extend_from_slice(&bytes[last..bytes.len().min(last + line::GLANCE)]);
    }
}

/// Reads a whole log. Returns its reports in the order of the log.
pub fn scan(log: &[u8]) -> Vec<Report> {
    let mut scanner = Scanner::new();
    scanner.feed(log);
    scanner.finish()
}

/// Reads a whole log that comes from the kernel itself, see [`Scanner::of_kernel`].
pub fn scan_own(log: &[u8]) -> Vec<Report> {
    let mut scanner = Scanner::of_kernel();
    scanner.feed(log);
    scanner.finish()
}

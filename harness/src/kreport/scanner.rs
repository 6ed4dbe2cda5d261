//! The streaming reader: bytes in, whole lines out to the gatherer, harmless lines skipped at memory speed.

use std::collections::VecDeque;
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, packed};

use super::gather::Gatherer;
use super::{Report, forms, line};

/// Bytes of a line that are looked at; the rest of a longer one is dropped as it comes.
const LINE_LIMIT: usize = 16 * 1024;

/// Lines at the start of a log that are read even if nothing in them can begin a report: they say what the log's
/// lines look like.
const SAMPLE: u64 = 200;

/// Reads a kernel log as it grows. Memory stays below a few MiB whatever comes.
///
/// ```
/// let mut scanner = hotplug::kreport::Scanner::new();
/// scanner.feed(b"[    1.0] hello\n");
/// assert!(scanner.drain().next().is_none());
/// assert!(scanner.finish().is_empty());
/// ```
#[derive(Debug)]
pub struct Scanner {
    triggers: &'static Triggers,
    gatherer: Gatherer,
    /// The unfinished last line, at most [`LINE_LIMIT`] bytes of it.
    partial: Vec<u8>,
    /// The last finished line of the chunk before: a banner may stand above a headline.
    previous: Vec<u8>,
    /// Finished lines so far.
    lines: u64,
    done: VecDeque<Report>,
}

/// Finds [`forms::TRIGGERS`]: by SIMD where the processor has it, which is three times as fast as an automaton.
#[derive(Debug)]
pub(super) enum Triggers {
    Packed(packed::Searcher),
    Automaton(AhoCorasick),
}

impl Triggers {
    /// Where the first trigger begins.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Triggers::Packed(searcher) => searcher.find(bytes).map(|found| found.start()),
            Triggers::Automaton(automaton) => automaton.find(bytes).map(|found| found.start()),
        }
    }

    /// Made once; which substrings it has is the form table's business.
    pub(super) fn get() -> &'static Self {
        static TRIGGERS: OnceLock<Triggers> = OnceLock::new();
        TRIGGERS.get_or_init(|| {
            let mut builder = packed::Config::new().match_kind(packed::MatchKind::LeftmostFirst).builder();
            if let Some(searcher) = builder.extend(forms::TRIGGERS).build() {
                return Triggers::Packed(searcher);
            }
            // Cannot fail: the patterns are few and constant.
            let automaton = AhoCorasick::new(forms::TRIGGERS);
            Triggers::Automaton(automaton.unwrap_or_else(|error| unreachable!("constant patterns: {error}")))
        })
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scanner at line 1.
    pub fn new() -> Self {
        Self {
            triggers: Triggers::get(),
            gatherer: Gatherer::default(),
            partial: Vec::new(),
            previous: Vec::new(),
            lines: 0,
            done: VecDeque::new(),
        }
    }

    /// Takes one line, with or without its newline: a /dev/kmsg record, for example.
    pub fn push_line(&mut self, line: &[u8]) {
        self.feed(line.strip_suffix(b"\n").unwrap_or(line));
        self.feed(b"\n");
    }

    /// Takes any stretch of bytes. How the log is cut into stretches changes nothing.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if !self.partial.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let head = &bytes[..end.unwrap_or(bytes.len())];
            let room = LINE_LIMIT.saturating_sub(self.partial.len());
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
        self.partial.extend_from_slice(&bytes[..bytes.len().min(LINE_LIMIT)]);
    }

    /// Reports that are complete by now. Taking them out keeps memory bounded.
    pub fn drain(&mut self) -> impl Iterator<Item = Report> + '_ {
        self.done.drain(..)
    }

    /// Lines read so far, an unfinished last one not counted.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The end of the log: what has not been drained, in the order of the log.
    pub fn finish(mut self) -> Vec<Report> {
        let partial = std::mem::take(&mut self.partial);
        if !partial.is_empty() {
            self.lines += 1;
            self.gatherer.line(&partial, self.lines, false, self.triggers);
        }
        self.gatherer.finish();
        self.done.extend(self.gatherer.take_done());
        let mut reports: Vec<Report> = self.done.into();
        reports.sort_by_key(|report| *report.lines.start());
        reports
    }

    /// Takes lines without the last one's newline.
    fn whole_lines(&mut self, bytes: &[u8]) {
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
            self.gatherer.line(&bytes[at..end.min(at + LINE_LIMIT)], self.lines, true, self.triggers);
            self.done.extend(self.gatherer.take_done());
            at = end + 1;
        }
        let last = memchr::memrchr(b'\n', bytes).map_or(0, |newline| newline + 1);
        self.previous.clear();
        self.previous.extend_from_slice(&bytes[last..bytes.len().min(last + 256)]);
    }
}

/// Undoes `/dev/kmsg`'s escapes (`\x0a`, `msg_add_ext_text()` in kernel/printk/printk.c); a record may hold several
/// lines.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let value = match rest {
            [b'\\', b'x', high, low, ..] => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        if let Some(value) = value {
            out.push(value);
            rest = &rest[4..];
        } else {
            out.push(b'\\');
            rest = &rest[1..];
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Reads a whole log at once.
pub fn scan(log: &[u8]) -> Vec<Report> {
    let mut scanner = Scanner::new();
    scanner.feed(log);
    scanner.finish()
}

/// Takes a line apart and hands it on, cleaned; the gatherer's helper, here to keep the escapes in one place.
pub(super) fn with_texts(raw: &[u8], mut each: impl FnMut(&line::Line<'_>, &str)) {
    let cleaned = line::clean(raw);
    let parsed = line::Line::parse(&cleaned);
    if parsed.record && memchr::memmem::find(parsed.text, b"\\x").is_some() {
        for text in unescape(parsed.text).split(|byte| *byte == b'\n') {
            each(&parsed, &String::from_utf8_lossy(text));
        }
    } else {
        each(&parsed, &String::from_utf8_lossy(parsed.text));
    }
}

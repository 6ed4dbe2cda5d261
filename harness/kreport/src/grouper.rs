//! Groups lines into reports: by the caller id if the log has it, otherwise by content.

use super::assemble::{self, Gathered, assemble};
use super::body::{self, Part};
use super::line::{self, Line};
use super::partial::{Open, consequence, continues, has_banner, is_banner, is_die, push};
use super::patterns::{self, Form, Proof};
use super::prefix::Caller;
use super::triggers::Triggers;
use super::{Corruption, Kind, Report};

/// Reports that can be open at once, each of another caller.
const OPEN_LIMIT: usize = 16;
/// Complete reports that wait for an earlier one.
const WAITING_LIMIT: usize = 64;
/// Lines without content of the report after which it is over. The limit is higher before its
/// stack.
const IDLE_LINES: u32 = 12;
const IDLE_LINES_EARLY: u32 = 40;
/// The OOM killer lists the memory and the tasks, one line each, before it names the task that it
/// kills.
const IDLE_LINES_OOM: u32 = 400;
/// Lines after a report in which a panic counts as its consequence.
const PANIC_REACH: u32 = 120;
/// Lines of the log, of all callers, between "cut here" and the first line of the report.
const CUT_REACH: u64 = 200;
/// A first line that proves nothing needs registers or a stack within this time, in microseconds of
/// kernel time, and within this number of lines.
const PROOF_TIME: u64 = 1_000_000;
const PROOF_LINES: u32 = 8;
/// A report whose next line comes later than this is over, in microseconds of kernel time.
const SILENCE: u64 = 30_000_000;

/// "cut here", and the lines after it.
#[derive(Debug)]
struct Cut {
    caller: Option<Caller>,
    first: u64,
    texts: Vec<(u64, Box<str>)>,
}

/// Collects the lines of reports.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the stream")]
pub(super) struct Gatherer {
    open: Vec<Open>,
    cuts: Vec<Cut>,
    /// The last line if it was a banner, "=====": it belongs to the headline below it.
    banner: Option<(Option<Caller>, u64)>,
    done: Vec<Report>,
    last_seq: Option<u64>,
    last_record: bool,
    last_time: Option<u64>,
    timed: bool,
    /// The kernel announced a shutdown or a reboot, or panicked, so that a start is expected.
    goodbye: bool,
    running: bool,
    /// The network device that the kernel waited for last, and the time. The kernel repeats this
    /// message every ten seconds (net/core/dev.c).
    waited_for: (String, u64),
}

impl Gatherer {
    /// Whether no report is open, so that lines without a trigger can be skipped.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.cuts.is_empty()
    }

    /// Removes and returns the complete reports, in the order of the log. A report waits for open
    /// ones that began before it, unless too many are waiting.
    pub(super) fn take_done(&mut self) -> std::vec::Drain<'_, Report> {
        let limit = match self.open.iter().map(|open| open.gathered.first).min() {
            _ if self.done.len() <= 1 && self.open.is_empty() => return self.done.drain(..),
            Some(first) if self.done.len() < WAITING_LIMIT => first,
            _ => u64::MAX,
        };
        self.done.sort_by_key(|report| *report.lines.start());
        let ready = self.done.partition_point(|report| *report.lines.start() < limit);
        self.done.drain(..ready)
    }

    /// Examines a line that the scanner skipped, because it may be a banner above the next one.
    pub(super) fn saw(&mut self, raw: &[u8], number: u64) {
        self.last_seq = None;
        line::with_texts(&raw[..raw.len().min(line::GLANCE)], |line, text| {
            self.banner = is_banner(text).then_some((line.caller, number));
        });
    }

    /// Reads one line. `whole` is true if it ended with a newline.
    pub(super) fn line(&mut self, raw: &[u8], number: u64, whole: bool, triggers: &Triggers) {
        if self.last_record && raw.first() == Some(&b' ') && memchr::memchr(b'=', raw).is_some() {
            return;
        }
        // A caller that never prints again must not prevent the scanner from skipping lines.
        self.cuts.retain(|cut| number - cut.first < CUT_REACH);
        let mut first = true;
        line::with_texts(raw, |line, text| {
            if first {
                self.meta(line);
                first = false;
            }
            if !line.user {
                self.text(line, text, number, whole, triggers);
            }
        });
    }

    /// Evaluates the prefix of a line: lost records, the time, and reports that timed out.
    fn meta(&mut self, line: &Line<'_>) {
        self.last_record = line.record;
        if let Some(seq) = line.seq {
            if self.last_seq.is_some_and(|last| seq > last + 1) {
                self.lost();
            }
            self.last_seq = Some(seq);
        }
        if line.time.is_some() {
            self.timed = true;
            self.last_time = line.time;
        }
        self.running |= line.time.is_some_and(|time| time > 1_000_000);
        let Some(now) = line.time else { return };
        for index in (0..self.open.len()).rev() {
            let open = &self.open[index];
            let Some(then) = (if open.proved { open.time } else { open.gathered.time }) else { continue };
            if now + 2_000_000 < then {
                self.close(index, Corruption::CutByReboot);
            } else if now > then + if self.open[index].proved { SILENCE } else { PROOF_TIME } {
                self.close(index, Corruption::NoStack);
            }
        }
    }

    fn lost(&mut self) {
        for open in self.open.iter_mut().filter(|open| !open.ended) {
            open.gathered.corrupted = Some(Corruption::LostRecords);
        }
    }

    fn text(&mut self, line: &Line<'_>, text: &str, number: u64, whole: bool, triggers: &Triggers) {
        let hit = triggers.find(text.as_bytes()).is_some();
        if hit {
            if text.contains("printk messages dropped") {
                self.lost();
                return;
            }
            if self.boot_line(line, text, number) {
                return;
            }
            if text.contains("[ cut here ]") && text.starts_with('-') {
                self.cut_here(line, text, number);
                return;
            }
            let form = patterns::find(text);
            if let Some(form) = form
                && (whole || form.proof == Proof::Sure)
                && self.headline(form, line, text, number, whole)
            {
                return;
            }
        }
        self.follow(line, text, number);
        if is_banner(text) {
            self.banner = Some((line.caller, number));
        } else if !text.trim().is_empty() {
            self.banner = None;
        }
    }

    /// Handles lines that announce the end of a kernel or start one. Returns true for a start.
    fn boot_line(&mut self, line: &Line<'_>, text: &str, number: u64) -> bool {
        const GOODBYES: [&str; 6] = [
            "reboot: ",
            "Starting new kernel",
            "-- Boot ",
            "systemd-shutdown",
            "going down for",
            "equesting system re",
        ];
        if GOODBYES.iter().any(|words| text.contains(words)) {
            self.goodbye = true;
            return false;
        }
        let start = text.starts_with("Linux version ") && line.time.is_none_or(|time| time < 1_000_000);
        if start {
            if self.running && !self.goodbye && !line.syslog {
                self.done.push(assemble::reboot(number, line.time));
            }
            self.close_all(Corruption::CutByReboot);
            self.goodbye = false;
            self.running = true;
        }
        start
    }

    fn cut_here(&mut self, line: &Line<'_>, text: &str, number: u64) {
        self.cuts.retain(|cut| cut.caller != line.caller);
        if self.cuts.len() >= OPEN_LIMIT {
            self.cuts.remove(0);
        }
        self.cuts.push(Cut { caller: line.caller, first: number, texts: vec![(number, text.into())] });
    }

    /// Handles a first line of a new report, or of a further part of an open one. Returns false if
    /// it is neither.
    fn headline(
        &mut self,
        form: &'static Form,
        line: &Line<'_>,
        text: &str,
        number: u64,
        whole: bool,
    ) -> bool {
        if form.kind == Kind::UnregisterNetdevice && self.waited_before(text, line.time) {
            return true;
        }
        let mine = self.open.iter().position(|open| open.callers.contains(&line.caller));
        if form.kind == Kind::Panic {
            self.goodbye = true;
            let reason =
                text.split_once("not syncing").map_or("", |(_, rest)| rest).trim_start_matches([':', ' ']);
            let target =
                mine.or_else(|| consequence(reason).then(|| self.open.len().checked_sub(1)).flatten());
            if let Some(index) = target.filter(|index| self.open[*index].may_panic())
                && (consequence(reason) || self.open[index].leads_to_panic() || !whole)
            {
                self.open[index].gathered.panic = Some(reason.to_owned());
                self.open[index].gathered.last = number;
                return true;
            }
        }
        if let Some(index) = mine {
            let open = &mut self.open[index];
            // An incomplete line does not show whether it belongs to the report above it, so it
            // begins no report.
            if !open.ended && (!whole || continues(open, form, text, number, line.time)) {
                open.die |= is_die(text);
                open.proved = true;
                push(open, text, number);
                open.gathered.last = number;
                open.idle = 0;
                open.time = line.time.or(open.time);
                self.cuts.retain(|cut| cut.caller != line.caller);
                return true;
            }
            if form.proof == Proof::Body
                && !open.ended
                && matches!(form.kind, Kind::Bug | Kind::Oops)
                && open.stack
            {
                return false;
            }
            let why = if open.ended { Corruption::NoStack } else { Corruption::CutByReport };
            self.close(index, why);
        }
        if self.open.len() >= OPEN_LIMIT {
            self.close(0, Corruption::TooLong);
        }
        self.start(form, line, text, number);
        true
    }

    /// Whether the kernel printed less than 30 s ago that it waits for this device.
    fn waited_before(&mut self, text: &str, time: Option<u64>) -> bool {
        let Some(now) = time else { return false };
        let device =
            text.split_once("waiting for ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or("");
        let (last, then) = &mut self.waited_for;
        let before = last == device && (*then + 1..*then + 30_000_000).contains(&now);
        device.clone_into(last);
        *then = now;
        before
    }

    fn start(&mut self, form: &'static Form, line: &Line<'_>, text: &str, number: u64) {
        let cut =
            self.cuts.iter().position(|cut| cut.caller == line.caller).map(|index| self.cuts.remove(index));
        let mut first = number;
        let mut texts = Vec::new();
        if let Some(cut) = cut {
            first = cut.first;
            texts = cut.texts;
        }
        if let Some((caller, at)) = self.banner.take()
            && has_banner(form.kind)
            && caller == line.caller
            && at < first
            && first - at <= 2
        {
            first = at;
        }
        let headline = texts.len();
        texts.push((number, text.into()));
        let suspect = self.timed && line.time.is_none() && !line.prefixed;
        self.open.push(Open {
            gathered: Gathered {
                form,
                texts,
                headline,
                first,
                last: number,
                time: line.time,
                corrupted: None,
                ended_by: Corruption::NoStack,
                panic: None,
            },
            callers: vec![line.caller],
            proved: form.proof == Proof::Sure && !suspect,
            stack: false,
            ended: false,
            die: is_die(text),
            bytes: text.len(),
            idle: 0,
            time: line.time,
            suspect,
        });
    }

    /// Handles a line that begins no report: it is part of an open report, or of none.
    fn follow(&mut self, line: &Line<'_>, text: &str, number: u64) {
        if let Some(index) = self.cuts.iter().position(|cut| cut.caller == line.caller) {
            if self.cuts[index].texts.len() < 8 {
                self.cuts[index].texts.push((number, text.into()));
            } else {
                self.cuts.remove(index);
            }
        }
        let mine = self.open.iter().position(|open| open.callers.contains(&line.caller));
        let Some(index) = mine else {
            self.adopt(line, text, number);
            return;
        };
        // In a log with times, a line without time comes from a program.
        if self.open[index].time.is_some() && line.time.is_none() && !self.open[index].suspect && self.timed {
            self.grow_old(index);
            return;
        }
        let open = &mut self.open[index];
        open.time = line.time.or(open.time);
        if open.ended {
            self.grow_old(index);
            return;
        }
        let (_, part) = body::parts(text);
        push(open, text, number);
        match part {
            Part::Text | Part::Blank => {
                self.grow_old(index);
                return;
            }
            Part::Frame(_) => {
                open.stack = true;
                open.proved = true;
            }
            Part::Trace | Part::Cpu(..) | Part::Ip(_) | Part::Enter(_) => open.proved = true,
            Part::End => open.ended = true,
            _ => {}
        }
        if text.starts_with("Modules linked in") || text.starts_with("Hardware name") {
            open.proved = true;
        }
        open.gathered.last = number;
        open.idle = 0;
    }

    /// Adds the backtrace of another CPU to the report of the stall that requested it.
    fn adopt(&mut self, line: &Line<'_>, text: &str, number: u64) {
        let answers = text.starts_with("NMI backtrace for cpu ")
            // The line above it may have been printed with the caller id of the CPU that requested
            // it.
            || text.starts_with("CPU: ") && matches!(line.caller, Some(Caller::Cpu(_)));
        if !answers {
            return;
        }
        let asks =
            |kind| matches!(kind, Kind::RcuStall | Kind::SoftLockup | Kind::HardLockup | Kind::HungTask);
        if let Some(open) =
            self.open.iter_mut().rev().find(|open| asks(open.gathered.form.kind) && !open.ended)
        {
            if open.callers.len() < 64 {
                open.callers.push(line.caller);
            }
            push(open, text, number);
            open.gathered.last = number;
            open.idle = 0;
        }
    }

    fn grow_old(&mut self, index: usize) {
        let open = &mut self.open[index];
        open.idle += 1;
        let limit = match (open.ended, open.stack) {
            _ if !open.proved => PROOF_LINES,
            _ if open.gathered.form.kind == Kind::OutOfMemory => IDLE_LINES_OOM,
            (true, _) => PANIC_REACH,
            (false, true) => IDLE_LINES,
            (false, false) => IDLE_LINES_EARLY,
        };
        if open.idle > limit {
            self.close(index, Corruption::NoStack);
        }
    }

    fn close_all(&mut self, why: Corruption) {
        while !self.open.is_empty() {
            self.close(0, why);
        }
    }

    fn close(&mut self, index: usize, why: Corruption) {
        let mut open = self.open.remove(index);
        if !open.proved {
            return;
        }
        let last = open.gathered.last;
        open.gathered.texts.retain(|(number, _)| *number <= last);
        open.gathered.ended_by = if open.ended { Corruption::NoStack } else { why };
        self.done.push(assemble(open.gathered));
    }

    /// Ends the log.
    pub(super) fn finish(&mut self) {
        self.close_all(Corruption::CutByEnd);
        self.cuts.clear();
    }
}

//! Groups lines into reports: by the caller id if the log has it, otherwise by content.

mod follow;

use super::assemble::{self, Gathered};
use super::container::{Seam, Spot, Surroundings};
use super::join::{self, Torn};
use super::line::{self, Line};
use super::outbox::{Outbox, is_trailer};
use super::partial::{Open, consequence, continues, has_banner, is_banner, is_die, push};
use super::patterns::{self, Form, Proof};
use super::prefix::Caller;
use super::quote::Strip;
use super::triggers::Triggers;
use super::{Container, Corruption, Excerpt, Kind, LeftOut, LeftOutReason, Report};

/// Reports that can be open at once, each of another caller.
const OPEN_LIMIT: usize = 16;
/// Complete reports that wait for an earlier one.
const WAITING_LIMIT: usize = 64;
/// Lines of the log, of all callers, between "cut here" and the first line of the report.
const CUT_REACH: u64 = 200;
/// A first line that proves nothing needs registers or a stack within this time, in microseconds of
/// kernel time.
const PROOF_TIME: u64 = 1_000_000;
/// A report whose next line comes later than this is over, in microseconds of kernel time.
const SILENCE: u64 = 30_000_000;

/// "cut here", and the lines after it.
#[derive(Debug)]
struct Cut {
    caller: Option<Caller>,
    first: u64,
    texts: Vec<(u64, Box<str>)>,
}

/// A first line.
#[derive(Debug, Clone, Copy)]
struct Headline<'a> {
    form: &'static Form,
    text: &'a str,
    number: u64,
    /// The line ended with a newline.
    whole: bool,
    /// The line proves nothing, whatever its form says: it is indented, or put together.
    doubt: bool,
}

/// Collects the lines of reports.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the stream")]
pub(super) struct Gatherer {
    open: Vec<Open>,
    cuts: Vec<Cut>,
    /// The last line if it was a banner, "=====": it belongs to the headline below it.
    banner: Option<(Option<Caller>, u64)>,
    outbox: Outbox,
    around: Surroundings,
    /// The log comes from the kernel itself, so nothing in it is quoted.
    own: bool,
    torn: Option<Torn>,
    /// The marks that were removed from the line.
    marks: Vec<u8>,
    /// The length of the line before.
    width: usize,
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
    /// For a log that comes from the kernel itself.
    pub(super) fn of_kernel() -> Self {
        Self { own: true, ..Self::default() }
    }

    /// Whether lines without a trigger can be skipped: no report is open, and the file is a log.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
            && self.cuts.is_empty()
            && self.torn.is_none()
            && !self.around.is_text()
            && !self.outbox.is_waiting()
    }

    /// The reports that do not count.
    pub(super) fn left_out(&self) -> &[LeftOut] {
        self.outbox.left_out()
    }

    /// Removes and returns the complete reports, in the order of the log. A report waits for open
    /// ones that began before it, unless too many are waiting.
    pub(super) fn take_done(&mut self) -> std::vec::Drain<'_, Report> {
        let limit = match self.open.iter().map(|open| open.gathered.first).min() {
            _ if self.outbox.done.len() <= 1 && self.open.is_empty() => return self.outbox.done.drain(..),
            Some(first) if self.outbox.done.len() < WAITING_LIMIT => first,
            _ => u64::MAX,
        };
        self.outbox.done.sort_by_key(|report| *report.lines.start());
        let ready = self.outbox.done.partition_point(|report| *report.lines.start() < limit);
        self.outbox.done.drain(..ready)
    }

    /// Examines a line that the scanner skipped, because it may be a banner above the next one.
    pub(super) fn saw(&mut self, raw: &[u8], number: u64) {
        self.last_seq = None;
        let cleaned = line::clean(&raw[..raw.len().min(line::GLANCE)]);
        let strip = if self.own { Strip::Nothing } else { Strip::All };
        line::with_texts(&cleaned, strip, |line, text| {
            self.banner = is_banner(text).then_some((line.caller, number));
        });
    }

    /// Reads one line. `whole` is true if it ended with a newline.
    pub(super) fn line(&mut self, raw: &[u8], number: u64, whole: bool, triggers: &Triggers) {
        if self.last_record && line::is_property(raw) {
            return;
        }
        // A caller that never prints again must not prevent the scanner from skipping lines.
        self.cuts.retain(|cut| number - cut.first < CUT_REACH);
        let cleaned = line::clean(raw);
        let prefix = self.open.iter().find(|open| !open.ended).map(|open| open.prefix.clone());
        let strip = match &prefix {
            _ if self.own => Strip::Nothing,
            // A quoted report may follow one that is not.
            Some(prefix) if prefix.is_empty() && self.around.is_text() && cleaned.starts_with(b">") => {
                Strip::All
            }
            Some(prefix) => Strip::Prefix(prefix),
            None => Strip::All,
        };
        let mut first = true;
        line::with_texts(&cleaned, strip, |line, text| {
            if first {
                self.marks.clear();
                self.marks.extend_from_slice(&cleaned[..line.quote.bytes]);
                self.meta(line);
                self.look_around(&cleaned, line, text, number);
                first = false;
            }
            if !line.user {
                self.text(line, text, number, whole, triggers);
            }
        });
        self.width = cleaned.len();
    }

    /// Reads the signs that tell a log from a text that quotes one.
    fn look_around(&mut self, cleaned: &[u8], line: &Line<'_>, text: &str, number: u64) {
        if self.own {
            return;
        }
        if self.outbox.is_waiting() {
            self.outbox.see(text.trim(), line.quote.level, number);
        }
        if !self.open.is_empty() && is_trailer(text.trim()) {
            let level = line.quote.level;
            for open in self.open.iter_mut().filter(|open| open.spot.undecided && open.level == level) {
                open.spot.left_out = Some(LeftOutReason::CommitMessage);
            }
        }
        let kernel = line.time.is_some() || line.prefixed || line.record;
        let part = self.open.iter().any(|open| !open.ended) || patterns::find(text).is_some();
        match self.around.see(cleaned, line.quote, kernel, part) {
            Seam::None => {}
            Seam::Fence => self.close_all(Corruption::NoStack),
            Seam::Text => {
                self.close_all(Corruption::CutByEnd);
                self.outbox.end();
                self.outbox.echo.start();
                self.timed = false;
            }
        }
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
        if let Some(time) = line.time.filter(|_| !self.own) {
            self.outbox.echo.clock(time);
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
        if hit
            && !self.own
            && let Some(at) = join::glued(text)
        {
            self.whole_text(line, &text[..at], number, whole, true);
            let second = Line { quote: line.quote, ..Line::parse(&text.as_bytes()[at..]) };
            self.meta(&second);
            return self.whole_text(&second, &String::from_utf8_lossy(second.text), number, whole, true);
        }
        self.whole_text(line, text, number, whole, hit);
    }

    /// Reads the text of one line of the kernel.
    fn whole_text(&mut self, line: &Line<'_>, text: &str, number: u64, whole: bool, hit: bool) {
        let torn = self.torn.take();
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
        }
        let found = if hit { self.find(line, text, number, whole) } else { None };
        if let Some(torn) =
            torn.filter(|_| whole && found.is_none_or(|found| found.form.proof == Proof::Body))
            && let Some(joined) = torn.with(text, number, line.time, line.caller)
            && let Some(form) = patterns::find(&joined)
            && (found.is_none() || form.proof == Proof::Sure)
        {
            let line = Line { time: torn.time, caller: torn.caller, ..*line };
            let doubt = torn.time.is_none();
            if self.headline(Headline { form, text: &joined, number, whole, doubt }, &line) {
                return;
            }
        } else if let Some(headline) = found {
            if self.headline(headline, line) {
                return;
            }
        } else if hit && !self.own && patterns::find(text).is_none() {
            let (time, caller) = (line.time, line.caller);
            self.torn = Some(Torn { number, time, caller, text: text.into() });
        }
        self.follow(line, text, number);
        if is_banner(text) {
            self.banner = Some((line.caller, number));
        } else if !text.trim().is_empty() {
            self.banner = None;
        }
    }

    /// The first line that a text is, if it is one.
    fn find<'t>(&self, line: &Line<'_>, text: &'t str, number: u64, whole: bool) -> Option<Headline<'t>> {
        // Some programs put two blanks before the kernel's text.
        let known = line.time.is_some() || line.prefixed;
        let bare = if self.own || !known { text } else { text.trim_start() };
        let form = patterns::find(bare)?;
        // In a log with times, an indented line without time comes from a program.
        let quoted = line.quote.bytes > 0 && !known;
        if quoted && self.timed && !self.around.is_text() || !whole && form.proof != Proof::Sure {
            return None;
        }
        Some(Headline { form, text: bare, number, whole, doubt: quoted || bare.len() != text.len() })
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
                self.outbox.done.push(assemble::reboot(number, line.time));
            }
            self.close_all(Corruption::CutByReboot);
            self.outbox.echo.start();
            if line.time.is_some() && line.quote.level == 0 {
                self.outbox.end();
                self.around.boot();
            }
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
    fn headline(&mut self, headline: Headline<'_>, line: &Line<'_>) -> bool {
        let Headline { form, text, number, whole, .. } = headline;
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
                open.proved |= whole && !headline.doubt;
                push(open, text, number);
                open.gathered.last = number;
                open.idle = 0;
                open.time = line.time.or(open.time);
                self.cuts.retain(|cut| cut.caller != line.caller);
                return true;
            }
            if form.proof == Proof::Body
                && !open.ended
                && (matches!(form.kind, Kind::Bug | Kind::Oops) && open.stack || form.kind == Kind::Warning)
            {
                return false;
            }
            let why = if open.ended { Corruption::NoStack } else { Corruption::CutByReport };
            self.close(index, why);
        }
        if self.open.len() >= OPEN_LIMIT {
            self.close(0, Corruption::TooLong);
        }
        self.start(headline, line);
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

    fn start(&mut self, headline: Headline<'_>, line: &Line<'_>) {
        let Headline { form, text, number, doubt, .. } = headline;
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
        let at = texts.len();
        texts.push((number, text.into()));
        let suspect = self.timed && line.time.is_none() && !line.prefixed;
        let spot = if self.own { Spot::LOG } else { self.around.place(line.quote) };
        // In a text, the first words of a report may begin a line by chance.
        let doubt = doubt || spot.text && line.time.is_none() && !line.prefixed;
        let quoted = spot.container != Container::Log || line.quote.level > 0;
        self.open.push(Open {
            gathered: Gathered {
                form,
                texts,
                headline: at,
                first,
                last: number,
                time: line.time,
                corrupted: None,
                ended_by: Corruption::NoStack,
                panic: None,
                excerpt: Excerpt { container: spot.container, quoted, wrapped: false },
            },
            callers: vec![line.caller],
            proved: form.proof == Proof::Sure && !suspect && !doubt,
            stack: false,
            ended: false,
            die: is_die(text),
            bytes: text.len(),
            idle: 0,
            time: line.time,
            suspect,
            prefix: self.marks.as_slice().into(),
            level: line.quote.level,
            spot,
            strays: 0,
            broken: 0,
            known: 0,
        });
    }
}

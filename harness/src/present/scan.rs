//! The output of `hotplug scan`: JSON as soon as a report is found, or text with each bug once.

use std::collections::HashMap;
use std::io::Write;

use anstyle::AnsiColor;
use hotplug_kreport::{
    Container, Frame, KnownIssues, Remainder, Report, draw_ring, is_machinery, plain_name,
};
use serde::Serialize;

use super::scan_notes::{Around, ScanNotes, around};
use super::terminal::coloured;
use crate::Result;

/// Prints or collects reports.
#[derive(Debug)]
pub struct Sink {
    json: bool,
    known: KnownIssues,
    many_files: bool,
    /// The number of reports so far that are not known issues.
    news: u64,
    knowns: u64,
    written: u64,
    /// For text output: the first report of each bug, and the number of its reports. Its size grows
    /// with the number of different bugs.
    bugs: Vec<Bug>,
    by_key: HashMap<String, usize>,
    notes: ScanNotes,
    /// The number of files that were scanned, and those that were not.
    scanned: usize,
    not_scanned: Vec<NotScanned>,
}

/// A file that could not be read, or that is no kernel log.
#[derive(Debug, Serialize)]
struct NotScanned {
    file: String,
    why: String,
}

#[derive(Debug)]
struct Bug {
    report: Report,
    file: String,
    count: u64,
    known: Option<String>,
    around: Around,
}

/// One report in the JSON output. It has the fields of the library's report, with the two parts of
/// the signature as plain strings.
#[derive(Serialize)]
struct Row<'a> {
    file: &'a str,
    class: &'static str,
    kind: &'static str,
    container: Container,
    quoted: bool,
    wrapped: bool,
    title: &'a str,
    signature: &'a str,
    key: &'a str,
    corrupted: Option<hotplug_kreport::Corruption>,
    lines: [u64; 2],
    time_us: Option<u64>,
    process: &'a Option<hotplug_kreport::Process>,
    cpu: Option<u32>,
    blame: Option<&'a str>,
    assertion: Option<&'a str>,
    source: Option<&'a str>,
    detail: Option<&'a str>,
    panic: Option<&'a str>,
    frames: &'a [hotplug_kreport::Frame],
    stacks: &'a [hotplug_kreport::Stack],
    locks: &'a Option<hotplug_kreport::Locks>,
    known: Option<&'a str>,
}

impl Sink {
    /// For JSON or text output. With `many_files`, each report is printed with its file.
    pub fn new(json: bool, known: KnownIssues, many_files: bool) -> Self {
        Self {
            json,
            known,
            many_files,
            news: 0,
            knowns: 0,
            written: 0,
            bugs: Vec::new(),
            by_key: HashMap::new(),
            notes: ScanNotes::default(),
            scanned: 0,
            not_scanned: Vec::new(),
        }
    }

    /// Counts a file that was scanned to its end.
    pub fn was_read(&mut self) {
        self.scanned += 1;
    }

    /// Records a file that was not scanned.
    pub fn was_not_read(&mut self, file: &str, why: &str) {
        self.not_scanned.push(NotScanned { file: file.to_owned(), why: why.to_owned() });
    }

    /// Starts the output.
    pub fn start(&self, out: &mut dyn Write) -> Result<()> {
        if self.json {
            write!(out, "{{\"schema\":1,\"reports\":[")?;
        }
        Ok(())
    }

    /// Prints a report in JSON output, or counts it for text output.
    pub fn report(&mut self, file: &str, report: Report, out: &mut dyn Write) -> Result<()> {
        self.notes.report(&report);
        let known = self.known.find(&report).map(|issue| issue.reason.clone());
        if known.is_some() {
            self.knowns += 1;
        } else {
            self.news += 1;
        }
        if !self.json {
            self.count(file, report, known);
            return Ok(());
        }
        out.write_all(if self.written == 0 { b"\n" } else { b",\n" })?;
        self.written += 1;
        let row = row(file, &report, known.as_deref());
        Ok(serde_json::to_writer(out, &row).map_err(std::io::Error::from)?)
    }

    fn count(&mut self, file: &str, report: Report, known: Option<String>) {
        if let Some(bug) = self.by_key.get(&report.signature.key) {
            self.bugs[*bug].count += 1;
            return;
        }
        self.by_key.insert(report.signature.key.clone(), self.bugs.len());
        self.bugs.push(Bug { report, file: file.to_owned(), count: 1, known, around: Around::default() });
    }

    /// Takes what else was found in a file, after its reports.
    pub fn rest(&mut self, file: &str, rest: Remainder) {
        self.notes.rest(file, rest);
    }

    /// Reads `count` lines before and after the first report of each bug in `file` from its log.
    pub fn context(&mut self, file: &str, log: impl std::io::BufRead, count: u64) -> Result<()> {
        let mut bugs: Vec<&mut Bug> = self.bugs.iter_mut().filter(|bug| bug.file == file).collect();
        let lines: Vec<_> =
            bugs.iter().map(|bug| (*bug.report.lines.start(), *bug.report.lines.end())).collect();
        for (bug, found) in bugs.iter_mut().zip(around(log, &lines, count)?) {
            bug.around = found;
        }
        Ok(())
    }

    /// Ends the output, and returns the exit status.
    pub fn finish(&self, out: &mut dyn Write) -> Result<u8> {
        let remarks = self.known.remarks();
        if self.json {
            let remarks = serde_json::to_string(&remarks).map_err(std::io::Error::from)?;
            let not_scanned = serde_json::to_string(&self.not_scanned).map_err(std::io::Error::from)?;
            let notes = self.notes.json()?;
            writeln!(out, "\n],\"remarks\":{remarks}{notes},\"not_scanned\":{not_scanned}}}")?;
            return Ok(u8::from(self.news + self.notes.refusals() > 0));
        }
        for bug in self.bugs.iter().filter(|bug| bug.known.is_none()) {
            self.text(bug, out)?;
        }
        let known: Vec<&Bug> = self.bugs.iter().filter(|bug| bug.known.is_some()).collect();
        for bug in &known {
            let reason = bug.known.as_deref().unwrap_or_default();
            writeln!(out, "known   {} ({} times): {reason}", bug.report.title, bug.count)?;
        }
        for remark in remarks {
            writeln!(out, "note    {remark}")?;
        }
        self.notes.text(out, self.many_files)?;
        // The error is printed, too.
        let others = if self.many_files { self.not_scanned.as_slice() } else { &[] };
        for NotScanned { why, .. } in others {
            writeln!(out, "{}: {why}", coloured("not scanned", AnsiColor::Yellow))?;
        }
        let different = self.bugs.len() - known.len();
        let refusals = match self.notes.refusals() {
            0 => String::new(),
            1 => ", 1 refusal".to_owned(),
            some => format!(", {some} refusals"),
        };
        let files = self.scanned + self.not_scanned.len();
        let place = if self.scanned < files {
            format!("{refusals} in {} of {files} files", self.scanned)
        } else {
            refusals
        };
        match (self.news, self.knowns) {
            // Nothing was looked at.
            (0, 0) if self.scanned == 0 => {}
            (0, 0) => writeln!(out, "{}{place}", coloured("no reports", AnsiColor::Green))?,
            (1, 0) => writeln!(out, "{}{place}", news("1 report"))?,
            (n, 0) => writeln!(out, "{}, {different} different{place}", news(&format!("{n} reports")))?,
            (0, knowns) => writeln!(out, "0 reports, 0 different; {knowns} known{place}")?,
            (n, knowns) => {
                let reports = news(&format!("{n} reports"));
                writeln!(out, "{reports}, {different} different; {knowns} known{place}")?;
            }
        }
        Ok(u8::from(self.news + self.notes.refusals() > 0))
    }

    fn text(&self, bug: &Bug, out: &mut dyn Write) -> Result<()> {
        let report = &bug.report;
        let times =
            if bug.count > 1 { format!("  ({} times, the first shown)", bug.count) } else { String::new() };
        writeln!(out, "{}{times}", news(&report.title))?;
        let file = if self.many_files { format!("{} ", bug.file) } else { String::new() };
        let mut facts = vec![
            format!("{file}lines {}-{}", report.lines.start(), report.lines.end()),
            report.kind.name().to_owned(),
        ];
        facts.extend(report.process.as_ref().map(|process| format!("{}/{}", process.comm, process.pid)));
        facts.extend(report.cpu.map(|cpu| format!("CPU {cpu}")));
        facts.extend(report.time.map(|time| format!("at {}.{:06} s", time / 1_000_000, time % 1_000_000)));
        writeln!(out, "    {}", facts.join(", "))?;
        writeln!(out, "    signature {}  {}", report.signature.hash, report.signature.key)?;
        if let Some(why) = report.corrupted {
            let why = serde_json::to_string(&why).map_err(std::io::Error::from)?;
            writeln!(out, "    corrupted: {}", why.trim_matches('"').replace('-', " "))?;
        }
        if let Some(panic) = &report.panic {
            writeln!(out, "    led to a panic: {panic}")?;
        }
        let reliable: Vec<&Frame> = report.frames.iter().filter(|frame| frame.reliable).collect();
        let frames = reliable.iter().skip(checkers_own(&reliable)).take(16);
        let places: Vec<String> = frames
            .map(|frame| {
                let name = plain_name(&frame.function);
                let note = if frame.inlined { " [inlined]" } else { "" };
                frame
                    .source
                    .as_ref()
                    .map_or_else(|| name.to_owned(), |source| format!("{name} ({source}){note}"))
            })
            .collect();
        if report.frames.iter().any(|frame| frame.source.is_some()) {
            for place in places {
                writeln!(out, "      {place}")?;
            }
        } else if !places.is_empty() {
            writeln!(out, "    {}", places.join(" < "))?;
        }
        for line in draw_ring(report).iter().flat_map(|ring| ring.lines()) {
            writeln!(out, "    {line}")?;
        }
        for (number, line) in &bug.around.before {
            writeln!(out, "    {number:>7}  {line}")?;
        }
        if bug.around != Around::default() {
            writeln!(out, "    {:>7}  (the report)", report.lines.start())?;
        }
        for (number, line) in &bug.around.after {
            writeln!(out, "    {number:>7}  {line}")?;
        }
        Ok(writeln!(out)?)
    }
}

/// What a comparison shows as new.
fn news(text: &str) -> String {
    coloured(text, AnsiColor::Red)
}

/// The number of frames at the head of a stack that belong to the checker; 0 if all of them do.
/// Inlined functions come before the frame that they were inlined into.
fn checkers_own(frames: &[&Frame]) -> usize {
    let Some(first) = frames.iter().position(|frame| !frame.inlined && !is_machinery(&frame.function)) else {
        return 0;
    };
    first - frames[..first].iter().rev().take_while(|frame| frame.inlined).count()
}

fn row<'a>(file: &'a str, report: &'a Report, known: Option<&'a str>) -> Row<'a> {
    Row {
        file,
        class: "bug",
        kind: report.kind.name(),
        container: report.excerpt.container,
        quoted: report.excerpt.quoted,
        wrapped: report.excerpt.wrapped,
        title: &report.title,
        signature: &report.signature.hash,
        key: &report.signature.key,
        corrupted: report.corrupted,
        lines: [*report.lines.start(), *report.lines.end()],
        time_us: report.time,
        process: &report.process,
        cpu: report.cpu,
        blame: report.blame.as_deref(),
        assertion: report.assertion.as_deref(),
        source: report.source.as_deref(),
        detail: report.detail.as_deref(),
        panic: report.panic.as_deref(),
        frames: &report.frames,
        stacks: &report.stacks,
        locks: &report.locks,
        known,
    }
}

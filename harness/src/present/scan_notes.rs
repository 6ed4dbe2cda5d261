//! The part of the output of `hotplug scan` that is not about single reports: which of them are
//! quoted or incomplete, which do not count, and the refusals.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use anstyle::AnsiColor;
use hotplug_kreport::{Container, Excerpt, LeftOut, Refusal, Remainder, Report};
use serde::Serialize;

use super::terminal::coloured;
use crate::Result;
use crate::text::harmless;

/// Characters of a line of the log that are printed.
const LINE: usize = 200;

/// The remarks on all files.
#[derive(Debug, Default)]
pub(super) struct ScanNotes {
    quoted: BTreeMap<Quoted, u64>,
    wrapped: u64,
    left_out: Vec<LeftOutRow>,
    /// `None` if they were not looked for.
    refusals: Option<Vec<RefusalRow>>,
    more_refusals: u64,
}

/// What the log of a quoted report stands in, in words.
type Quoted = &'static str;

/// Reports of one file that do not count, in JSON.
#[derive(Debug, Serialize)]
struct LeftOutRow {
    file: String,
    #[serde(flatten)]
    left_out: LeftOut,
}

/// A refusal in JSON.
#[derive(Debug, Serialize)]
struct RefusalRow {
    file: String,
    class: &'static str,
    #[serde(flatten)]
    refusal: Refusal,
}

impl ScanNotes {
    /// Notes how the text of a report came into its file.
    pub(super) fn report(&mut self, report: &Report) {
        let Excerpt { container, quoted, wrapped } = report.excerpt;
        let place = match container {
            Container::Mail => "in a mail",
            Container::Page => "on a page",
            Container::Log => "in a log",
        };
        *self.quoted.entry(place).or_default() += u64::from(quoted);
        self.wrapped += u64::from(wrapped);
    }

    /// Notes the rest of a file. Its reports were handed over before.
    pub(super) fn rest(&mut self, file: &str, rest: Remainder) {
        let left_out = |left_out| LeftOutRow { file: file.to_owned(), left_out };
        self.left_out.extend(rest.left_out.into_iter().map(left_out));
        if let Some(refusals) = rest.refusals {
            let row = |refusal| RefusalRow { file: file.to_owned(), class: "refusal", refusal };
            self.refusals.get_or_insert_default().extend(refusals.into_iter().map(row));
        }
        self.more_refusals += rest.more_refusals;
    }

    /// The number of refusals; 0 if they were not looked for.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals.as_ref().map_or(0, |refusals| refusals.len() as u64) + self.more_refusals
    }

    /// Prints the refusals and the notes.
    pub(super) fn text(&self, out: &mut dyn Write, many_files: bool) -> Result<()> {
        let file = |name: &str| if many_files { format!("{name} ") } else { String::new() };
        for RefusalRow { file: name, refusal, .. } in self.refusals.iter().flatten() {
            let refused = coloured("refused", AnsiColor::Yellow);
            writeln!(out, "{refused} {}: {}", refusal.what, harmless(&refusal.reason, LINE))?;
            let (first, last) = (refusal.lines.start(), refusal.lines.end());
            let lines = if first == last { format!("line {first}") } else { format!("lines {first}-{last}") };
            let mut facts = vec![format!("{}{lines}", file(name))];
            facts.extend(refusal.object.as_ref().map(|object| harmless(object, LINE)));
            facts.extend(
                refusal.time.map(|time| format!("at {}.{:06} s", time / 1_000_000, time % 1_000_000)),
            );
            facts.extend((refusal.times > 1).then(|| format!("{} times", refusal.times)));
            facts.extend(refusal.retried.then(|| "the kernel tries again by itself".to_owned()));
            writeln!(out, "        {}", facts.join(", "))?;
            writeln!(out, "        {}", harmless(&refusal.text, LINE))?;
        }
        if self.more_refusals > 0 {
            writeln!(out, "refused {} times more, which are not listed", self.more_refusals)?;
        }
        for (place, count) in self.quoted.iter().filter(|(_, count)| **count > 0) {
            writeln!(out, "note    {} quoted {place}", are(*count))?;
        }
        if self.wrapped > 0 {
            let count = are(self.wrapped).replace(" is", " has").replace(" are", " have");
            writeln!(out, "note    {count} broken lines: frames may be missing")?;
        }
        for LeftOutRow { file: name, left_out } in &self.left_out {
            let LeftOut { reason, count, first_line } = left_out;
            let count = are(*count)
                .replace(" is", " does not count: it is")
                .replace(" are", " do not count: they are");
            writeln!(out, "note    {count} {reason} ({}line {first_line})", file(name))?;
        }
        Ok(())
    }

    /// The members of the JSON object, each with a comma before it.
    pub(super) fn json(&self) -> Result<String> {
        let left_out = serde_json::to_string(&self.left_out).map_err(std::io::Error::from)?;
        let refusals = serde_json::to_string(&self.refusals).map_err(std::io::Error::from)?;
        let more = self.more_refusals;
        Ok(format!(",\"left_out\":{left_out},\"refusals\":{refusals},\"more_refusals\":{more}"))
    }
}

fn are(count: u64) -> String {
    if count == 1 { "1 report is".to_owned() } else { format!("{count} reports are") }
}

/// Lines of a log around a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// The lines before it, each with its number.
    pub before: Vec<(u64, String)>,
    /// The lines after it.
    pub after: Vec<(u64, String)>,
}

/// Reads the `count` lines before and after each report, in one pass over the log.
pub(super) fn around(log: impl BufRead, reports: &[(u64, u64)], count: u64) -> Result<Vec<Around>> {
    let mut found = vec![Around::default(); reports.len()];
    for (number, line) in (1_u64..).zip(log.split(b'\n')) {
        let line = line?;
        let mut text = None;
        for (place, (first, last)) in found.iter_mut().zip(reports) {
            let before = number < *first && number + count >= *first;
            let after = number > *last && number <= last.saturating_add(count);
            if before || after {
                let text = text.get_or_insert_with(|| harmless(&String::from_utf8_lossy(&line), LINE));
                let lines = if before { &mut place.before } else { &mut place.after };
                lines.push((number, text.clone()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_around_reports_are_found_in_one_pass() {
        let log = b"a\nb\nc\nd\ne\x1b[31m\nf\n";
        let found = around(&log[..], &[(1, 2), (4, 4)], 2).unwrap();
        let line = |number: u64, text: &str| (number, text.to_owned());
        assert_eq!(found[0], Around { before: vec![], after: vec![line(3, "c"), line(4, "d")] });
        assert_eq!(found[1].before, [line(2, "b"), line(3, "c")]);
        assert_eq!(found[1].after, [line(5, "e[31m"), line(6, "f")]);
    }
}

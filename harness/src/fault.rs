//! A fault in the text of a scenario, with its place.

use std::ops::Range;

use crate::Error;

/// A fault, and its place in the text.
#[derive(Debug)]
pub(crate) struct Fault {
    span: Range<usize>,
    what: String,
    help: String,
}

impl Fault {
    /// `what` is wrong at `span`, and `help` repairs it.
    pub(crate) fn new(span: Range<usize>, what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { span, what: what.into(), help: help.into() }
    }

    /// The fault as the user's error, with its line and a pointer under the faulty words.
    pub(crate) fn at(self, file: &str, text: &str) -> Error {
        let start = self.span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let number = text[..line_start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count();
        let width = text[start..self.span.end.min(line_start + line.len()).max(start)].chars().count().max(1);
        let margin = " ".repeat(number.to_string().len());
        let detail =
            format!("{margin} |\n{number} | {line}\n{margin} | {}{}", " ".repeat(column), "^".repeat(width));
        Error::user(format!("{file}:{number}: {}", self.what)).detail(detail).help(self.help)
    }
}

//! The marks that mails, issues and pastes put before the lines of a log: blanks, `> `, `| `,
//! back-ticks and fences.
//!
//! The indentation of the kernel's own lines has a meaning for a reader, and none for the reports
//! of this crate but in headlines: a headline is not indented. So all marks before a headline are
//! the prefix of its block, and exactly this prefix is removed from the lines after it.

/// The marks that were removed from a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Quote {
    /// The bytes of the prefix.
    pub bytes: usize,
    /// The number of `>` and `|` in it.
    pub level: u8,
    /// The line has the prefix of the block that is being read.
    pub own: bool,
}

/// The marks to remove.
#[derive(Debug, Clone, Copy)]
pub(super) enum Strip<'a> {
    /// None: the line comes from the kernel as it is.
    Nothing,
    /// All of them: no report is being read.
    All,
    /// The prefix of the report that is being read.
    Prefix(&'a [u8]),
}

/// Removes the marks, and the back-ticks around the text. Returns the text.
pub(super) fn split<'a>(raw: &'a [u8], strip: Strip<'_>) -> (Quote, &'a [u8]) {
    match strip {
        Strip::Nothing => (Quote { bytes: 0, level: 0, own: true }, raw),
        Strip::All => {
            let (mut quote, text) = all(raw);
            quote.own = true;
            (quote, without_ticks(text))
        }
        Strip::Prefix(prefix) => {
            if let Some(text) = raw.strip_prefix(prefix) {
                return (Quote { bytes: prefix.len(), level: level(prefix), own: true }, without_ticks(text));
            }
            // The blanks at the end of a prefix are often lost in an empty line.
            if raw.len() < prefix.len() && prefix.starts_with(raw) {
                return (Quote { bytes: raw.len(), level: level(raw), own: true }, b"");
            }
            let (quote, text) = all(raw);
            (quote, without_ticks(text))
        }
    }
}

fn all(raw: &[u8]) -> (Quote, &[u8]) {
    let mut rest = raw;
    while let [b' ' | b'\t' | b'>' | b'|', tail @ ..] = rest {
        rest = tail;
    }
    let prefix = &raw[..raw.len() - rest.len()];
    // A row of a table.
    if prefix.contains(&b'|') && rest.trim_ascii_end().ends_with(b"|") {
        return (Quote::default(), raw);
    }
    (Quote { bytes: prefix.len(), level: level(prefix), own: false }, rest)
}

fn level(prefix: &[u8]) -> u8 {
    let marks = prefix.iter().filter(|byte| matches!(byte, b'>' | b'|')).count();
    u8::try_from(marks).unwrap_or(u8::MAX)
}

/// Removes what opens and closes code in Markdown and in the markup of Jira, if it stands in one
/// line with the text.
fn without_ticks(text: &[u8]) -> &[u8] {
    let mut text = text;
    for mark in [b"{noformat}".as_slice(), b"{code}", b"~~~"] {
        text = text.strip_prefix(mark).unwrap_or(text);
    }
    while let [b'`', tail @ ..] = text {
        text = tail;
    }
    // The kernel quotes `like this', and ends no line with a back-tick.
    while let [head @ .., b'`'] = text {
        text = head;
    }
    text
}

/// Whether a text opens or closes a block of code.
pub(super) fn is_fence(text: &[u8]) -> bool {
    let bare = text.trim_ascii();
    [b"```".as_slice(), b"~~~", b"{noformat}", b"{code"].iter().any(|fence| bare.starts_with(fence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: &str, strip: Strip<'_>) -> (u8, String) {
        let (quote, text) = split(raw.as_bytes(), strip);
        (quote.level, String::from_utf8_lossy(text).into_owned())
    }

    #[test]
    fn all_marks_before_a_headline_are_its_prefix() {
        for (raw, level) in [
            ("  BUG: x", 0),
            ("\tBUG: x", 0),
            ("> BUG: x", 1),
            (">> BUG: x", 2),
            ("> > BUG: x", 2),
            ("| BUG: x", 1),
            ("`BUG: x`", 0),
            ("  ```BUG: x", 0),
            ("{noformat}BUG: x", 0),
        ] {
            assert_eq!(text(raw, Strip::All), (level, "BUG: x".to_owned()), "{raw:?}");
        }
        assert_eq!(text("| BUG: x | a kind |", Strip::All).1, "| BUG: x | a kind |");
    }

    #[test]
    fn the_indentation_of_the_kernel_stays() {
        assert_eq!(text(">  foo+0x1/0x2", Strip::Prefix(b"> ")), (1, " foo+0x1/0x2".to_owned()));
        assert_eq!(text(">", Strip::Prefix(b"> ")), (1, String::new()));
        let (quote, _) = split(b"The fix is below.", Strip::Prefix(b"> "));
        assert!(!quote.own);
    }
}

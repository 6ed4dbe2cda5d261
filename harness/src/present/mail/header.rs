//! The header of a mail that answers the mail of a patch.

use std::fmt::Write as _;

use crate::kernel::ReplyTo;

/// The header: `To`, `Cc`, `Subject`, `In-Reply-To` and `References`, folded to `width`, and the
/// empty line after it.
pub(super) fn header(to: &ReplyTo, width: usize) -> String {
    let mut out = String::new();
    if let Some(from) = &to.from {
        folded(&mut out, "To", from, width);
    }
    if !to.cc.is_empty() {
        folded(&mut out, "Cc", &to.cc.join(", "), width);
    }
    let subject = to.subject.trim();
    let is_reply = subject.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("re:"));
    let subject = if is_reply { subject.to_owned() } else { format!("Re: {subject}") };
    folded(&mut out, "Subject", &subject, width);
    if let Some(id) = &to.message_id {
        folded(&mut out, "In-Reply-To", id, width);
        folded(&mut out, "References", id, width);
    }
    out.push('\n');
    out
}

/// A header, folded at its blanks (RFC 5322, 2.2.3). A word that is longer than a line stays whole.
fn folded(out: &mut String, name: &str, value: &str, width: usize) {
    let text = format!("{name}: {value}");
    let options = textwrap::Options::new(width)
        .subsequent_indent(" ")
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    for line in textwrap::wrap(&text, options) {
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_goes_to_all_and_its_lines_are_folded() {
        let to = ReplyTo {
            subject: "[PATCH v2 1/2] mm/memory_hotplug: a subject of some length that is folded".into(),
            message_id: Some("<20261126.1234-1-me@example.org>".into()),
            from: Some("Jörg <j@example.org>".into()),
            cc: vec!["linux-mm@kvack.org".into(), "A <a@example.org>, B <b@example.org>".into()],
        };
        let text = header(&to, 75);
        assert_eq!(
            text,
            "To: Jörg <j@example.org>\n\
             Cc: linux-mm@kvack.org, A <a@example.org>, B <b@example.org>\n\
             Subject: Re: [PATCH v2 1/2] mm/memory_hotplug: a subject of some length\n that is folded\n\
             In-Reply-To: <20261126.1234-1-me@example.org>\n\
             References: <20261126.1234-1-me@example.org>\n\n"
        );
        let unsent = ReplyTo { message_id: None, from: None, cc: Vec::new(), subject: "Re: x".into() };
        assert_eq!(header(&unsent, 75), "Subject: Re: x\n\n");
    }
}

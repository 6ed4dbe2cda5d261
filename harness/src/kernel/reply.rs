//! The mail that a patch came in, for the header of a reply to it.

use mailparse::{MailHeaderMap, MailParseError, parse_headers};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::harmless;

/// The longest value of a header that is kept, in characters. The lists of a large series have 2000.
const LONGEST: usize = 8000;

/// The mail that a patch came in: the cover letter of a series, or the first patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplyTo {
    /// Its subject, with `[PATCH v2 1/3]`.
    pub subject: String,
    /// Its message id, with angle brackets. Null for a mail that was never sent.
    pub message_id: Option<String>,
    /// Its author, who is answered.
    pub from: Option<String>,
    /// Its other recipients.
    pub cc: Vec<String>,
}

impl ReplyTo {
    /// Reads the header of a mail. `None` if it has no subject, or is none.
    pub(super) fn of(mail: &[u8]) -> Option<Self> {
        // The first line of an mbox's mail is no header.
        let start = if mail.starts_with(b"From ") { memchr::memchr(b'\n', mail)? + 1 } else { 0 };
        Self::of_headers(mail.get(start..)?).ok().flatten()
    }

    fn of_headers(mail: &[u8]) -> Result<Option<Self>, MailParseError> {
        let (headers, _) = parse_headers(mail)?;
        let value = |name: &str| {
            let values = headers.get_all_values(name);
            let all = values.join(", ");
            let words = all.split_whitespace().collect::<Vec<_>>().join(" ");
            (!words.is_empty()).then(|| harmless(&words, LONGEST))
        };
        let Some(subject) = value("Subject") else { return Ok(None) };
        let cc = ["To", "Cc"].into_iter().filter_map(value).collect();
        Ok(Some(Self { subject, message_id: value("Message-ID"), from: value("From"), cc }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_mail_says_whom_to_answer() {
        let mail = "From 1234 Mon Sep 17 00:00:00 2001\nFrom: =?UTF-8?q?J=C3=B6rg?= <j@example.org>\n\
            To: linux-mm@kvack.org\nSubject: [PATCH v2 1/2] mm: a subject that is long enough to be\n \
            folded\nMessage-Id: <1@example.org>\nCc: A <a@example.org>,\n\tB <b@example.org>\n\ntext\nTo: nobody\n";
        let found = ReplyTo::of(mail.as_bytes()).unwrap();
        assert_eq!(found.subject, "[PATCH v2 1/2] mm: a subject that is long enough to be folded");
        assert_eq!(found.message_id.as_deref(), Some("<1@example.org>"));
        assert_eq!(found.from.as_deref(), Some("Jörg <j@example.org>"));
        assert_eq!(found.cc, ["linux-mm@kvack.org", "A <a@example.org>, B <b@example.org>"]);
    }

    #[test]
    fn a_header_cannot_add_a_line_to_the_reply() {
        let mail = b"Subject: =?UTF-8?q?a=0ABcc:_x@example.org?=\n\ntext\n";
        assert_eq!(ReplyTo::of(mail).unwrap().subject, "a Bcc: x@example.org");
        assert_eq!(ReplyTo::of(b"--- a/x\n+++ b/x\n"), None);
        assert_eq!(ReplyTo::of(b"\xff\xfe\x00"), None);
    }
}

//! What a log stands in: a plain log, a mail, or a page of an issue tracker; and text that quotes a
//! log without reporting it: a commit message, a patch, documentation, source code.
//!
//! `docs/kernel-reports.md` has the rules and their reasons.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quote::{Quote, is_fence};

/// What a log stands in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Container {
    /// A log.
    #[default]
    Log,
    /// A mail, or a text with `> ` before its lines.
    Mail,
    /// A page in Markdown or in the markup of an issue tracker.
    Page,
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Log => "log",
            Self::Mail => "mail",
            Self::Page => "page",
        })
    }
}

/// The reason why a quoted log is no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftOutReason {
    /// It stands in a commit message or in a patch, which tells of a bug that is fixed.
    CommitMessage,
    /// It stands in documentation, as an example.
    Documentation,
    /// It stands in source code.
    SourceCode,
    /// The log has it a second time, with the same time of the kernel's clock.
    Repeated,
}

impl std::fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CommitMessage => "in a commit message or a patch",
            Self::Documentation => "in documentation",
            Self::SourceCode => "in source code",
            Self::Repeated => "printed a second time",
        })
    }
}

/// Where the first line of a report stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub container: Container,
    /// The report is in a text, so its first line is proof of nothing.
    pub text: bool,
    /// The text quotes it for another purpose.
    pub left_out: Option<LeftOutReason>,
    /// The text may show below that it is a commit message.
    pub undecided: bool,
}

impl Spot {
    /// In a log.
    pub(super) const LOG: Self =
        Self { container: Container::Log, text: false, left_out: None, undecided: false };
}

/// What a line begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seam {
    /// Nothing.
    None,
    /// A block of code.
    Fence,
    /// Another text, such as the next mail.
    Text,
}

/// Lines with the kernel's clock after which a file without other signs is a log.
const LOG_LINES: u32 = 20;
/// Lines at the start of a file in which source code shows what it is.
const SOURCE_LINES: u32 = 40;

/// The text around a report, as far as it was read.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the text")]
pub(super) struct Surroundings {
    container: Container,
    /// The whole text is of this kind until another mail or commit begins.
    left_out: Option<LeftOutReason>,
    /// In a reply to a patch, lines after `>` are the commit message.
    answers_patch: bool,
    /// The file is a log: nothing in it is quoted.
    log: bool,
    in_commit: bool,
    in_diff: bool,
    /// Between two fences.
    in_code: bool,
    lines: u32,
    timed: u32,
    /// The paragraph before the line has words of an example, and no words of a report.
    example: bool,
    first_person: bool,
    paragraph_over: bool,
    /// A line ends with the `::` of reStructuredText or the `: |` of YAML: lines that are indented
    /// more than it, which is by this number of bytes, are an example.
    literal: Option<usize>,
}

impl Surroundings {
    /// Whether every line must be read, because the file is no plain log.
    pub(super) fn is_text(&self) -> bool {
        !self.log && (self.container != Container::Log || self.left_out.is_some())
    }

    /// Where a report stands that begins with the next line.
    pub(super) fn place(&self, quote: Quote) -> Spot {
        if self.log {
            return Spot { text: quote.bytes > 0, ..Spot::LOG };
        }
        let patch = self.answers_patch && quote.level > 0;
        let example = self.literal.is_some() || self.example && !self.first_person;
        let left_out = self
            .left_out
            .or_else(|| patch.then_some(LeftOutReason::CommitMessage))
            .or_else(|| example.then_some(LeftOutReason::Documentation));
        let container = match self.container {
            Container::Log if quote.level > 0 => Container::Mail,
            container => container,
        };
        let text = container != Container::Log || quote.bytes > 0;
        Spot { container, text, left_out, undecided: true }
    }

    /// Reads a line. `kernel` is true if it has the kernel's clock or another prefix of a log;
    /// `part` is true if it belongs to a report.
    pub(super) fn see(&mut self, raw: &[u8], quote: Quote, kernel: bool, part: bool) -> Seam {
        let bare = raw.trim_ascii();
        if self.log || bare.is_empty() {
            self.paragraph_over = true;
            return Seam::None;
        }
        self.lines = self.lines.saturating_add(1);
        if kernel && quote.level == 0 {
            self.timed += 1;
            let alone = self.container == Container::Log && self.left_out.is_none();
            // A mail, a commit message and a manual begin with prose.
            self.log = alone && (self.timed == self.lines || self.timed >= LOG_LINES);
        }
        if kernel {
            // In a commit message and in a diff, no line of a log is at the margin: a CI job that
            // printed them goes on with its log.
            let at_margin = quote.bytes == 0 && matches!(raw.first(), Some(b'[' | b'<' | b'0'..=b'9'));
            if at_margin && (self.in_commit || self.in_diff) {
                (self.in_commit, self.in_diff, self.left_out) = (false, false, None);
            }
            return Seam::None;
        }
        if is_fence(bare) {
            self.page();
            self.in_code = !self.in_code;
            return Seam::Fence;
        }
        let mut seam = Seam::None;
        if quote.bytes == 0 {
            seam = self.sign(raw);
        } else if quote.level > 0 && bare.first() == Some(&b'>') && self.container == Container::Log {
            self.container = Container::Mail;
        }
        if !part && !self.in_code {
            let indent = raw.len() - raw.trim_ascii_start().len();
            if LITERAL.iter().any(|end| bare.ends_with(end)) {
                self.literal = Some(indent);
            } else if self.literal.is_some_and(|literal| indent <= literal) && !is_rule(bare) {
                self.literal = None;
            }
            if !is_indented(raw) {
                self.paragraph(bare);
            }
        }
        seam
    }

    /// The kernel starts: what follows is its log.
    pub(super) fn boot(&mut self) {
        *self = Self { log: true, ..Self::default() };
    }

    fn page(&mut self) {
        if self.container == Container::Log {
            self.container = Container::Page;
        }
    }

    /// Reads the signs in a line that begins at the margin.
    fn sign(&mut self, raw: &[u8]) -> Seam {
        let text = String::from_utf8_lossy(&raw[..raw.len().min(200)]);
        let text = &*text;
        if self.in_commit && !is_of_commit(text) {
            self.in_commit = false;
            self.left_out = None;
        }
        if let Some(hash) = text.strip_prefix("commit ")
            && is_hash(hash.split([' ', '(']).next().unwrap_or_default())
        {
            self.in_commit = true;
            self.left_out = Some(LeftOutReason::CommitMessage);
            return Seam::Text;
        } else if let Some(sender) = text.strip_prefix("From ")
            && sender.split(' ').next().is_some_and(|word| word.contains('@') || is_hash(word))
        {
            *self = Self { container: Container::Mail, ..Self::default() };
            return Seam::Text;
        } else if let Some(subject) = text.strip_prefix("Subject: ") {
            self.subject(subject.trim());
            return Seam::Text;
        } else if text.starts_with("diff --git ") {
            // The patch of a mail is a part of the mail.
            self.in_diff = self.left_out.is_none() || self.in_commit;
            self.left_out = Some(LeftOutReason::CommitMessage);
        } else if is_header(text) || text.trim_end().ends_with(" wrote:") {
            self.container = Container::Mail;
        } else if text.starts_with("## ")
            || text.starts_with("### ")
            || text.starts_with("- [ ] ")
            || text.starts_with("<details")
            || text.starts_with("**") && text.trim_end().ends_with("**")
        {
            self.page();
        } else if is_rest(text) {
            self.left_out = Some(LeftOutReason::Documentation);
        } else if self.lines <= SOURCE_LINES && is_source(text) {
            self.left_out = Some(LeftOutReason::SourceCode);
        }
        Seam::None
    }

    fn subject(&mut self, subject: &str) {
        let tag = |text: &str| {
            text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).is_some_and(|(tag, _)| {
                let tag = tag.to_ascii_uppercase();
                tag.contains("PATCH") || tag.contains("GIT PULL") || tag == "GIT" || tag.starts_with("RFC")
            })
        };
        let reply = ["re:", "aw:", "fwd:", "fw:", "sv:", "antw:"]
            .iter()
            .any(|word| subject.to_ascii_lowercase().starts_with(word));
        let patch = tag(subject);
        self.container = Container::Mail;
        self.left_out = (patch && !reply).then_some(LeftOutReason::CommitMessage);
        self.answers_patch = patch && reply;
    }

    /// Reads a line of prose above a report.
    fn paragraph(&mut self, bare: &[u8]) {
        // Banners, and the line above a WARNING.
        if !bare.iter().any(u8::is_ascii_alphabetic) || memchr::memmem::find(bare, b"[ cut here ]").is_some()
        {
            return;
        }
        if std::mem::take(&mut self.paragraph_over) {
            self.example = false;
            self.first_person = false;
        }
        let text = String::from_utf8_lossy(&bare[..bare.len().min(400)]).to_lowercase();
        self.example |= EXAMPLES.iter().any(|words| text.contains(words));
        self.first_person |=
            text.split(|c: char| !c.is_alphanumeric() && c != '\'').any(|word| FIRST_PERSON.contains(&word));
    }
}

/// Ends of lines that introduce a literal block.
const LITERAL: [&[u8]; 3] = [b"::", b": |", b": |-"];

/// Words that introduce an example.
const EXAMPLES: [&str; 22] = [
    "for example",
    "for instance",
    "e.g.",
    "example:",
    "an example",
    "example of",
    "example report",
    "in this example",
    "looks like",
    "look like",
    "typical",
    "similar to the following",
    "similar to this",
    "something like",
    "sample",
    "consider the following",
    "illustrate",
    "expected output",
    "format of",
    "of the form",
    "will print",
    "would print",
];

/// Words with which people tell what happened to them.
const FIRST_PERSON: [&str; 12] =
    ["i", "i'm", "i've", "we", "we've", "my", "our", "me", "us", "got", "seeing", "saw"];

/// A banner, or the line above a WARNING: no prose.
fn is_rule(bare: &[u8]) -> bool {
    !bare.iter().any(u8::is_ascii_alphabetic) || memchr::memmem::find(bare, b"[ cut here ]").is_some()
}

/// Whether a line is set off from the prose around it, with or without `> ` before.
fn is_indented(raw: &[u8]) -> bool {
    let marks = raw.iter().take_while(|byte| b" \t>|".contains(byte)).count();
    let (marks, quoted) = match raw[..marks].iter().rposition(|byte| b">|".contains(byte)) {
        Some(at) => (&raw[at + 1..marks], 1),
        None => (&raw[..marks], 0),
    };
    marks.contains(&b'\t') || marks.len() > quoted
}

fn is_hash(word: &str) -> bool {
    (7..=64).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A line at the margin that `git log` and `git show` print with a commit.
fn is_of_commit(text: &str) -> bool {
    const HEADS: [&str; 18] = [
        "commit ",
        "Author",
        "Commit",
        "Date",
        "Merge",
        "diff ",
        "index ",
        "--- ",
        "+++ ",
        "@@ ",
        "+",
        "-",
        "new file ",
        "deleted file ",
        "rename ",
        "similarity ",
        "Notes",
        "\\ No newline",
    ];
    HEADS.iter().any(|head| text.starts_with(head))
}

/// A header that only mails have.
fn is_header(text: &str) -> bool {
    const NAMES: [&str; 13] = [
        "From",
        "To",
        "Cc",
        "CC",
        "Date",
        "Message-ID",
        "Message-Id",
        "In-Reply-To",
        "References",
        "Return-Path",
        "Reply-To",
        "List-Id",
        "Delivered-To",
    ];
    text.split_once(": ").is_some_and(|(name, rest)| NAMES.contains(&name) && !rest.is_empty())
}

/// A directive of reStructuredText, or a macro of a manual page.
fn is_rest(text: &str) -> bool {
    let directive = text.strip_prefix(".. ").is_some_and(|rest| {
        rest.starts_with('_')
            || rest.starts_with("SPDX")
            || rest.split(' ').next().is_some_and(|word| word.ends_with("::"))
    });
    directive || text.starts_with(".TH ") || text.starts_with(".SH ")
}

/// A line that only source code has.
fn is_source(text: &str) -> bool {
    // syzkaller begins the logs of its tests with the title that it expects.
    const HEADS: [&str; 12] = [
        "#include ",
        "#define ",
        "#ifndef ",
        "#!/",
        "// SPDX",
        "/* SPDX",
        "# SPDX",
        "use std::",
        "import (",
        "from __future__",
        "static const ",
        "TITLE: ",
    ];
    let words = text.split(' ').count();
    let import = text.starts_with("import ") && words <= 3 && !text.trim_end().ends_with('.')
        || text.starts_with("from ") && text.contains(" import ");
    let package = text.starts_with("package ") && words == 2;
    import || package || HEADS.iter().any(|head| text.starts_with(head))
}

//! Known issues: a TOML file of signatures and patterns, each with a reason.

use std::path::PathBuf;

use jiff::civil::Date;
use regex::Regex;
use serde::Deserialize;

use super::{InputError, Kind, Report};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    known: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    reason: String,
    signature: Option<String>,
    kind: Option<Kind>,
    title: Option<String>,
    key: Option<String>,
    expires: Option<toml::value::Datetime>,
    #[serde(default)]
    mask: Masks,
}

/// A path, or a list of paths.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Masks {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

impl Default for Masks {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

/// One known issue.
#[derive(Debug)]
pub struct KnownIssue {
    /// The reason why it is tolerated.
    pub reason: String,
    /// The last day on which it counts.
    pub expires: Option<Date>,
    /// The number of reports that it has matched so far.
    pub matched: u64,
    /// It is past its last day, and matches no report.
    pub expired: bool,
    /// Patches that keep the kernel from printing the report, and leave the lock as it is. The first
    /// that applies to a source is for it. The paths begin at the folder of the file.
    pub masks: Vec<PathBuf>,
    signature: Option<String>,
    kind: Option<Kind>,
    title: Option<Regex>,
    key: Option<Regex>,
}

/// The known issues, in the order of the file.
///
/// All fields of an entry must match. `reason` is required, and so is one of `signature`, `title`
/// and `key`; the last two are regular expressions. `mask` is optional.
///
/// ```toml
/// [[known]]
/// reason = "reported upstream"
/// key = 'kn->active'
/// kind = "lockdep-circular"
/// expires = 2026-12-31
/// mask = "cpu-online-attribute.patch"
/// ```
#[derive(Debug, Default)]
pub struct KnownIssues {
    issues: Vec<KnownIssue>,
}

impl KnownIssues {
    /// Parses the text of the file `name`. Entries whose last day is before `today` match no
    /// report.
    ///
    /// # Errors
    /// Fails on an unknown key, on a pattern that is not a regular expression, and on an entry that
    /// would match every report. The error names the place.
    pub fn parse(name: &str, text: &str, today: Date) -> Result<Self, InputError> {
        let file: File =
            toml::from_str(text).map_err(|source| InputError::Syntax { file: name.to_owned(), source })?;
        let issues = file
            .known
            .into_iter()
            .map(|entry| KnownIssue::new(entry, today))
            .collect::<Result<_, InputError>>()?;
        Ok(Self { issues })
    }

    /// Finds the first issue that matches a report, and counts the match.
    pub fn find(&mut self, report: &Report) -> Option<&KnownIssue> {
        let issue = self.issues.iter_mut().find(|issue| issue.matches(report))?;
        issue.matched += 1;
        Some(issue)
    }

    /// The masks of the issues that have not expired, each with its reason.
    pub fn masks(&self) -> impl Iterator<Item = (&[PathBuf], &str)> {
        let valid = self.issues.iter().filter(|issue| !issue.expired && !issue.masks.is_empty());
        valid.map(|issue| (issue.masks.as_slice(), issue.reason.as_str()))
    }

    /// Remarks on the file itself after a run: entries that have expired, and entries without a
    /// match. An entry with a mask should not match anything.
    pub fn remarks(&self) -> Vec<String> {
        self.issues
            .iter()
            .filter_map(|issue| {
                let name = issue.name();
                match (issue.expired, issue.expires) {
                    (true, Some(day)) => {
                        Some(format!("known issue {name} expired on {day}: {}", issue.reason))
                    }
                    _ if issue.matched == 0 && issue.masks.is_empty() => {
                        Some(format!("known issue {name} matched nothing: {}", issue.reason))
                    }
                    _ => None,
                }
            })
            .collect()
    }
}

impl KnownIssue {
    fn new(entry: Entry, today: Date) -> Result<Self, InputError> {
        let wrong = |what: String, source, help| InputError::KnownIssue {
            reason: entry.reason.clone(),
            what,
            source,
            help,
        };
        if entry.signature.is_none() && entry.title.is_none() && entry.key.is_none() {
            let help = "give a signature, a title or a key";
            return Err(wrong("no signature, title or key".to_owned(), None, Some(help)));
        }
        if let Some(hash) = entry.signature.as_deref()
            && (hash.len() != 12 || !hash.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            let help = "a signature is 12 hexadecimal digits, as hotplug scan prints it";
            return Err(wrong(format!("{hash:?} is not a signature"), None, Some(help)));
        }
        let pattern = |text: &Option<String>| {
            text.as_deref()
                .map(Regex::new)
                .transpose()
                .map_err(|error| wrong("invalid regular expression".to_owned(), Some(error.into()), None))
        };
        let expires = entry
            .expires
            .map(|day| day.to_string().get(..10).unwrap_or_default().parse::<Date>())
            .transpose()
            .map_err(|error| wrong("expires is not a date".to_owned(), Some(error.into()), None))?;
        Ok(Self {
            title: pattern(&entry.title)?,
            key: pattern(&entry.key)?,
            expires,
            matched: 0,
            expired: expires.is_some_and(|day| day < today),
            signature: entry.signature.map(|hash| hash.to_ascii_lowercase()),
            kind: entry.kind,
            masks: match entry.mask {
                Masks::One(path) => vec![path],
                Masks::Several(paths) => paths,
            },
            reason: entry.reason,
        })
    }

    /// Whether all fields that the entry gives match.
    fn matches(&self, report: &Report) -> bool {
        !self.expired
            && self.signature.as_deref().is_none_or(|hash| hash == report.signature.hash)
            && self.kind.is_none_or(|kind| kind == report.kind)
            && self.title.as_ref().is_none_or(|title| title.is_match(&report.title))
            && self.key.as_ref().is_none_or(|key| key.is_match(&report.signature.key))
    }

    fn name(&self) -> String {
        let pattern = self.title.as_ref().or(self.key.as_ref()).map(Regex::as_str);
        self.signature.clone().or_else(|| pattern.map(|text| format!("{text:?}"))).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan;

    fn report() -> Report {
        scan(b"WARNING: CPU: 0 PID: 1 at mm/x.c:1 foo+0x1/0x2\nCall Trace:\n foo+0x1/0x2\n").remove(0)
    }

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn a_known_report_is_known_until_its_day_has_passed() {
        let text =
            "[[known]]\nreason = \"ours\"\ntitle = 'in foo$'\nkind = 'warning'\nexpires = 2026-06-30\n";
        let mut known = KnownIssues::parse("k.toml", text, day("2026-06-30")).unwrap();
        assert_eq!(known.find(&report()).map(|issue| issue.reason.as_str()), Some("ours"));
        assert!(known.remarks().is_empty());
        let mut late = KnownIssues::parse("k.toml", text, day("2026-07-01")).unwrap();
        assert!(late.find(&report()).is_none());
        assert!(late.remarks()[0].contains("expired on 2026-06-30"));
    }

    #[test]
    fn an_idle_entry_and_a_wrong_one_are_said() {
        let known = KnownIssues::parse(
            "k.toml",
            "[[known]]\nreason = \"r\"\nsignature = \"0123456789ab\"\n",
            day("2026-01-01"),
        )
        .unwrap();
        assert!(known.remarks()[0].contains("matched nothing"));
        for wrong in [
            "[[known]]\nreason = 'r'\n",
            "[[known]]\nreason = 'r'\nsignature='x'\n",
            "[[known]]\nreason='r'\ntitle='('\n",
            "[[known]]\nreason='r'\ntitel='x'\n",
        ] {
            assert!(KnownIssues::parse("k.toml", wrong, day("2026-01-01")).is_err(), "{wrong}");
        }
    }
}

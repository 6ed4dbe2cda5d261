//! apt's sources (sources.list(5)): reads those of this machine, and makes a backports source from
//! its Debian entry.

use std::fmt;

use super::System;

/// The file of the harness's own source.
pub(super) const OUR_SOURCE: &str = "/etc/apt/sources.list.d/hotplug-backports.sources";

/// Fields of a stanza that the harness's source replaces. The others (URIs, keys, options) are
/// kept.
const REPLACED: [&str; 5] = ["types", "suites", "components", "enabled", "x-repolib-name"];

/// One source: a deb822 stanza, or a one-line entry converted to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Names and values in order. Values keep their continuation lines.
    fields: Vec<(String, String)>,
}

impl Source {
    fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        let value = self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        value.map_or("", |(_, value)| value.as_str()).split_whitespace()
    }

    fn has(&self, name: &str, word: &str) -> bool {
        self.words(name).any(|found| found == word)
    }

    /// Whether the source has binary packages of `suite`.
    pub(super) fn offers(&self, suite: &str) -> bool {
        self.has("Types", "deb") && self.has("Suites", suite) && self.has("Components", "main")
    }

    /// A source for another suite of the same archive, with the same keys.
    pub(super) fn for_suite(&self, suite: &str) -> Self {
        let own = [("Types", "deb"), ("Suites", suite), ("Components", "main")];
        let kept =
            self.fields.iter().filter(|(key, _)| !REPLACED.iter().any(|name| key.eq_ignore_ascii_case(name)));
        let own = own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Self { fields: own.chain(kept.cloned()).collect() }
    }
}

/// Writes a stanza of a `.sources` file.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields.iter().try_for_each(|(key, value)| {
            let gap = if value.starts_with('\n') { "" } else { " " };
            writeln!(f, "{key}:{gap}{value}")
        })
    }
}

/// All enabled sources of the machine.
pub(super) fn sources(system: &System) -> Vec<Source> {
    let mut paths = vec!["/etc/apt/sources.list".into()];
    paths.extend(system.entries("/etc/apt/sources.list.d"));
    let read = |path: &std::path::PathBuf| {
        let text = system.read(path)?;
        match path.extension()?.to_str()? {
            "sources" => Some(parse_stanzas(&text)),
            "list" => Some(parse_lines(&text)),
            // apt ignores other extensions: .save, .disabled, ...
            _ => None,
        }
    };
    paths.iter().filter_map(read).flatten().collect()
}

fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            let source = Source { fields: std::mem::take(&mut fields) };
            let disabled = ["no", "false", "0", "off"].iter().any(|no| source.has("Enabled", no));
            if !source.fields.is_empty() && !disabled {
                found.push(source);
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    found
}

fn parse_lines(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

/// Parses `deb [option=value ...] uri suite component...`.
fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    let (options, rest) = match rest.trim().strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let components: Vec<_> = words.collect();
    let mut fields = vec![
        ("Types".to_owned(), kind.to_owned()),
        ("URIs".to_owned(), uri.to_owned()),
        ("Suites".to_owned(), suite.to_owned()),
        ("Components".to_owned(), components.join(" ")),
    ];
    for (name, value) in options.split_whitespace().filter_map(|option| option.split_once('=')) {
        fields.push((stanza_name(name), value.replace(',', " ")));
    }
    Some(Source { fields })
}

/// The deb822 name of a one-line option. Each word is capitalised, except for three options whose
/// deb822 name is different.
fn stanza_name(option: &str) -> String {
    match option {
        "arch" => return "Architectures".to_owned(),
        "lang" => return "Languages".to_owned(),
        "target" => return "Targets".to_owned(),
        _ => {}
    }
    let capital = |word: &str| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        first.to_uppercase() + rest
    };
    option.split('-').map(capital).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "# Comment\nTypes: deb deb-src\n# was: http://old.example/debian\nURIs: \
        http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main contrib\n\
        Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINB\n\nTypes: deb\nEnabled: no\nURIs: \
        http://off.example/debian\nSuites: bookworm-backports\nComponents: main\n";

    #[test]
    fn a_stanza_keeps_its_key_for_backports() {
        let sources = parse_stanzas(STANZAS);
        assert_eq!(sources.len(), 1, "the second is disabled");
        assert!(sources[0].offers("bookworm") && !sources[0].offers("bookworm-backports"));
        insta::assert_snapshot!(sources[0].for_suite("bookworm-backports"), @r#"
        Types: deb
        Suites: bookworm-backports
        Components: main
        URIs: http://mirror.example/debian
        Signed-By:
         -----BEGIN PGP PUBLIC KEY BLOCK-----
         .
         mQINB
        "#);
    }

    #[test]
    fn one_line_entries_become_stanzas() {
        let sources = parse_lines(
            "# deb http://commented.example/debian bookworm main\ndeb-src http://a.example/debian bookworm main\n\
             deb [arch=amd64,i386 signed-by=/usr/share/keyrings/a.gpg check-valid-until=no] http://a.example/debian \
             bookworm main non-free-firmware # mine\ndeb http://b.example/debian bookworm-backports main\nrubbish\n",
        );
        let offering: Vec<_> = sources.iter().filter(|source| source.offers("bookworm")).collect();
        assert_eq!(offering.len(), 1, "deb-src offers no packages");
        assert!(sources.iter().any(|source| source.offers("bookworm-backports")));
        insta::assert_snapshot!(offering[0].for_suite("bookworm-backports"), @r#"
        Types: deb
        Suites: bookworm-backports
        Components: main
        URIs: http://a.example/debian
        Architectures: amd64 i386
        Signed-By: /usr/share/keyrings/a.gpg
        Check-Valid-Until: no
        "#);
    }
}

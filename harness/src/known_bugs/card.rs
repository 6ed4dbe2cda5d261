//! The card of an entry: what its patch does to a kernel, and which findings the harness should
//! have.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::compare::Finding;
use crate::{Error, Result};

/// The origin of an entry's patch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It reverts a fix that the kernel once got.
    Undoes {
        /// The fix's subject line.
        subject: String,
        /// Its commit in the mainline.
        commit: String,
        /// The first release with it.
        version: String,
    },
    /// It was proposed with this subject line, and was not merged.
    Proposed(String),
    /// It was made to plant this kind of defect.
    Plants(String),
    /// It does not change what a kernel does, so every new finding with it is a false report.
    ChangesNothing(String),
}

/// The measured reliability of the detection of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sure {
    /// The bug is seen in every trial.
    #[default]
    Always,
    /// The bug is seen in more than a third of all trials.
    Often,
    /// The bug is seen in fewer trials.
    Seldom,
}

/// A finding that is expected of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The kernel checker's kind, or the harness's own.
    pub kind: String,
    /// The readable key of its signature, verbatim.
    pub key: String,
}

impl Expected {
    /// Whether this finding is the expected one.
    pub fn is(&self, finding: &Finding) -> bool {
        self.kind == finding.kind && self.key == finding.key
    }
}

/// Findings that may follow from the expected ones. They have too many forms to name the key of
/// each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follows {
    /// The kernel checker's kind, or the harness's own.
    pub kind: String,
    /// The readable key of its signature. None: any key.
    pub key: Option<String>,
}

impl Follows {
    /// Whether this finding is one of them.
    pub fn has(&self, finding: &Finding) -> bool {
        self.kind == finding.kind && self.key.as_ref().is_none_or(|key| *key == finding.key)
    }
}

/// An entry on the kernels of one series, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct On {
    patches: Option<Vec<String>>,
    #[serde(default)]
    expect: Vec<Expected>,
    #[serde(default)]
    follows: Vec<Follows>,
    #[serde(default)]
    traces: Vec<String>,
    #[serde(default)]
    slower: Vec<String>,
    absent: Option<String>,
    not_found: Option<String>,
}

/// An entry on the kernels of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeriesPatches {
    /// The entry has a patch.
    There {
        /// Patch files in their order, relative to the card.
        patches: Vec<String>,
        /// The entry is found when at least one of these is seen only with the patch. Empty for a
        /// kernel without a bug.
        expect: Vec<Expected>,
        /// Findings that may follow from the bug and prove nothing by themselves.
        follows: Vec<Follows>,
        /// Functions, locks and accounts that lead a person from a finding to the bug. A finding
        /// that names one of them counts as an expected one.
        traces: Vec<String>,
        /// Metrics of its scenario's `[latency]` that should be slower. The entry is then found
        /// when the exact clock finds all of these slower and its kernel reports nothing.
        slower: Vec<String>,
        /// What was tried, and why the bug cannot be seen. The entry counts as not found.
        not_found: Option<String>,
    },
    /// The entry has no patch, for this reason.
    Absent(String),
}

/// The syntax of a card's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    undoes: Option<Fix>,
    proposed: Option<String>,
    plants: Option<String>,
    changes_nothing: Option<String>,
    config: Option<String>,
    #[serde(default)]
    wide: bool,
    scenarios: Vec<String>,
    #[serde(default)]
    sure: Sure,
    #[serde(default = "five")]
    trials: u32,
    rounds: Option<u32>,
    #[serde(default)]
    quick: bool,
    #[serde(default)]
    control: bool,
    on: BTreeMap<String, On>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fix {
    subject: String,
    commit: String,
    version: String,
}

fn five() -> u32 {
    5
}

/// A checked card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// What goes wrong, in one sentence.
    pub about: String,
    /// The origin of its patch.
    pub origin: Origin,
    /// The fragment of `guest-images/configs/` that its kernels need in addition to the harness's
    /// own.
    pub config: Option<String>,
    /// Whether its kernels are wide.
    pub wide: bool,
    /// The scenarios that should find the bug, by their names below `scenarios/`, the quickest
    /// first.
    pub scenarios: Vec<String>,
    /// The reliability of its detection.
    pub sure: Sure,
    /// Trials a side, of each scenario.
    pub trials: u32,
    /// The most trials that a guest takes, if the bug shows itself only in a later one.
    pub rounds: Option<u32>,
    /// Whether the quick proof includes the entry.
    pub quick: bool,
    /// Whether the bug is planted for the control of every comparison.
    pub control: bool,
    /// The kernels that the entry is made for, by series, such as `6.1`.
    pub on: BTreeMap<String, SeriesPatches>,
}

impl Card {
    /// Reads the card of the entry `name`; `file` is its path, for messages.
    pub fn parse(name: &str, file: &impl fmt::Display, text: &str) -> Result<Self> {
        let wrong = |what: &dyn fmt::Display| Error::user(format!("{file}: {what}"));
        let card: File =
            toml::from_str(text).map_err(|error| wrong(&error).help("see docs/known-bugs.md"))?;
        let undoes =
            card.undoes.map(|Fix { subject, commit, version }| Origin::Undoes { subject, commit, version });
        let origins = [
            undoes,
            card.proposed.map(Origin::Proposed),
            card.plants.map(Origin::Plants),
            card.changes_nothing.map(Origin::ChangesNothing),
        ];
        let [origin] = <[Origin; 1]>::try_from(origins.into_iter().flatten().collect::<Vec<_>>())
            .map_err(|_| wrong(&"it needs one of `undoes`, `proposed`, `plants` and `changes_nothing`"))?;
        if card.scenarios.is_empty() {
            return Err(wrong(&"it names no scenario that should find it"));
        }
        if card.trials == 0 || card.rounds == Some(0) {
            return Err(wrong(&"`trials = 0` or `rounds = 0` proves nothing"));
        }
        let silent = matches!(origin, Origin::ChangesNothing(_));
        let series = |(series, on): (String, On)| {
            let On { patches, expect, follows, traces, slower, absent, not_found } = on;
            let expects = !expect.is_empty() || !slower.is_empty();
            let there = match absent {
                Some(why) if patches.is_none() && !expects && traces.is_empty() && not_found.is_none() => {
                    SeriesPatches::Absent(why)
                }
                Some(_) => {
                    return Err(wrong(&format_args!(
                        "on {series} it is `absent`, but it has other keys too"
                    )));
                }
                None if silent && (expects || !traces.is_empty()) => {
                    return Err(wrong(&format_args!(
                        "on {series} it expects a finding, but its patch changes nothing"
                    )));
                }
                None if !silent && !expects && traces.is_empty() => {
                    return Err(wrong(&format_args!("on {series} it expects nothing")));
                }
                None if !expect.is_empty() && !slower.is_empty() => {
                    let what = "expects reports and slower metrics, but a kernel that reports is not timed";
                    return Err(wrong(&format_args!("on {series} it {what}")));
                }
                None => {
                    let patches = patches.unwrap_or_else(|| vec![format!("{name}.patch")]);
                    SeriesPatches::There { patches, expect, follows, traces, slower, not_found }
                }
            };
            Ok((series, there))
        };
        let on = card.on.into_iter().map(series).collect::<Result<_>>()?;
        Ok(Self {
            about: card.about,
            origin,
            config: card.config,
            wide: card.wide,
            scenarios: card.scenarios,
            sure: card.sure,
            trials: card.trials,
            rounds: card.rounds,
            quick: card.quick,
            control: card.control,
            on,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
about = "a lock is taken twice"
plants = "recursion"
scenarios = ["dimm-and-cpu"]
[on."6.1"]
expect = [{ kind = "lockdep-recursive", key = "lockdep-recursive | a" }]
[on."6.12"]
absent = "the function is gone"
"#;

    #[test]
    fn a_card_says_what_is_there_on_which_kernel() {
        let card = Card::parse("twice", &"twice.toml", GOOD).unwrap();
        assert_eq!((card.trials, card.sure), (5, Sure::Always));
        let SeriesPatches::There { patches, expect, .. } = &card.on["6.1"] else { panic!("{card:?}") };
        assert_eq!((patches.as_slice(), expect.len()), (["twice.patch".to_owned()].as_slice(), 1));
        assert_eq!(card.on["6.12"], SeriesPatches::Absent("the function is gone".into()));
    }

    #[test]
    fn a_wrong_card_is_named() {
        for (from, to, what) in [
            ("plants = \"recursion\"\n", "", "one of `undoes`, `proposed`"),
            ("scenarios = [\"dimm-and-cpu\"]", "scenarios = []", "names no scenario"),
            ("scenarios", "trials = 0\nscenarios", "proves nothing"),
            ("scenarios", "rounds = 0\nscenarios", "proves nothing"),
            (
                "plants = \"recursion\"",
                "changes_nothing = \"x\"",
                "on 6.1 it expects a finding, but its patch changes nothing",
            ),
            ("absent = \"the function is gone\"", "", "on 6.12 it expects nothing"),
            (
                "expect = ",
                "slower = [\"offline_pages\"]\nexpect = ",
                "on 6.1 it expects reports and slower metrics",
            ),
            ("absent", "patches = []\nabsent", "on 6.12 it is `absent`, but"),
            ("about", "abuot", "unknown field `abuot`"),
        ] {
            let error = Card::parse("twice", &"twice.toml", &GOOD.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

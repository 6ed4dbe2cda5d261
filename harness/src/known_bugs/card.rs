//! The card of an entry: what its patch does to a kernel, and what the harness is to see of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::compare::Finding;
use crate::{Error, Result};

/// What an entry's patch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It takes back a fix that the kernel once got.
    Undoes {
        /// The fix's subject line.
        subject: String,
        /// Its commit in the mainline.
        commit: String,
        /// The first release with it.
        version: String,
    },
    /// Somebody proposed it, with this subject line, and it was not merged.
    Proposed(String),
    /// It goes wrong in this way, made for the purpose.
    Plants(String),
    /// It changes nothing that a kernel does: whatever is new with it is a false report.
    ChangesNothing(String),
}

/// How sure an entry is to be seen, as measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sure {
    /// In every trial.
    #[default]
    Always,
    /// In more than a third of them.
    Often,
    /// In fewer.
    Seldom,
}

/// A finding that an entry should bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The kernel checker's kind, or the harness's own.
    pub kind: String,
    /// The readable key of its signature, to the letter.
    pub key: String,
}

impl Expected {
    /// Whether it is this finding.
    pub fn is(&self, finding: &Finding) -> bool {
        self.kind == finding.kind && self.key == finding.key
    }
}

/// Findings that may come of what is expected: too many forms of them for each to have its key named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follows {
    /// The kernel checker's kind, or the harness's own.
    pub kind: String,
    /// The readable key; any, if there is none.
    pub key: Option<String>,
}

impl Follows {
    /// Whether this finding is one.
    pub fn has(&self, finding: &Finding) -> bool {
        self.kind == finding.kind && self.key.as_ref().is_none_or(|key| *key == finding.key)
    }
}

/// What an entry is on one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct On {
    patches: Option<Vec<String>>,
    #[serde(default)]
    expect: Vec<Expected>,
    #[serde(default)]
    follows: Vec<Follows>,
    #[serde(default)]
    slower: Vec<String>,
    absent: Option<String>,
    not_found: Option<String>,
}

/// An entry on the kernels of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Series {
    /// There is a patch.
    There {
        /// Patch files in their order, relative to the card.
        patches: Vec<String>,
        /// It is found when at least one of these is seen only with the patch. None for a kernel that does nothing wrong.
        expect: Vec<Expected>,
        /// What may come of it and proves nothing by itself.
        follows: Vec<Follows>,
        /// Metrics of its scenario's `[latency]` that are told slower: it is then found when all of these are, by the exact
        /// clock, and nothing is reported of it.
        slower: Vec<String>,
        /// What was tried, and why it is not to be seen; it counts as not found.
        not_found: Option<String>,
    },
    /// There is none, because of this.
    Absent(String),
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    undoes: Option<Fix>,
    proposed: Option<String>,
    plants: Option<String>,
    changes_nothing: Option<String>,
    config: Option<String>,
    scenarios: Vec<String>,
    #[serde(default)]
    sure: Sure,
    #[serde(default = "five")]
    trials: u32,
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

/// A card, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// One sentence: what goes wrong.
    pub about: String,
    /// What its patch is.
    pub origin: Origin,
    /// The fragment of `guest-images/configs/` that its kernels need over the harness's own.
    pub config: Option<String>,
    /// Scenarios that should see it, by their names below `scenarios/`; the quickest first.
    pub scenarios: Vec<String>,
    /// How sure it is to be seen.
    pub sure: Sure,
    /// Trials a side, of each scenario.
    pub trials: u32,
    /// Whether it belongs to the quick proof.
    pub quick: bool,
    /// Whether it is planted for the control that goes with every comparison.
    pub control: bool,
    /// By series, `6.1`: the kernels that it is made for.
    pub on: BTreeMap<String, Series>,
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
            return Err(wrong(&"it names no scenario that should see it"));
        }
        if card.trials == 0 {
            return Err(wrong(&"`trials = 0` proves nothing"));
        }
        let silent = matches!(origin, Origin::ChangesNothing(_));
        let series = |(series, on): (String, On)| {
            let On { patches, expect, follows, slower, absent, not_found } = on;
            let expects = !expect.is_empty() || !slower.is_empty();
            let there = match absent {
                Some(why) if patches.is_none() && !expects && not_found.is_none() => Series::Absent(why),
                Some(_) => {
                    return Err(wrong(&format_args!(
                        "on {series} it is `absent`, and yet there is more of it"
                    )));
                }
                None if expects == silent => {
                    let what = if silent { "expects what nobody can see" } else { "expects nothing" };
                    return Err(wrong(&format_args!("on {series} it {what}")));
                }
                None if !expect.is_empty() && !slower.is_empty() => {
                    let what =
                        "expects reports and something slower, which is not told of a kernel that reports";
                    return Err(wrong(&format_args!("on {series} it {what}")));
                }
                None => {
                    let patches = patches.unwrap_or_else(|| vec![format!("{name}.patch")]);
                    Series::There { patches, expect, follows, slower, not_found }
                }
            };
            Ok((series, there))
        };
        let on = card.on.into_iter().map(series).collect::<Result<_>>()?;
        Ok(Self {
            about: card.about,
            origin,
            config: card.config,
            scenarios: card.scenarios,
            sure: card.sure,
            trials: card.trials,
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
        let Series::There { patches, expect, .. } = &card.on["6.1"] else { panic!("{card:?}") };
        assert_eq!((patches.as_slice(), expect.len()), (["twice.patch".to_owned()].as_slice(), 1));
        assert_eq!(card.on["6.12"], Series::Absent("the function is gone".into()));
    }

    #[test]
    fn a_wrong_card_is_named() {
        for (from, to, what) in [
            ("plants = \"recursion\"\n", "", "one of `undoes`, `proposed`"),
            ("scenarios = [\"dimm-and-cpu\"]", "scenarios = []", "names no scenario"),
            ("scenarios", "trials = 0\nscenarios", "proves nothing"),
            ("plants = \"recursion\"", "changes_nothing = \"x\"", "on 6.1 it expects what nobody can see"),
            ("absent = \"the function is gone\"", "", "on 6.12 it expects nothing"),
            (
                "expect = ",
                "slower = [\"offline_pages\"]\nexpect = ",
                "on 6.1 it expects reports and something slower",
            ),
            ("absent", "patches = []\nabsent", "on 6.12 it is `absent`, and yet"),
            ("about", "abuot", "unknown field `abuot`"),
        ] {
            let error = Card::parse("twice", &"twice.toml", &GOOD.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}

//! The control of a comparison: its before kernel with planted bugs, in one trial. The control is a
//! comparison itself.

use std::path::Path;

use maud::{Markup, html};

use super::compare_inner;
use crate::Result;
use crate::analysis::{Analysis, Kernels, Prepared};
use crate::arch::Architecture;
use crate::compare::{Class, Control, Judgement, Weight};
use crate::conclusion::{Case, CaseOutcome, Conclusion, Conclusions, unavailable_line};
use crate::environment::Env;
use crate::events::Labelled;
use crate::kernel::PairSpec;
use crate::known_bugs::{Entry, SeriesPatches, Suite};
use crate::release::Release;
use crate::scenario::default_for;
use crate::spec::{AnalysesSpec, ComparisonSpec, RunningSpec, ScenarioChoice, TrialsSpec};
use crate::unavailable::Unavailable;

/// Trials with the planted bugs. Every trial shows them.
const TRIALS: u32 = 1;

pub(crate) struct ControlAnalysis;

impl Analysis for ControlAnalysis {
    type Conclusion = Control;

    const NAME: &'static str = "control";

    /// The inner comparison builds its own kernels.
    fn kernels(_: &Prepared) -> Vec<Kernels> {
        Vec::new()
    }

    fn takes_time(prepared: &Prepared) -> bool {
        prepared.kernels.before.is_built()
    }

    async fn conclude(
        prepared: &Prepared,
        _: &mut Judgement,
        _: &Conclusions,
        env: &Env<'_>,
    ) -> Result<Option<Control>> {
        control(prepared, env).await.map(Some)
    }

    fn unavailable(_: &Prepared, why: Unavailable) -> Option<Control> {
        Some(Control::None { why })
    }
}

impl Conclusion for Control {
    fn weight(&self, _: &Judgement) -> Weight {
        self.weight()
    }

    fn screen(&self) -> Vec<String> {
        let said = match self {
            Self::None { why } => return unavailable_line("control", "none", why),
            Self::Ran { found, missed, trials, .. } if missed.is_empty() => {
                format!("planted, and found in {trials} of {trials}: {}", found.join(", "))
            }
            Self::Ran { missed, .. } => format!("planted, and NOT FOUND: {}", missed.join(", ")),
        };
        vec![format!("control   {said}")]
    }

    fn mail(&self) -> Vec<String> {
        let (words, names) = match self {
            Self::None { .. } => return Vec::new(),
            Self::Ran { found, missed, .. } if missed.is_empty() => ("found", found),
            Self::Ran { missed, .. } => ("NOT FOUND", missed),
        };
        vec![format!("control   planted bugs, and {words}: {}", names.join(", "))]
    }

    fn case(&self) -> Option<Case> {
        let outcome = match self {
            Self::None { why } => CaseOutcome::unavailable(why),
            Self::Ran { missed, .. } if missed.is_empty() => CaseOutcome::Passed,
            Self::Ran { missed, .. } => {
                CaseOutcome::failed(format!("not found: {}", missed.join(", ")), Vec::new())
            }
        };
        Some(Case::new("planted bugs are found", outcome))
    }

    fn page(&self, _: &Path) -> Markup {
        html! {
            section aria-labelledby="control" {
                h2 id="control" { "Control" }
                @match self {
                    Self::Ran { found, missed, .. } if missed.is_empty() => {
                        p { "Bugs planted in the kernel before were found: " (found.join(", ")) "." }
                    }
                    Self::Ran { missed, .. } => { p.bad { "Planted bugs were NOT found: " (missed.join(", ")) "." } }
                    Self::None { why } => { p.odd { "No control: " (&**why) "." } }
                }
            }
        }
    }
}

/// Plants the bugs whose cards set `control` into the before kernel, and checks whether they are
/// found.
async fn control(prepared: &Prepared, env: &Env<'_>) -> Result<Control> {
    let before = &prepared.kernels.before;
    let none = |why: &str| Ok(Control::None { why: Unavailable::because(why) });
    if !before.is_built() {
        return none("the before kernel was given as an image or a package");
    }
    let place = prepared.folder.path().join("control");
    let suite = Suite::built_in(&place.join("suite"))?;
    let entries: Vec<&Entry> = suite.entries().iter().filter(|entry| entry.card.control).collect();
    let Some((first, series)) =
        entries.first().and_then(|entry| Some((entry, nearest(entry, &before.release)?)))
    else {
        return none("this build of hotplug has no planted bugs");
    };
    let spec = ComparisonSpec {
        kernels: PairSpec {
            patches: entries.iter().flat_map(|entry| entry.patches(series)).collect(),
            ..before_of(&prepared.run.spec.kernels)
        },
        scenarios: ScenarioChoice::one(match before.arch {
            Architecture::X86 => first.scenarios().next(),
            arch @ Architecture::Power => Some(default_for(arch).into()),
        }),
        trials: TrialsSpec { end: Some(TRIALS), ..TrialsSpec::default() },
        analyses: AnalysesSpec::none(),
        running: RunningSpec {
            results: place.clone(),
            found: Some(prepared.context().accelerator),
            ..RunningSpec::default()
        },
        ..ComparisonSpec::default()
    };
    // Only if the sources are unchanged since the run began.
    prepared.kernels_again(env).await?;
    env.note(ControlAnalysis::NAME, "plants bugs into the before kernel, and looks for them");
    let events = Labelled { label: ControlAnalysis::NAME, events: env.events };
    let finished = compare_inner(&spec, &Env { events: &events, ..*env }).await?;
    let reports = &finished.result.reports;
    let seen = |entry: &Entry| match entry.card.on.get(series) {
        Some(SeriesPatches::There { expect, .. }) => {
            reports.iter().any(|f| f.class == Class::New && expect.iter().any(|e| e.is(f)))
        }
        _ => false,
    };
    let (found, missed): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| seen(entry));
    let names = |entries: Vec<&Entry>| entries.into_iter().map(|entry| entry.name.clone()).collect();
    let trials = finished.result.trials.after.trials;
    if trials == 0 {
        return none(&finished.result.reason);
    }
    Ok(Control::Ran {
        found: names(found),
        missed: names(missed),
        trials,
        run: format!("control/{}", finished.folder.id()),
    })
}

/// The series whose patches are most likely to apply: the kernel's own, or the newest older one.
fn nearest<'a>(entry: &'a Entry, release: &str) -> Option<&'a str> {
    let mut all: Vec<&str> = entry.card.on.keys().map(String::as_str).collect();
    all.sort_by_key(|series| Release::of(series));
    let not_newer = all.iter().rfind(|series| Release::of(series) <= Release::of(release));
    not_newer.or(all.first()).copied()
}

/// A pair with the before kernel on both sides.
fn before_of(pair: &PairSpec) -> PairSpec {
    let source = match (&pair.source, &pair.before) {
        (Some(repo), Some(revision)) => Some(format!("{repo}@{revision}")),
        (source, _) => source.clone(),
    };
    PairSpec { patches: Vec::new(), source, before: None, after: None, after_image: None, ..pair.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_series_is_not_newer() {
        let folder = tempfile::tempdir().unwrap();
        let suite = Suite::built_in(folder.path()).unwrap();
        let controls: Vec<&Entry> = suite.entries().iter().filter(|entry| entry.card.control).collect();
        assert!(controls.len() >= 2);
        for entry in controls {
            for (release, series) in [
                ("6.1.192", "6.1"),
                ("6.6.3", "6.1"),
                ("6.12-rc1", "6.12"),
                ("6.19.0+", "6.12"),
                ("5.15.1", "6.1"),
            ] {
                assert_eq!(nearest(entry, release), Some(series), "{} on {release}", entry.name);
            }
            // They are planted together, and searched for in one scenario.
            assert_eq!(entry.card.scenarios[0], "dimm-and-cpu");
            assert!(entry.card.config.is_none());
        }
    }
}

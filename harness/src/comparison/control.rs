//! The control of a comparison: its before kernel with planted bugs, in one trial.

use super::compare_inner;
use crate::Result;
use crate::analysis::Prepared;
use crate::compare::{Class, Control};
use crate::environment::Env;
use crate::error::ErrorKind;
use crate::kernel::PairSpec;
use crate::known_bugs::{Entry, Series, Suite};
use crate::spec::{AnalysesSpec, ComparisonSpec, RunningSpec, TrialsSpec};

/// Trials with the planted bugs, which are seen in every one.
const TRIALS: u32 = 1;

/// Plants the bugs that are controls into the before kernel, and looks for them. An error is an interruption.
pub(super) async fn control(prepared: &Prepared, env: &Env<'_>) -> Result<Control> {
    let before = &prepared.kernels.before;
    let none = |why: String| Ok(Control::None { why });
    if before.record.is_none() {
        return none("the before kernel was given as an image".into());
    }
    let place = prepared.folder.path().join("control");
    let suite = Suite::built_in(&place.join("suite"))?;
    let entries: Vec<&Entry> = suite.entries().iter().filter(|entry| entry.card.control).collect();
    let Some((first, series)) =
        entries.first().and_then(|entry| Some((entry, nearest(entry, &before.release)?)))
    else {
        return none("this hotplug has none".into());
    };
    let spec = ComparisonSpec {
        kernels: PairSpec {
            patches: entries.iter().flat_map(|entry| entry.patches(series)).collect(),
            ..before_of(&prepared.run.spec.kernels)
        },
        scenario: first.scenarios().next(),
        trials: TrialsSpec { end: Some(TRIALS), ..TrialsSpec::default() },
        analyses: AnalysesSpec::none(),
        running: RunningSpec {
            results: place.clone(),
            found: Some(prepared.setting.accelerator),
            ..RunningSpec::default()
        },
        ..ComparisonSpec::default()
    };
    if let Err(error) = prepared.kernels_again(env).await {
        return none(error.to_string());
    }
    env.note("control", "");
    let finished = match compare_inner(&spec, env).await {
        Ok(finished) => finished,
        Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
        Err(error) => return none(error.to_string()),
    };
    let reports = &finished.result.reports;
    let seen = |entry: &Entry| match entry.card.on.get(series) {
        Some(Series::There { expect, .. }) => {
            reports.iter().any(|f| f.class == Class::New && expect.iter().any(|e| e.is(f)))
        }
        _ => false,
    };
    let (found, missed): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| seen(entry));
    let names = |entries: Vec<&Entry>| entries.into_iter().map(|entry| entry.name.clone()).collect();
    let trials = finished.result.trials.after.trials;
    if trials == 0 {
        return none(finished.result.reason);
    }
    Ok(Control::Ran {
        found: names(found),
        missed: names(missed),
        trials,
        run: format!("control/{}", finished.folder.id()),
    })
}

/// The series whose patches are the likeliest to apply: the kernel's own, or the newest before it.
fn nearest<'a>(entry: &'a Entry, release: &str) -> Option<&'a str> {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).take(2).collect()
    };
    let mut all: Vec<&str> = entry.card.on.keys().map(String::as_str).collect();
    all.sort_by_key(|series| numbers(series));
    let not_newer = all.iter().rfind(|series| numbers(series) <= numbers(release));
    not_newer.or(all.first()).copied()
}

/// The before kernel of a pair, on both sides.
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
            // They are planted together, and looked for in one scenario.
            assert_eq!(entry.card.scenarios[0], "dimm-and-cpu");
            assert!(entry.card.config.is_none());
        }
    }
}

//! The control of a comparison: its before kernel with planted bugs, in one trial.

use tokio_util::sync::CancellationToken;

use super::compare::CompareArgs;
use super::comparison::whole;
use super::kernel::PairArgs;
use super::ready::{Ready, pair_of};
use super::running::RunningArgs;
use crate::Result;
use crate::compare::{Class, Control};
use crate::error::ErrorKind;
use crate::kernel::Cache;
use crate::prove::{Entry, Series, Suite};
use crate::record::Run;

/// Trials with the planted bugs, which are seen in every one.
const TRIALS: u32 = 1;

/// Plants the bugs that are controls into the before kernel, and looks for them. An error is an interruption.
pub(super) async fn control(ready: &Ready, cache: &Cache, cancel: &CancellationToken) -> Result<Control> {
    let before = &ready.kernels.before;
    let none = |why: String| Ok(Control::None { why });
    if before.record.is_none() {
        return none("the before kernel was given as an image".into());
    }
    let place = ready.folder.path().join("control");
    let suite = Suite::built_in(&place.join("suite"))?;
    let entries: Vec<&Entry> = suite.entries().iter().filter(|entry| entry.card.control).collect();
    let Some((first, series)) =
        entries.first().and_then(|entry| Some((entry, nearest(entry, &before.release)?)))
    else {
        return none("this hotplug has none".into());
    };
    let args = CompareArgs {
        pair: PairArgs {
            patches: entries.iter().flat_map(|entry| entry.patches(series)).collect(),
            ..before_of(&ready.run)?
        },
        scenario: first.scenarios().next(),
        trials: Some(TRIALS),
        running: RunningArgs {
            results: place.clone(),
            found: Some(ready.setting.accelerator),
            ..RunningArgs::default()
        },
        ..CompareArgs::default()
    };
    if let Err(error) = ready.kernels_again(cache, cancel).await {
        return none(error.to_string());
    }
    eprintln!("control");
    let finished = match whole(&args, cache, cancel).await {
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

/// What asks for the before kernel of a run alone.
fn before_of(run: &Run) -> Result<PairArgs> {
    let pair = pair_of(run)?;
    let source = match (&pair.source, &pair.before) {
        (Some(repo), Some(revision)) => Some(format!("{repo}@{revision}")),
        (source, _) => source.clone(),
    };
    Ok(PairArgs { patches: Vec::new(), source, before: None, after: None, after_image: None, ..pair })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::Suite;

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

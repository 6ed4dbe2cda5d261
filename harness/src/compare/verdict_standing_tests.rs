//! Values of the kernel's state that trials leave changed.

use super::tests::{judged, trials};
use super::*;
use crate::trial::Unrestored;

/// Trials of which each leaves the values changed that `names` gives for its side and number.
fn leaving(n: u32, names: impl Fn(Side, u32) -> Vec<String>) -> Vec<TrialRecord> {
    let with = |record: TrialRecord| {
        let of = |name| Unrestored { name, was: Some("1".into()), is: Some("2".into()) };
        let all = names(record.side, record.number).into_iter().map(of).collect();
        TrialRecord { unrestored: Some(all), ..record }
    };
    trials(n, &[], &[]).into_iter().map(with).collect()
}

/// A value that is left changed after, and one that is in every trial of both sides.
fn of_patch(side: Side, _: u32) -> Vec<String> {
    let patch = (side == Side::After).then(|| "node 1 spanned".to_owned());
    patch.into_iter().chain(["always".to_owned()]).collect()
}

#[test]
fn a_value_that_only_the_patch_leaves_changed_is_a_regression() {
    let judgement = judged(&leaving(5, of_patch));
    assert_eq!(judgement.verdict, Some(Verdict::Regressed), "{}", judgement.reason);
    // The other one is the kernel's way.
    assert_eq!(judgement.findings.len(), 1);
    let finding = &judgement.findings[0];
    assert_eq!(
        (finding.kind.as_str(), finding.key.as_str()),
        ("not-restored", "not-restored: node 1 spanned +1")
    );
    assert_eq!(finding.title, "after the trial: node 1 spanned is 2, was 1");
    assert_eq!((finding.before.to_string(), finding.after.to_string()), ("0/5".into(), "5/5".into()));
    // Three trials decide nothing, but more may.
    let three = judged(&leaving(3, of_patch));
    assert_eq!(three.verdict, Some(Verdict::Inconclusive), "{}", three.reason);
}

#[test]
fn a_value_that_both_kernels_change_is_no_finding() {
    // The watermarks of a kernel change by an amount that depends on the size of its image.
    let with = |record: TrialRecord| {
        let is = if record.side == Side::Before { "2351" } else { "2352" };
        let of = Unrestored { name: "min_free_kbytes".into(), was: Some("2346".into()), is: Some(is.into()) };
        TrialRecord { unrestored: Some(vec![of]), ..record }
    };
    let judgement = judged(&trials(10, &[], &[]).into_iter().map(with).collect::<Vec<_>>());
    assert_eq!(judgement.verdict, Some(Verdict::Unchanged), "{}", judgement.reason);
    assert!(judgement.findings.is_empty());
}

#[test]
fn values_that_come_and_go_are_no_findings() {
    // Each value is left changed by one trial in five, by chance.
    let noise = |side: Side, number: u32| {
        let of = |value: u32| (value * 7 + number * 3 + u32::from(side == Side::After)).is_multiple_of(5);
        let letter = |value: u32| char::from_u32(u32::from(b'a') + value).unwrap_or('z').to_string();
        (0..20).filter(|value| of(*value)).map(letter).collect::<Vec<_>>()
    };
    let judgement = judged(&leaving(10, noise));
    assert_eq!(judgement.verdict, Some(Verdict::Unchanged), "{}", judgement.reason);
    assert!(judgement.findings.is_empty());
    // Nor do they hide a value that the patch leaves changed.
    let both = |side, number| [noise(side, number), of_patch(side, number)].concat();
    assert_eq!(judged(&leaving(10, both)).verdict, Some(Verdict::Regressed));
}

#[test]
fn a_count_that_leaks_in_every_round_is_one_finding() {
    // Four guests a side take three trials each, and each trial leaks one.
    let round = |record: TrialRecord| {
        let round = record.number % 3 + 1;
        let leaked = || Unrestored {
            name: "/proc/vmstat nr_memmap_pages".into(),
            was: Some((10 + round).to_string()),
            is: Some((11 + round).to_string()),
        };
        let leaks = (record.side == Side::After).then(leaked);
        TrialRecord { round, unrestored: Some(leaks.into_iter().collect()), ..record }
    };
    let judgement = judged(&trials(12, &[], &[]).into_iter().map(round).collect::<Vec<_>>());
    assert_eq!(judgement.verdict, Some(Verdict::Regressed), "{}", judgement.reason);
    assert_eq!(judgement.findings.len(), 1);
    assert_eq!(judgement.findings[0].after.to_string(), "12/12");
}

#[test]
fn a_trial_that_was_not_looked_at_is_no_evidence() {
    let mut records = leaving(6, of_patch);
    for record in records.iter_mut().filter(|record| record.side == Side::Before) {
        record.unrestored = None;
    }
    let judgement = judged(&records);
    assert_eq!(judgement.verdict, Some(Verdict::Unchanged), "{}", judgement.reason);
}

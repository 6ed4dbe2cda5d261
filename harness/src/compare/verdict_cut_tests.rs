//! Verdicts over synthetic records: trials that the emulator cut, and operations that got less time.

use super::tests::{OTHER, WARNING, judge_of, judged, trial, trials};
use super::*;
use crate::device::DeviceId;
use crate::event_log::OperationOutcome;
use crate::guest_clock::HostTime;
use crate::scenario::{Expect, Operation};
use crate::trial::{OperationRecord, ShortLimit, StaleBreakpoint, TrialOutcome};

/// A trial whose guest the emulator ended, after these reports.
fn ended_by_emulator(side: Side, number: u32, logs: &[&str]) -> TrialRecord {
    let fault = StaleBreakpoint::Emulator { at: "alpha+0xc".into(), patched: "a static call".into() };
    let record = trial(side, number, logs);
    let outcome = if logs.is_empty() { TrialOutcome::Infrastructure } else { TrialOutcome::Reported };
    TrialRecord { outcome, stale_breakpoint: Some(fault), ..record }
}

#[test]
fn faults_of_the_emulator_are_counted_and_are_no_findings() {
    let mut judge = judge_of(&trials(10, &[], &[]), KnownIssues::default());
    for side in Side::BOTH {
        judge.add_repeated(&ended_by_emulator(side, 0, &[]));
    }
    judge.add_repeated(&TrialRecord { outcome: TrialOutcome::Infrastructure, ..trial(Side::After, 3, &[]) });
    let judgement = judge.judgement();
    assert_eq!(judgement.verdict, Some(Verdict::Unchanged), "{}", judgement.reason);
    assert!(judgement.findings.is_empty() && judgement.remarks.is_empty());
    for tally in [judgement.tally.before, judgement.tally.after] {
        assert_eq!((tally.trials, tally.infrastructure, tally.emulator_faults), (10, 0, 1));
    }
    // What came before is the kernel's own. What did not come is not known.
    let records = trials(10, &[], &[OTHER]);
    let cut = (0..10).map(|number| ended_by_emulator(Side::After, 10 + number, &[WARNING]));
    let judgement = judged(&records.into_iter().chain(cut).collect::<Vec<_>>());
    let counts = |title: &str| {
        let found = judgement.findings.iter().find(|finding| finding.title.contains(title)).unwrap();
        (found.before.to_string(), found.after.to_string())
    };
    assert_eq!(counts("alpha"), ("0/10".into(), "10/20".into()));
    assert_eq!(counts("beta"), ("0/10".into(), "10/10".into()));
    assert_eq!(judgement.tally.after.emulator_faults, 10);
}

#[test]
fn a_patch_that_makes_the_emulators_faults_more_frequent_is_not_unchanged() {
    let faults = |before: u32, after: u32| {
        let mut judge = judge_of(&trials(10, &[], &[]), KnownIssues::default());
        (0..before).for_each(|n| judge.add_repeated(&ended_by_emulator(Side::Before, n, &[])));
        (0..after).for_each(|n| judge.add_repeated(&ended_by_emulator(Side::After, n, &[])));
        let judgement = judge.judgement();
        (judgement.verdict.unwrap(), judgement.reason)
    };
    assert_eq!(faults(3, 3).0, Verdict::Unchanged);
    assert_eq!(faults(0, 3).0, Verdict::Unchanged);
    assert_eq!(faults(9, 0).0, Verdict::Unchanged);
    let (verdict, reason) = faults(0, 9);
    assert_eq!(verdict, Verdict::Inconclusive);
    assert!(reason.contains("9 of 19 attempts after and 0 of 10 before"), "{reason}");
}

#[test]
fn a_breakpoint_of_unknown_origin_stays_a_finding_and_is_remarked_on() {
    let at = || "alpha+0xc".to_owned();
    let unknown = StaleBreakpoint::Unknown { at: at(), why: "there is no vmlinux".into() };
    let mut records = trials(10, &[], &[]);
    records[12] = TrialRecord { stale_breakpoint: Some(unknown), ..trial(Side::After, 2, &[WARNING]) };
    let judgement = judged(&records);
    assert_eq!(judgement.findings.len(), 1);
    assert_eq!(judgement.verdict, Some(Verdict::Inconclusive));
    assert_eq!(judgement.tally.after.emulator_faults, 0);
    assert!(judgement.remarks[0].contains("alpha+0xc: the kernel or the emulator (TCG) is at fault"));
}

#[test]
fn an_operation_that_got_less_time_is_remarked_on() {
    let stuck = |short_limit| OperationRecord {
        lane: "cpus".into(),
        operation: Operation::Plug(DeviceId("cpu1".into())),
        expect: Expect::Done,
        asked: HostTime(0),
        phases: Vec::new(),
        ended: Some(HostTime(1)),
        outcome: OperationOutcome::TimedOut,
        short_limit,
    };
    let short = Some(ShortLimit { ms: 7500, usual_ms: 75_000 });
    let hung = |number, limit| TrialRecord {
        outcome: TrialOutcome::Hung,
        operations: vec![stuck(limit)],
        ..trial(Side::After, number, &[])
    };
    let of = |limits: &[Option<ShortLimit>]| {
        let hung = (0..).zip(limits).map(|(number, limit)| hung(number, *limit)).collect::<Vec<_>>();
        judged(&hung).remarks
    };
    assert!(of(&[None, None]).is_empty());
    let remark = "`plug cpu1` got 7.5 s, not 75 s, in after trials of s, because it had not ended in 2 of them (3 trials)";
    assert_eq!(of(&[None, None, short, short, short]), [remark]);
    // Trials of another machine add to them.
    let mut judge = judge_of(&[hung(3, short)], KnownIssues::default());
    judge.merge(judge_of(&[hung(4, short), hung(5, short)], KnownIssues::default()));
    assert_eq!(judge.judgement().remarks, [remark]);
}

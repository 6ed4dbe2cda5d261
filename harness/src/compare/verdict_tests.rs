//! Verdicts over synthetic records: which trials count, which findings are decided, and known
//! issues.

use hotplug_kreport::scan;

use super::*;
use crate::guest_clock::HostTime;
use crate::scenario::{Holding, Schedule, Seed};
use crate::trial::{Armed, Seen, TrialOutcome};

pub(super) const WARNING: &str =
    "WARNING: CPU: 0 PID: 1 at mm/a.c:1 alpha+0x1/0x2\nCall Trace:\n caller+0x1/0x2\n";
pub(super) const OTHER: &str =
    "WARNING: CPU: 0 PID: 1 at mm/b.c:1 beta+0x1/0x2\nCall Trace:\n caller+0x1/0x2\n";

/// A trial that ended normally, with these reports.
pub(super) fn trial(side: Side, number: u32, logs: &[&str]) -> TrialRecord {
    let reports: Vec<Seen> = logs
        .iter()
        .flat_map(|log| scan(log.as_bytes()))
        .map(|first| Seen { first, at: None, times: 3, during: String::new() })
        .collect();
    TrialRecord {
        side,
        folder: format!("{side}-{number:03}"),
        scenario: "s".into(),
        number,
        seed: Seed(1),
        round: 1,
        earlier: Vec::new(),
        left_over: None,
        stale_breakpoint: None,
        schedule: Schedule { lanes: Vec::new(), holding: Holding::default() },
        outcome: if reports.is_empty() { TrialOutcome::Clean } else { TrialOutcome::Reported },
        why: String::new(),
        armed: Armed { start: Some(true), end: Some(true) },
        lost_records: 0,
        taken: HostTime(0),
        ready: Some(HostTime(1)),
        ended: HostTime(2),
        operations: Vec::new(),
        mismatches: Vec::new(),
        unrestored: None,
        load_loops: Vec::new(),
        load_failures: Vec::new(),
        reports,
        qemu: None,
        vmcore: None,
        holds: Vec::new(),
    }
}

/// `n` trials a side, with the reports of each side.
pub(super) fn trials(n: u32, before: &[&str], after: &[&str]) -> Vec<TrialRecord> {
    let of = |side, logs: &[&str]| (0..n).map(|number| trial(side, number, logs)).collect::<Vec<_>>();
    [of(Side::Before, before), of(Side::After, after)].concat()
}

pub(super) fn judge_of(records: &[TrialRecord], known: KnownIssues) -> Judge {
    let mut judge = Judge::new(known);
    // One trial ends each second.
    for (second, record) in (1u32..).zip(records) {
        judge.add(record, f64::from(second));
    }
    judge
}

pub(super) fn judged(records: &[TrialRecord]) -> Judgement {
    judge_of(records, KnownIssues::default()).judgement()
}

#[test]
fn a_finding_says_when_it_was_first_seen() {
    let judgement = judged(&trials(3, &[], &[WARNING]));
    // The three before trials end first.
    assert_eq!(judgement.findings[0].first_seen_seconds, Some(4.0));
    assert_eq!(judgement.findings[0].example, "trials/after-000");
}

#[test]
fn five_against_none_is_decided_and_three_is_not() {
    let judgement = judged(&trials(5, &[], &[WARNING]));
    assert_eq!((judgement.verdict, judgement.exit_status()), (Some(Verdict::Regressed), 1));
    assert_eq!(judgement.reason, "1 new, 0 fixed, 0 common");
    assert_eq!(judgement.findings[0].times, 3);
    let judgement = judged(&trials(3, &[], &[WARNING]));
    assert_eq!((judgement.verdict, judgement.exit_status()), (Some(Verdict::Inconclusive), 3));
    assert!(judgement.reason.contains("3/3 against 0/3 may be chance"), "{}", judgement.reason);
}

#[test]
fn two_reports_at_once_are_decided_by_five_trials_and_not_by_four() {
    assert_eq!(judged(&trials(5, &[], &[WARNING, OTHER])).verdict, Some(Verdict::Regressed));
    assert_eq!(judged(&trials(4, &[], &[WARNING, OTHER])).verdict, Some(Verdict::Inconclusive));
}

#[test]
fn a_report_that_goes_is_a_fix_and_one_that_stays_is_nothing() {
    assert_eq!(judged(&trials(5, &[WARNING], &[])).verdict, Some(Verdict::Fixed));
    let judgement = judged(&trials(5, &[WARNING], &[WARNING]));
    assert_eq!((judgement.verdict, judgement.findings[0].class), (Some(Verdict::Unchanged), Class::Common));
}

#[test]
fn a_trial_that_was_cut_short_is_no_evidence_of_absence() {
    let mut records = trials(5, &[], &[WARNING]);
    records[0].outcome = TrialOutcome::Hung;
    records[1].lost_records = 4;
    let findings = judged(&records).findings;
    assert_eq!(findings.iter().find(|f| f.kind == "warning").unwrap().before.trials, 3);
}

#[test]
fn blind_trials_are_not_called_unchanged() {
    let mut records = trials(5, &[], &[]);
    for record in &mut records[..3] {
        record.armed.end = Some(false);
    }
    let judgement = judged(&records);
    assert_eq!(judgement.verdict, Some(Verdict::Inconclusive));
    assert!(judgement.reason.starts_with("blind: "), "{}", judgement.reason);
}

/// The records of one side as those of a kernel without lockdep.
fn without_lockdep(records: &mut [TrialRecord], side: Side) {
    for record in records.iter_mut().filter(|record| record.side == side) {
        record.armed = Armed { start: None, end: None };
    }
}

#[test]
fn silence_of_kernels_without_lockdep_says_so() {
    let mut records = trials(5, &[], &[]);
    without_lockdep(&mut records, Side::Before);
    without_lockdep(&mut records, Side::After);
    // A trial of which records were lost is no evidence.
    records[0].lost_records = 1;
    let judgement = judged(&records);
    assert_eq!(judgement.verdict, Some(Verdict::Unchanged));
    assert_eq!(judgement.reason, "0 new, 0 fixed, 0 common; these kernels have no lockdep");
    let tally = &judgement.tally;
    assert_eq!((tally.before.evidence(), tally.after.evidence(), tally.after.armed), (4, 5, 0));
    assert!(tally.after.detectable_rate < 0.5, "{}", tally.after.detectable_rate);
}

#[test]
fn a_report_of_lockdep_needs_lockdep_on_both_sides() {
    const CYCLE: &str = include_str!("../../kreport/tests/fixtures/provoked-6.1-circular.log");
    let mut records = trials(5, &[], &[CYCLE]);
    assert_eq!(judged(&records).verdict, Some(Verdict::Regressed));
    without_lockdep(&mut records, Side::Before);
    let judgement = judged(&records);
    assert_eq!(judgement.verdict, Some(Verdict::Inconclusive));
    assert!(judgement.reason.starts_with("only the after kernel has lockdep"), "{}", judgement.reason);
    // Of a side whose trials all hung, it is not known.
    let mut records = trials(5, &[], &[]);
    without_lockdep(&mut records, Side::Before);
    without_lockdep(&mut records, Side::After);
    records.iter_mut().filter(|r| r.side == Side::Before).for_each(|r| r.outcome = TrialOutcome::Hung);
    let lacking = super::lacking(&judged(&records).tally).unwrap();
    assert_eq!(lacking, "the after kernel has no lockdep, and no before trial was armed to its end");
    // Other reports can be compared.
    let mut records = trials(5, &[], &[WARNING]);
    without_lockdep(&mut records, Side::Before);
    assert_eq!(judged(&records).verdict, Some(Verdict::Regressed));
}

#[test]
fn what_blinded_the_kernel_before_and_is_gone_is_a_fix() {
    let mut records = trials(5, &[WARNING], &[]);
    for record in &mut records[..5] {
        record.armed.end = Some(false);
    }
    assert_eq!(judged(&records).verdict, Some(Verdict::Fixed));
    // Lockdep must have been armed in the after trials.
    for record in &mut records[5..] {
        record.armed.end = Some(false);
    }
    assert_eq!(judged(&records).verdict, Some(Verdict::Inconclusive));
}

#[test]
fn a_known_report_is_listed_and_has_a_say_if_it_worsens() {
    let text =
        "[[known]]\nreason = \"ours\"\ntitle = 'alpha$'\n\n[[known]]\nreason = \"gone\"\ntitle = 'gamma'\n";
    let judge_with = |records: &[TrialRecord], may_worsen: bool| {
        let known = KnownIssues::parse("known.toml", text, jiff::civil::date(2026, 1, 1)).unwrap();
        let mut judge = Judge::new(known).known_may_worsen(may_worsen);
        for record in records {
            judge.add(record, 0.0);
        }
        judge.judgement()
    };
    // As frequent as before.
    let judgement = judge_with(&trials(5, &[WARNING], &[WARNING]), false);
    assert_eq!(judgement.verdict, Some(Verdict::Unchanged));
    // More frequent, beyond chance.
    let judgement = judge_with(&trials(5, &[], &[WARNING]), false);
    assert_eq!(judgement.verdict, Some(Verdict::Regressed));
    let words = "0 new, 0 fixed, 0 common; a known issue is more frequent, 0/5 -> 5/5: ";
    assert!(judgement.reason.starts_with(words), "{}", judgement.reason);
    // Less frequent: that is no fix of the patch's.
    let judgement = judge_with(&trials(5, &[WARNING], &[]), false);
    assert_eq!(judgement.verdict, Some(Verdict::Unchanged));
    // More frequent, and tolerated.
    let judgement = judge_with(&trials(5, &[], &[WARNING]), true);
    assert_eq!(
        (judgement.verdict, judgement.reason.as_str()),
        (Some(Verdict::Unchanged), "0 new, 0 fixed, 0 common")
    );
    assert_eq!(judgement.findings[0].known.as_deref(), Some("ours"));
    assert!(judgement.remarks.len() == 1 && judgement.remarks[0].contains("matched nothing: gone"));
    // Beside a finding that is not known, it neither counts nor prevents a decision on that
    // finding.
    let judgement = judge_with(&trials(4, &[], &[OTHER, WARNING]), true);
    assert_eq!(judgement.verdict, Some(Verdict::Regressed));
    assert_eq!(judgement.findings.iter().map(|f| f.known.is_some()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn infrastructure_that_fails_more_often_than_not_gives_no_verdict() {
    let mut records = trials(3, &[], &[]);
    for record in &mut records[..2] {
        record.outcome = TrialOutcome::Infrastructure;
        record.why = "QEMU was killed".into();
    }
    let judgement = judged(&records);
    assert_eq!((judgement.verdict, judgement.exit_status()), (None, 4));
    assert!(judgement.reason.contains("QEMU was killed"));
}

/// The judge of a comparison that may end early, after these trials.
fn early(records: &[TrialRecord]) -> Judge {
    let mut judge = Judge::new(KnownIssues::default()).at_any_time(Some(0));
    for record in records {
        judge.add(record, 0.0);
    }
    judge
}

/// Trials of which all after trials show a warning.
fn always(n: u32) -> Vec<TrialRecord> {
    trials(n, &[], &[WARNING])
}

#[test]
fn a_regression_is_decided_as_soon_as_the_bet_is_won() {
    assert!(!early(&always(4)).is_decided());
    let judge = early(&always(5));
    assert!(judge.is_decided());
    let judgement = judge.judgement();
    assert_eq!(judgement.verdict, Some(Verdict::Regressed));
    let bet = judgement.findings[0].bet.expect("it may end early");
    assert!((bet.needed - 100.0).abs() < 1e-9 && bet.e_value > 100.0 && bet.e_value < 200.0, "{bet:?}");
    assert_eq!(judgement.findings[0].certainty(), "p = 0.0079, e = 135 (decided at 100)");
    // Four trials a side decide after the last one, as always.
    assert_eq!(early(&always(4)).judgement().verdict, Some(Verdict::Regressed));
    // What is gone is no reason to stop: another report may still come.
    assert!(!early(&trials(20, &[WARNING], &[])).is_decided());
    assert!(!early(&trials(20, &[WARNING], &[WARNING])).is_decided());
    assert!(!early(&trials(20, &[], &[])).is_decided());
    // A comparison that runs to its end makes no bet.
    assert!(judge_of(&always(20), KnownIssues::default()).judgement().findings[0].bet.is_none());
}

#[test]
fn the_order_in_which_trials_end_makes_no_difference() {
    let stake = |records: &[TrialRecord]| early(records).judgement().findings[0].bet;
    let mut mixed = [trials(3, &[], &[]), Vec::new()].concat();
    mixed.extend(always(9).into_iter().filter(|record| record.number >= 3));
    let sorted = stake(&mixed);
    assert!(sorted.is_some());
    mixed.sort_by_key(|record| (record.number * 7 % 9, record.side));
    assert_eq!(stake(&mixed), sorted);
    // A trial that still runs holds up those with a higher number.
    let without =
        |number: u32| mixed.iter().filter(|record| record.number != number).cloned().collect::<Vec<_>>();
    assert_eq!(stake(&without(0)), None);
    let held_up = stake(&without(7)).expect("trial 3 showed it");
    assert!(held_up.e_value < sorted.expect("as above").e_value);
    // One that infrastructure spoilt does not.
    let spoilt = |record: TrialRecord| match (record.number, record.side) {
        (7, Side::Before) => TrialRecord { outcome: TrialOutcome::Infrastructure, ..record },
        _ => record,
    };
    let spoilt = stake(&mixed.iter().cloned().map(spoilt).collect::<Vec<_>>()).expect("as above");
    assert!(spoilt.e_value > held_up.e_value);
}

#[test]
fn a_later_finding_needs_a_higher_stake() {
    let both =
        |number: u32| [trial(Side::Before, number, &[OTHER]), trial(Side::After, number, &[OTHER, WARNING])];
    let records: Vec<_> = (0..6).flat_map(both).collect();
    let findings = early(&records).judgement().findings;
    let needed: Vec<_> = findings.iter().map(|f| f.bet.map(|bet| bet.needed.round())).collect();
    // The new one comes first on the list, and was seen second.
    assert_eq!(needed, [Some(300.0), Some(100.0)]);
    assert!(findings[0].decided && !findings[1].decided);
    assert!(early(&records[..10]).judgement().findings.iter().all(|f| !f.bet.is_some_and(Bet::is_won)));
}

/// These trials, in another scenario.
fn in_scenario(name: &str, records: Vec<TrialRecord>) -> Vec<TrialRecord> {
    let moved = |record: TrialRecord| TrialRecord {
        scenario: name.into(),
        folder: format!("{name}-{}", record.folder),
        ..record
    };
    records.into_iter().map(moved).collect()
}

#[test]
fn trials_of_scenarios_that_cannot_show_a_report_do_not_dilute_it() {
    let silent = || in_scenario("other", trials(50, &[], &[]));
    let records = [trials(5, &[], &[WARNING]), silent()].concat();
    let judgement = judged(&records);
    assert_eq!(judgement.verdict, Some(Verdict::Regressed), "{}", judgement.reason);
    let finding = &judgement.findings[0];
    assert_eq!((finding.before.to_string(), finding.after.to_string()), ("0/5".into(), "5/5".into()));
    assert_eq!(finding.scenarios.len(), 1);
    assert_eq!(finding.scenarios[0].scenario, "s");
    assert_eq!(judgement.tally.after.trials, 55);
    // Reports of several scenarios count together: 3 of 3 alone may be chance.
    let twice = [trials(3, &[], &[WARNING]), in_scenario("other", trials(3, &[], &[WARNING]))].concat();
    let judgement = judged(&twice);
    assert_eq!(judgement.verdict, Some(Verdict::Regressed), "{}", judgement.reason);
    assert_eq!(judgement.findings[0].after.to_string(), "6/6");
}

#[test]
fn a_scenario_whose_trials_hang_on_both_sides_is_given_up() {
    let mut records = trials(2, &[], &[]);
    let hangs = |records: &[TrialRecord]| judge_of(records, KnownIssues::default()).always_hangs("s");
    assert!(!hangs(&records) && !hangs(&[]));
    for record in &mut records {
        record.outcome = TrialOutcome::Hung;
    }
    assert!(hangs(&records));
    // One side alone is a difference.
    records[0].outcome = TrialOutcome::Clean;
    assert!(!hangs(&records));
    assert!(!hangs(&records[2..]));
}

#[test]
fn a_scenario_that_tests_nothing_is_named_and_the_others_stand() {
    let mut blind = in_scenario("blind", trials(5, &[], &[]));
    for record in &mut blind {
        record.armed.end = Some(false);
    }
    let judgement = judged(&[trials(5, &[], &[]), blind.clone()].concat());
    assert_eq!(judgement.verdict, Some(Verdict::Unchanged));
    assert_eq!(judgement.reason, "0 new, 0 fixed, 0 common; says nothing about blind");
    let untested: Vec<_> = judgement.scenarios.iter().map(|one| one.untested.is_some()).collect();
    assert_eq!(untested, [true, false]);
    // Nothing is left for a verdict to stand on.
    let mut more = in_scenario("more", blind.clone());
    more.truncate(10);
    let judgement = judged(&[blind, more].concat());
    assert_eq!(judgement.verdict, Some(Verdict::Inconclusive));
    assert!(judgement.reason.starts_with("blind: blind: lockdep"), "{}", judgement.reason);
    // A scenario that does not fit this machine.
    let mut judge = judge_of(&trials(5, &[], &[]), KnownIssues::default());
    judge.leave_out("huge", "it takes 512 huge pages");
    let judgement = judge.judgement();
    assert_eq!(judgement.verdict, Some(Verdict::Unchanged));
    assert!(judgement.reason.ends_with("says nothing about huge"), "{}", judgement.reason);
}

#[test]
fn a_side_that_had_no_turn_leaves_it_open() {
    let judgement = judged(&[trial(Side::Before, 0, &[WARNING])]);
    assert_eq!((judgement.verdict, judgement.exit_status()), (Some(Verdict::Inconclusive), 3));
    assert_eq!(judgement.reason, "no after trial has ended");
}

/// Arbitrary trials: the side, the reports, and the outcome or the state of lockdep.
fn any_trial() -> impl proptest::strategy::Strategy<Value = (bool, u8, u8)> {
    (proptest::bool::ANY, 0_u8..4, 0_u8..8)
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    /// For any distribution of trials over shards, the merged shards give the judgement of one run
    /// of all trials.
    #[test]
    fn shards_say_together_what_one_run_says(
        drawn in proptest::collection::vec(any_trial(), 1..60),
        cuts in proptest::collection::vec(0_usize..60, 0..5),
    ) {
        let records: Vec<TrialRecord> = (0..).zip(&drawn).map(|(number, (after, reports, fate))| {
            let side = if *after { Side::After } else { Side::Before };
            let logs: &[&str] = match reports { 0 => &[], 1 => &[WARNING], 2 => &[OTHER], _ => &[OTHER, WARNING] };
            let mut record = trial(side, number, logs);
            match fate {
                0 => record.armed.end = Some(false),
                1 => record.lost_records = 2,
                2 => record.outcome = TrialOutcome::Hung,
                3 => record.outcome = TrialOutcome::Infrastructure,
                _ => {}
            }
            record
        }).collect();
        let whole = judge_of(&records, KnownIssues::default()).judgement();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(records.len())).collect();
        cuts.extend([0, records.len()]);
        cuts.sort_unstable();
        let mut merged = Judge::default();
        for pair in cuts.windows(2) {
            let shard = judge_of(&records[pair[0]..pair[1]], KnownIssues::default());
            let text = serde_json::to_vec(&shard).unwrap();
            merged.merge(serde_json::from_slice(&text).unwrap());
        }
        let merged = merged.judgement();
        // A shard cannot know when another shard first saw a finding.
        let told = |judgement: &Judgement| {
            let mut judgement = judgement.clone();
            judgement.findings.iter_mut().for_each(|finding| finding.first_seen_seconds = None);
            serde_json::to_value(judgement).unwrap()
        };
        proptest::prop_assert_eq!(told(&merged), told(&whole));
    }
}

/// The trials of one side, in guests of up to `rounds` trials. `luck` gives the rate at which a
/// guest's trials report. A guest ends with the trial that reports.
fn in_guests(
    side: Side,
    trials: u32,
    rounds: u32,
    mut luck: impl FnMut() -> f64,
    random: &mut impl rand::RngExt,
) -> Vec<TrialRecord> {
    let (mut all, mut round, mut rate) = (Vec::new(), 0, 0.0);
    for number in 0..trials {
        if round == 0 {
            rate = luck();
        }
        let reports = random.random_bool(rate);
        let record = trial(side, number, if reports { &[WARNING] } else { &[] });
        all.push(TrialRecord { round: round + 1, ..record });
        round = if reports { 0 } else { (round + 1) % rounds };
    }
    all
}

/// In each guest, every trial reports or none does, and half of the guests are of either kind. The
/// trials of such a guest are no more evidence than one of them.
#[test]
fn trials_that_share_the_luck_of_their_guest_raise_no_false_alarm() {
    use rand::{RngExt, SeedableRng};
    const COMPARISONS: u32 = 400;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let (mut alarms, mut alarms_of_trials) = (0, 0);
    for _ in 0..COMPARISONS {
        let mut lucky = rand_chacha::ChaCha8Rng::seed_from_u64(random.random());
        let mut luck = || if lucky.random_bool(0.5) { 0.5 } else { 0.0 };
        let before = in_guests(Side::Before, 40, 5, &mut luck, &mut random);
        let after = in_guests(Side::After, 40, 5, &mut luck, &mut random);
        let records = [before, after].concat();
        let decided = |records: &[TrialRecord]| judged(records).findings.iter().any(|f| f.decided);
        alarms += u32::from(decided(&records));
        let apart: Vec<_> = records.into_iter().map(|record| TrialRecord { round: 1, ..record }).collect();
        alarms_of_trials += u32::from(decided(&apart));
    }
    // One in twenty.
    assert!(alarms * 20 <= COMPARISONS, "{alarms} of {COMPARISONS}");
    // The same trials, each counted as if it had its own guest.
    assert!(alarms_of_trials > alarms, "{alarms_of_trials} against {alarms}");
}

#[test]
fn rounds_are_compared_with_equal_rounds() {
    let with = |side, number, round, logs: &[&str]| TrialRecord { round, ..trial(side, number, logs) };
    let mut records: Vec<_> = (0..40).map(|n| with(Side::Before, n, n % 5 + 1, &[])).collect();
    records.extend((0..40).map(|n| with(Side::After, n, 1, &[WARNING])));
    let judgement = judged(&records);
    let finding = &judgement.findings[0];
    assert_eq!((finding.before.to_string(), finding.after.to_string()), ("0/40".into(), "40/40".into()));
    // Only the first trials of the eight before guests can be compared with the forty after trials.
    let p = stratified_two_sided(&[Table { a: 0, n: 8, b: 40, m: 40 }]);
    assert!((finding.p - p).abs() < 1e-12, "{} {p}", finding.p);
    assert_eq!((judgement.tally.before.guests, judgement.tally.after.guests), (8, 40));
    assert!(judgement.tally.before.shares_guests() && !judgement.tally.after.shares_guests());
    assert_eq!(judgement.verdict, Some(Verdict::Regressed));
    // A judge that takes in two parts of the trials, as those of a fleet, comes to the same.
    let mut merged = judge_of(&records[..50], KnownIssues::default());
    merged.merge(judge_of(&records[50..], KnownIssues::default()));
    let text = serde_json::to_string(&merged).unwrap();
    let merged: Judge = serde_json::from_str(&text).unwrap();
    assert!((merged.judgement().findings[0].p - p).abs() < 1e-12);
}

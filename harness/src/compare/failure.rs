//! Failures that the harness detects without a kernel report.

use crate::event_log::OperationOutcome;
use crate::scenario::{Expect, Operation};
use crate::trial::{TrialOutcome, TrialRecord};

/// One failure in a trial.
#[derive(Debug)]
pub(super) struct Failure {
    /// `hung`, `refused`, `not-refused`, `program`, `accounting-mismatch` or `not-restored`.
    pub(super) kind: &'static str,
    /// The same for equal failures of other trials.
    pub(super) key: String,
    pub(super) title: String,
    /// The value of the kernel's state that the trial left changed, if it is `not-restored`.
    pub(super) value: Option<String>,
}

/// The failures of one trial that the harness detected without a kernel report, one entry for each
/// occurrence.
pub(super) fn seen_by_the_harness(record: &TrialRecord) -> Vec<Failure> {
    let mut all = Vec::new();
    if record.is_cut_by_emulator() {
        // They may be effects of that.
        return all;
    }
    if record.outcome == TrialOutcome::Hung {
        let stuck = record.operations.iter().find(|o| o.outcome == OperationOutcome::TimedOut);
        let place = stuck.map_or_else(|| record.why.clone(), |o| o.operation.kind());
        all.push(failure("hung", &place, record.why.clone()));
    }
    for record in &record.operations {
        let what = record.operation.kind();
        match (&record.outcome, record.expect) {
            (OperationOutcome::RefusedByGuest { how }, Expect::Done)
                if matches!(record.operation, Operation::Program(_)) =>
            {
                all.push(failure("program", &what, format!("{what}: {how}")));
            }
            (OperationOutcome::RefusedByGuest { how }, Expect::Done) => {
                all.push(failure("refused", &what, format!("the guest refused to {what}: {how}")));
            }
            (OperationOutcome::Done, Expect::Refused) => {
                let title = format!("{} was done, and should have been refused", record.operation);
                all.push(failure("not-refused", &what, title));
            }
            _ => {}
        }
    }
    for failed in record.load_failures.iter().filter(|failed| failed.must_succeed) {
        let what = format!("program {}", failed.program);
        let title = format!("{what}, in a load: {}", failed.last);
        all.push(failure("program", &what, title));
    }
    for wrong in &record.mismatches {
        let counter = wrong.what.split(" is ").next().unwrap_or(&wrong.what);
        let counter: String = counter.chars().filter(|c| !c.is_ascii_digit()).collect();
        let title = format!("after {}: {}", wrong.after, wrong.what);
        all.push(failure("accounting-mismatch", counter.trim(), title));
    }
    for one in record.unrestored.iter().flatten() {
        let changed = failure("not-restored", &one.key(), format!("after the trial: {one}"));
        all.push(Failure { value: Some(one.value()), ..changed });
    }
    all
}

fn failure(kind: &'static str, what: &str, title: String) -> Failure {
    Failure { kind, key: format!("{kind}: {what}"), title, value: None }
}

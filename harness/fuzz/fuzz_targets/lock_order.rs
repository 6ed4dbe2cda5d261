//! Fuzzes lock orders as trials store them, one a line: any bytes cause no panic and no hang, those
//! that are not sound are recognized, and neither comparison nor forecast depends on the order of
//! the trials.

#![no_main]

use hotplug::compare::{Elsewhere, LockOrders};
use hotplug_lockorder::{LockOrder, TrialLocks, Union};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let trials: Vec<TrialLocks> = data
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .filter(|trial: &TrialLocks| trial.order.is_sound())
        .take(16)
        .collect();
    let compare = |trials: &mut dyn Iterator<Item = &TrialLocks>| {
        let mut union = Union::default();
        for trial in trials {
            union.add(trial);
        }
        let diff = LockOrders::new(union).diff(&Elsewhere::default());
        (diff.gone.len(), diff.new.len(), diff.undecided, diff.forecast.is_empty())
    };
    assert_eq!(compare(&mut trials.iter()), compare(&mut trials.iter().rev()));
    for trial in &trials {
        let nothing = trial.order.beyond(&trial.order);
        assert!(nothing.edges.is_empty() && nothing.is_sound());
        assert!(trial.order.beyond(&LockOrder::default()).is_sound());
    }
});

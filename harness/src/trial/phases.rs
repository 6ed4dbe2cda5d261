//! The phases that the operations of a trial have reached. Lanes wait here for the operations of
//! other lanes.

use std::collections::HashMap;

use tokio::sync::watch;

use crate::scenario::{Operation, Phase, Trigger};

/// All phases that operations have reached so far, in order.
#[derive(Debug)]
pub(super) struct Phases(watch::Sender<Vec<(Operation, Phase)>>);

impl Default for Phases {
    fn default() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }
}

impl Phases {
    /// Records that an operation has reached a phase.
    pub(super) fn reached(&self, operation: &Operation, phase: Phase) {
        self.0.send_modify(|all| all.push((operation.clone(), phase)));
    }

    /// Waits until the phase of `trigger` has been reached once more than this lane has seen
    /// according to `waited`. Never returns if the operation ends without it. Safe to cancel.
    pub(super) async fn wait(&self, trigger: &Trigger, waited: &mut Waited) {
        let seen = waited.0.entry((trigger.operation.clone(), trigger.phase)).or_default();
        let is_meant = |(operation, phase): &&(Operation, Phase)| {
            *phase == trigger.phase && operation.matches(&trigger.operation)
        };
        let mut all = self.0.subscribe();
        // This object owns the sender, so the wait cannot fail.
        if let Ok(all) = all.wait_for(|all| all.iter().filter(is_meant).count() > *seen).await {
            *seen = all.iter().filter(is_meant).count();
        }
    }
}

/// The number of times that one lane has waited for each trigger.
#[derive(Debug, Default)]
pub(super) struct Waited(HashMap<(String, Phase), usize>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceId;
    use crate::scenario::Offset;

    #[tokio::test]
    async fn each_time_counts_once() {
        let phases = Phases::default();
        let trigger =
            Trigger { operation: "unplug dimm".into(), phase: Phase::Notified, offset: Offset::Fixed(0) };
        let mut waited = Waited::default();
        let unplug = Operation::Unplug(DeviceId("dimm3".into()));
        let pending = async |waited: &mut Waited| {
            tokio::select! {
                biased;
                () = phases.wait(&trigger, waited) => false,
                () = std::future::ready(()) => true,
            }
        };
        assert!(pending(&mut waited).await);
        phases.reached(&unplug, Phase::Accepted);
        assert!(pending(&mut waited).await);
        phases.reached(&unplug, Phase::Notified);
        assert!(!pending(&mut waited).await);
        assert!(pending(&mut waited).await);
    }
}

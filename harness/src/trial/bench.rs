//! What the operations of a trial share: the guest, its accounts, and their limits.

use std::time::Duration;

use hotplug_side::Side;

use super::accounting::Ledger;
use super::cpus::Cpus;
use super::never_ended::NeverEnded;
use super::vm::Vm;
use crate::scenario::{Operation, Scenario};

/// The parts of a trial that an operation uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bench<'a> {
    pub(super) vm: &'a Vm,
    pub(super) scenario: &'a Scenario,
    pub(super) ledger: &'a Ledger,
    pub(super) cpus: &'a Cpus,
    pub(super) side: Side,
    pub(super) never_ended: &'a NeverEnded,
}

impl Bench<'_> {
    /// The time after which an operation counts as hung.
    pub(super) fn limit(&self, operation: &Operation) -> Duration {
        let own = match operation {
            // The agent ends it at its own limit.
            Operation::Program(name) => self.scenario.programs.get(name).map_or(0, |program| program.limit_s),
            _ => 0,
        };
        let whole = Duration::from_secs((self.scenario.time_limit_s.saturating_add(own)).into());
        self.never_ended.limit(self.of(), operation, whole)
    }

    /// An operation did not end within its limit. Returns this in words.
    pub(super) fn timed_out(&self, operation: &Operation) -> String {
        self.never_ended.timed_out(self.of(), operation, self.limit(operation))
    }

    /// An operation ended.
    pub(super) fn ended(&self, operation: &Operation) {
        self.never_ended.ended(self.of(), operation);
    }

    fn of(&self) -> (Side, &str) {
        (self.side, &self.scenario.name)
    }
}

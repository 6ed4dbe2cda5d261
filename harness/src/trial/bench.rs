//! What the operations of a trial share: the guest, its accounts, and their limits.

use std::time::Duration;

use hotplug_side::Side;

use super::accounting::Ledger;
use super::cpus::Cpus;
use super::never_ended::{NeverEnded, ShortLimit};
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
        self.never_ended.limit(self.of(), operation, self.whole(operation))
    }

    /// The time after which an operation counts as hung that has not done so before.
    fn whole(&self, operation: &Operation) -> Duration {
        let own = match operation {
            // The agent ends it at its own limit.
            Operation::Program(name) => self.scenario.programs.get(name).map_or(0, |program| program.limit_s),
            _ => 0,
        };
        Duration::from_secs((self.scenario.time_limit_s.saturating_add(own)).into())
    }

    /// That an operation did not end within `limit`, if this is less than an operation usually gets.
    pub(super) fn shortened(&self, operation: &Operation, limit: Duration) -> Option<ShortLimit> {
        let whole = self.whole(operation);
        let ms = |limit: Duration| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        (limit < whole).then(|| ShortLimit { ms: ms(limit), usual_ms: ms(whole) })
    }

    /// An operation did not end within its limit. Returns this in words.
    pub(super) fn timed_out(&self, operation: &Operation, limit: Duration) -> String {
        self.never_ended.timed_out(self.of(), operation, limit)
    }

    /// An operation ended.
    pub(super) fn ended(&self, operation: &Operation) {
        self.never_ended.ended(self.of(), operation);
    }

    fn of(&self) -> (Side, &str) {
        (self.side, &self.scenario.name)
    }
}

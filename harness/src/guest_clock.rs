//! Converts times of the guest's clock to the host's. While the machine is stopped, the guest's
//! clock stops too: it is QEMU's virtual clock (`cpu_disable_ticks()`).

use hotplug_protocol::GuestTime;

use serde::{Deserialize, Serialize};

/// Microseconds on the host's monotonic clock since the start of the trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostTime(pub u64);

/// The relation of the two clocks.
#[derive(Debug, Default)]
pub(crate) struct GuestClock {
    /// The machine's stops: the time that it had run until the stop, and the duration of the stop,
    /// in microseconds.
    stops: Vec<(u64, u64)>,
    /// The total duration of all stops, in microseconds.
    stood: u64,
    /// The start of the current stop. `None` while the machine runs.
    since: Option<HostTime>,
    /// The machine's running time less the guest's clock, in microseconds. This is the minimum over
    /// all messages, because the minimum has the shortest delay.
    offset: Option<i64>,
    /// The same for the clock of the kernel's log (`local_clock()`), which starts before the other one:
    /// 0.23 s under TCG.
    printed: Option<i64>,
}

impl GuestClock {
    /// The time that the machine had run by `at`, in microseconds.
    fn run(&self, at: HostTime) -> u64 {
        self.since.map_or(at.0, |since| since.0).saturating_sub(self.stood)
    }

    /// Records that the machine was stopped.
    pub(crate) fn stopped(&mut self, at: HostTime) {
        self.since.get_or_insert(at);
    }

    /// Records that the machine runs again. If no stop was recorded, as when a machine that was
    /// started in the stopped state first runs, nothing changes.
    pub(crate) fn resumed(&mut self, at: HostTime) {
        let run = self.run(at);
        if let Some(since) = self.since.take() {
            let length = at.0.saturating_sub(since.0);
            self.stops.push((run, length));
            self.stood += length;
        }
    }

    /// Records the arrival of a message that has a time stamp of the guest's clock.
    pub(crate) fn heard(&mut self, at: HostTime, guest: GuestTime) {
        self.offset = Some(self.nearer(self.offset, at, guest));
    }

    /// Records the arrival of a record of the kernel's log.
    pub(crate) fn printed(&mut self, at: HostTime, guest: GuestTime) {
        self.printed = Some(self.nearer(self.printed, at, guest));
    }

    /// The least offset so far, with this message.
    fn nearer(&self, least: Option<i64>, at: HostTime, guest: GuestTime) -> i64 {
        let offset = self.run(at).cast_signed().saturating_sub(guest.0.cast_signed());
        least.map_or(offset, |least| least.min(offset))
    }

    /// The host's time for a time in the kernel's log. `None` before the first message has
    /// arrived.
    pub(crate) fn host_time(&self, guest: GuestTime) -> Option<HostTime> {
        let run = guest.0.saturating_add_signed(self.printed.or(self.offset)?);
        let stood: u64 = self.stops.iter().take_while(|(at, _)| *at < run).map(|(_, length)| length).sum();
        Some(HostTime(run.saturating_add(stood)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_printed_before_a_stop_is_before_it_and_what_after_it_behind() {
        let mut clocks = GuestClock::default();
        assert_eq!(clocks.host_time(GuestTime(1)), None);
        // The machine was started in the stopped state, so there was no stop.
        clocks.resumed(HostTime(100));
        // The guest's clock is 1000 ahead. A message that arrives late changes nothing.
        clocks.heard(HostTime(200), GuestTime(1200));
        clocks.heard(HostTime(290), GuestTime(1250));
        clocks.stopped(HostTime(300));
        // This message was sent before the stop and read during it.
        clocks.heard(HostTime(450), GuestTime(1290));
        clocks.stopped(HostTime(460));
        clocks.resumed(HostTime(500));
        clocks.heard(HostTime(600), GuestTime(1400));
        let at = |guest| clocks.host_time(GuestTime(guest)).unwrap().0;
        assert_eq!((at(1250), at(1300), at(1301), at(1400)), (250, 300, 501, 600));
    }
}

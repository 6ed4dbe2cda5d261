//! The guest's clock on the host's. It stands while the machine does: QEMU's virtual clock (`cpu_disable_ticks()`).

use hotplug_protocol::GuestTime;

use serde::{Deserialize, Serialize};

/// Microseconds of the host's monotonic clock since the trial began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostTime(pub u64);

/// What is known of the two clocks.
#[derive(Debug, Default)]
pub(crate) struct GuestClock {
    /// When the machine stood, by the time that it had run until then, and for how long; microseconds.
    stops: Vec<(u64, u64)>,
    /// All of them together.
    stood: u64,
    /// It stands since then.
    since: Option<HostTime>,
    /// The time that the machine has run less the guest's clock, microseconds: the least seen, which is the one delayed least.
    offset: Option<i64>,
}

impl GuestClock {
    /// How long the machine had run.
    fn run(&self, at: HostTime) -> u64 {
        self.since.map_or(at.0, |since| since.0).saturating_sub(self.stood)
    }

    /// The machine was stopped.
    pub(crate) fn stopped(&mut self, at: HostTime) {
        self.since.get_or_insert(at);
    }

    /// It runs again. The first time, that of a machine that is started so, it had not been stopped.
    pub(crate) fn resumed(&mut self, at: HostTime) {
        let run = self.run(at);
        if let Some(since) = self.since.take() {
            let length = at.0.saturating_sub(since.0);
            self.stops.push((run, length));
            self.stood += length;
        }
    }

    /// Something arrived that is stamped by the guest's clock.
    pub(crate) fn heard(&mut self, at: HostTime, guest: GuestTime) {
        let offset = self.run(at).cast_signed().saturating_sub(guest.0.cast_signed());
        self.offset = Some(self.offset.map_or(offset, |least| least.min(offset)));
    }

    /// The host's time of a moment on the guest's clock; none before anything was heard.
    pub(crate) fn host_time(&self, guest: GuestTime) -> Option<HostTime> {
        let run = guest.0.saturating_add_signed(self.offset?);
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
        // Started standing: there was no stop.
        clocks.resumed(HostTime(100));
        // The guest is 1000 ahead; one that arrives late changes nothing.
        clocks.heard(HostTime(200), GuestTime(1200));
        clocks.heard(HostTime(290), GuestTime(1250));
        clocks.stopped(HostTime(300));
        // Sent before the stop, read in the middle of it.
        clocks.heard(HostTime(450), GuestTime(1290));
        clocks.stopped(HostTime(460));
        clocks.resumed(HostTime(500));
        clocks.heard(HostTime(600), GuestTime(1400));
        let at = |guest| clocks.host_time(GuestTime(guest)).unwrap().0;
        assert_eq!((at(1250), at(1300), at(1301), at(1400)), (250, 300, 501, 600));
    }
}

//! Counts which lines of the counted files ran, and during which operations. The counters are read
//! whenever an operation begins or ends.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use data_encoding::HEXLOWER;
use hotplug_protocol::ObjectCounters;

use super::context::TrialPlan;
use crate::Result;
use crate::coverage::{self, Counted, Counters, Objects, TrialCounters};
use crate::event_log::{Event, Subscription};
use crate::files::write_json_compact;
use crate::guest::{Agent, AgentError};

/// The counts of one trial so far. They outlive the lanes, as [`super::lanes::Log`] does.
#[derive(Debug)]
pub(super) struct Count<'a> {
    /// The counted files, such as `mm/slub.c`.
    sources: &'a [String],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last reading.
    last: Option<Objects>,
    counters: TrialCounters,
    /// The operations in progress, by number.
    under_way: BTreeMap<usize, String>,
    /// The operations that were in progress at any time since the last reading.
    since: BTreeSet<String>,
}

impl<'a> Count<'a> {
    pub(super) fn new(sources: &'a [String]) -> Self {
        Self { sources, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the counters. The increase counts for the operations that were in progress since the
    /// last reading. The first reading counts for the boot.
    pub(super) async fn read(&self, agent: &Agent) {
        self.take(agent.counters().await);
    }

    fn take(&self, read: Result<Vec<ObjectCounters>, AgentError>) {
        let objects = match read {
            Ok(all) => self.objects(&all),
            // The channel's end is reported elsewhere, with its reason.
            Err(AgentError::Gone) => return,
            Err(error) => Err(error.to_string()),
        };
        let state = &mut *self.lock();
        let under_way = state.under_way.values().cloned().collect();
        let operations = std::mem::replace(&mut state.since, under_way);
        let taken = objects.and_then(|now| {
            match &state.last {
                None => state.counters.boot = now.clone(),
                Some(last) => {
                    let new = now.since(last).map_err(|odd| odd.to_string())?;
                    state.counters.add(operations.into_iter().collect(), new);
                }
            }
            state.last = Some(now);
            Ok(())
        });
        if let Err(why) = taken {
            state.counters.none.get_or_insert(why);
        }
    }

    /// Updates the operations in progress. Returns whether they changed.
    fn note(&self, what: &Event) -> bool {
        let State { under_way, since, .. } = &mut *self.lock();
        match what {
            Event::OperationBegan { number, operation, .. } => {
                since.insert(operation.kind());
                under_way.insert(*number, operation.kind());
                true
            }
            Event::OperationEnded { number, .. } => under_way.remove(number).is_some(),
            _ => false,
        }
    }

    /// Selects the counters of the counted files from all that the guest sent.
    fn objects(&self, all: &[ObjectCounters]) -> Result<Objects, String> {
        let mut objects = Objects::default();
        for source in self.sources {
            let ending = format!("/{}", Path::new(source).with_extension("gcda").display());
            let sent = all.iter().find(|one| one.path.ends_with(&ending));
            let sent = sent.ok_or_else(|| format!("the guest has no counters of {source}"))?;
            let bytes = HEXLOWER
                .decode(sent.gcda.as_bytes())
                .map_err(|_| format!("the guest's counters of {source} are not valid hexadecimal"))?;
            objects.0.insert(source.clone(), Counters::parse(&bytes).map_err(|odd| odd.to_string())?);
        }
        Ok(objects)
    }

    /// Reads the counters whenever an operation begins or ends. `heard` is subscribed since before
    /// the first operation.
    pub(super) async fn follow(&self, agent: &Agent, mut heard: Subscription) -> Result<Infallible> {
        loop {
            let mut is_due = self.note(&heard.next().await?.what);
            while is_due {
                is_due = false;
                let reading = agent.counters();
                tokio::pin!(reading);
                let read = loop {
                    tokio::select! {
                        // An event that arrives before the reading belongs to the reading.
                        biased;
                        next = heard.next() => is_due |= self.note(&next?.what),
                        read = &mut reading => break read,
                    }
                };
                if read == Err(AgentError::Gone) {
                    return std::future::pending().await;
                }
                self.take(read);
            }
        }
    }

    /// Writes the counts to the trial's folder. If the trial `is_cut`, the last ones are lost.
    pub(super) fn write(self, plan: &TrialPlan, dir: &Path, is_cut: bool) -> Result<()> {
        let State { counters, .. } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let counted = Counted { side: plan.side, number: plan.number, counters, is_cut };
        write_json_compact(&dir.join(coverage::FILE), &counted)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::device::DeviceId;
    use crate::event_log::OperationOutcome;
    use crate::scenario::Operation;

    /// The counter file of gcc 12 for one function with two counters.
    fn gcda(counts: [u64; 2]) -> ObjectCounters {
        let mut words = vec![0x6763_6461_u32, 0x4232_322a, 5, 7, 0x0100_0000, 12, 1, 2, 3, 0x01a1_0000, 16];
        for count in counts {
            words.extend([u32::try_from(count).unwrap(), 0]);
        }
        let mut gcda = String::new();
        for word in words {
            let _ = write!(gcda, "{:08x}", word.swap_bytes());
        }
        ObjectCounters { path: "cache/objects/mm/slub.gcda".into(), gcda }
    }

    fn began(number: usize, operation: Operation) -> Event {
        Event::OperationBegan { number, lane: "lane".into(), operation }
    }

    fn ended(number: usize) -> Event {
        Event::OperationEnded { number, outcome: OperationOutcome::Done }
    }

    #[test]
    fn what_is_new_is_counted_for_what_was_under_way() {
        let sources = ["mm/slub.c".to_owned()];
        let count = Count::new(&sources);
        let plug = Operation::Plug(DeviceId("dimm0".into()));
        let unplug = Operation::Unplug(DeviceId("dimm1".into()));
        count.take(Ok(vec![gcda([3, 0])]));
        // An operation that began and ended between two readings was in progress.
        assert!(count.note(&began(0, plug.clone())) && count.note(&ended(0)));
        count.take(Ok(vec![gcda([4, 0])]));
        // No operation was in progress, and nothing ran.
        count.take(Ok(vec![gcda([4, 0])]));
        assert!(count.note(&began(1, unplug)) && count.note(&began(2, plug)));
        assert!(!count.note(&Event::Panic) && !count.note(&ended(7)));
        count.take(Ok(vec![gcda([5, 1])]));
        assert!(count.note(&ended(2)));
        count.take(Ok(vec![gcda([5, 2])]));
        count.take(Ok(vec![gcda([5, 3])]));
        let counters = count.state.into_inner().unwrap().counters;
        assert_eq!(counters.none, None);
        let counted: Vec<(String, String)> = counters
            .during
            .iter()
            .map(|during| (during.operations.join(" + "), serde_json::to_string(&during.objects).unwrap()))
            .collect();
        let expected =
            [("plug dimm", "[1,0]"), ("plug dimm + unplug dimm", "[1,2]"), ("unplug dimm", "[0,1]")];
        assert_eq!(counted.len(), expected.len(), "{counted:?}");
        for ((operations, text), (wanted, counts)) in counted.iter().zip(expected) {
            assert_eq!(operations, wanted);
            assert!(text.contains(counts), "{text}");
        }
        assert!(serde_json::to_string(&counters.boot).unwrap().contains("[3,0]"));
    }

    #[test]
    fn a_guest_without_them_says_nothing() {
        let sources = ["mm/slub.c".to_owned()];
        let odd = ObjectCounters { gcda: "6".into(), ..gcda([0, 0]) };
        for (sent, why) in [
            (Vec::new(), "the guest has no counters of mm/slub.c"),
            (vec![odd], "the guest's counters of mm/slub.c are not valid hexadecimal"),
        ] {
            let count = Count::new(&sources);
            count.take(Ok(sent));
            count.take(Ok(vec![gcda([1, 1])]));
            assert_eq!(count.state.into_inner().unwrap().counters.none.unwrap(), why);
        }
    }
}

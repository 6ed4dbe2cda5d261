//! A trial that records which callbacks its kernel has, and which ran.

use std::collections::BTreeSet;
use std::path::Path;

use super::outcome::TrialRecord;
use super::tracer::{TRACING, lost_events, prepare, tell, trace};
use super::vm::Vm;
use crate::Result;
use crate::files::{write_json_compact, write_whole};
use crate::guest::{Agent, AgentError};
use crate::limits::limits;
use crate::reach::{self, CallbackLayout, Callbacks, TraceSetup, TrialCallbacks};

/// The trace events of CPU hotplug (include/trace/events/cpuhp.h).
const CPU_EVENTS: [&str; 3] = ["cpuhp_enter", "cpuhp_multi_enter", "cpuhp_exit"];

/// The tracer's file with the definitions of kprobes (Documentation/trace/kprobetrace.rst). A write
/// adds one.
const KPROBES: &str = "kprobe_events";

/// The callbacks of one guest, as they are recorded.
#[derive(Debug)]
pub(super) struct CallbackTrace<'a> {
    layout: &'a CallbackLayout,
    /// The number of CPUs that may have a part of the trace.
    cpus: u32,
}

/// The trace of one guest.
#[derive(Debug, Default)]
pub(super) struct CallbackEvents {
    text: Option<String>,
    /// What it records of notifiers.
    traced: TraceSetup,
    /// Why the trace is not valid.
    odd: Option<String>,
}

impl<'a> CallbackTrace<'a> {
    pub(super) fn new(layout: &'a CallbackLayout, cpus: u32) -> Self {
        Self { layout, cpus }
    }

    /// Starts the trace. Fails only if the agent is gone.
    pub(super) async fn begin(&self, vm: &Vm) -> Result<CallbackEvents, AgentError> {
        let agent = &vm.agent;
        let begun = async {
            prepare(agent).await?;
            let mut traced = self.probe(vm).await?;
            traced.notifier_event = self.layout.traces_notifiers;
            for event in CPU_EVENTS {
                tell(agent, &format!("events/cpuhp/{event}/enable"), "1").await?;
            }
            if traced.notifier_event && traced.notifiers.is_empty() {
                tell(agent, "events/notifier/notifier_run/enable", "1").await?;
            }
            tell(agent, "tracing_on", "1").await?;
            Ok(traced)
        };
        match begun.await {
            Ok(traced) => {
                Ok(CallbackEvents { odd: Some("the guest returned no trace".into()), traced, text: None })
            }
            Err(AgentError::Failed { what, .. }) => Ok(CallbackEvents {
                odd: Some(format!("its kernel cannot trace events: {what}")),
                ..CallbackEvents::default()
            }),
            Err(error) => Err(error),
        }
    }

    /// Sets a kprobe on each notifier, and on each callback that runs on a CPU that is not online.
    /// A kernel without kprobes gets none. A function that cannot have one, because it is part of
    /// the kprobes themselves or is inlined, gets none.
    async fn probe(&self, vm: &Vm) -> Result<TraceSetup, AgentError> {
        let mut traced = TraceSetup::default();
        if vm.agent.read_if_there(&format!("{TRACING}/{KPROBES}")).await?.is_none() {
            return Ok(traced);
        }
        // The guest runs, but nothing registers callbacks before the first operation. A list that
        // changes while it is read gives an error here, and is read again at the end.
        let Ok(callbacks) = self.walk(vm).await else { return Ok(traced) };
        let set = async |definition: String| match tell(&vm.agent, KPROBES, &definition).await {
            Ok(()) => Ok(true),
            Err(AgentError::Failed { .. }) => Ok(false),
            Err(error) => Err(error),
        };
        let notifiers: BTreeSet<u64> =
            callbacks.chains.values().flatten().map(|notifier| notifier.address).collect();
        for address in notifiers {
            if set(reach::notifier_probe(address, &self.layout.probe_place(address))).await? {
                traced.notifiers.insert(address);
            }
        }
        for (number, (name, address)) in callbacks.atomic().enumerate() {
            if set(reach::function_probe(number, &self.layout.probe_place(address))).await? {
                traced.functions.insert(number, name.to_owned());
            }
        }
        if !traced.notifiers.is_empty() || !traced.functions.is_empty() {
            tell(&vm.agent, &format!("events/{}/enable", reach::PROBE_GROUP), "1").await?;
        }
        Ok(traced)
    }

    /// Reads the registered callbacks from the memory of the guest.
    async fn walk(&self, vm: &Vm) -> Result<Callbacks, String> {
        reach::walk(self.layout, async |address, bytes| vm.memory(address, bytes).await).await
    }

    /// Ends the trace and reads it.
    pub(super) async fn end(&self, agent: &Agent, events: &mut CallbackEvents) -> Result<(), AgentError> {
        if let Err(error) = tell(agent, "tracing_on", "0").await {
            // Without a tracer, the reason is known already.
            return if matches!(error, AgentError::Failed { .. }) { Ok(()) } else { Err(error) };
        }
        events.text = Some(trace(agent).await?);
        events.odd = lost_events(agent, self.cpus).await?;
        Ok(())
    }

    /// Reads the registered callbacks from the memory of the guest, which is stopped for it.
    pub(super) async fn registered(&self, vm: &Vm) -> Result<Callbacks, String> {
        let whole = async {
            vm.stop().await.map_err(|error| error.to_string())?;
            self.walk(vm).await
        };
        match tokio::time::timeout(limits().memory, whole).await {
            Ok(read) => read,
            Err(_) => Err("QEMU did not give the guest's memory in time".to_owned()),
        }
    }

    /// Writes the trace and the callbacks to the trial's folder.
    pub(super) fn write(
        &self,
        dir: &Path,
        record: &TrialRecord,
        events: CallbackEvents,
        registered: Result<Callbacks, String>,
    ) -> Result<()> {
        let text = events.text.unwrap_or_default();
        let (callbacks, unread) = match registered {
            Ok(callbacks) => (callbacks, None),
            Err(why) => (Callbacks::default(), Some(why)),
        };
        let all = TrialCallbacks {
            scenario: record.scenario.clone(),
            odd: events.odd.or(unread),
            callbacks,
            transitions: self.layout.transitions.clone(),
            runs: reach::runs(&text, events.traced),
        };
        write_whole(&dir.join("trace.txt"), text.as_bytes())?;
        write_json_compact(&dir.join(reach::FILE), &all)
    }
}

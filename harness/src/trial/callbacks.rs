//! A trial that records which callbacks its kernel has, and which ran.

use std::path::Path;

use super::outcome::TrialRecord;
use super::tracer::{lost_events, prepare, tell, trace};
use super::vm::Vm;
use crate::Result;
use crate::files::{write_json_compact, write_whole};
use crate::guest::{Agent, AgentError};
use crate::limits::limits;
use crate::reach::{self, CallbackLayout, Callbacks, TrialCallbacks};

/// The trace events of CPU hotplug (include/trace/events/cpuhp.h).
const CPU_EVENTS: [&str; 3] = ["cpuhp_enter", "cpuhp_multi_enter", "cpuhp_exit"];

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
    /// Why the trace is not valid.
    odd: Option<String>,
}

impl<'a> CallbackTrace<'a> {
    pub(super) fn new(layout: &'a CallbackLayout, cpus: u32) -> Self {
        Self { layout, cpus }
    }

    /// Starts the trace. Fails only if the agent is gone.
    pub(super) async fn begin(&self, agent: &Agent) -> Result<CallbackEvents, AgentError> {
        let begun = async {
            prepare(agent).await?;
            for event in CPU_EVENTS {
                tell(agent, &format!("events/cpuhp/{event}/enable"), "1").await?;
            }
            if self.layout.traces_notifiers {
                tell(agent, "events/notifier/notifier_run/enable", "1").await?;
            }
            tell(agent, "tracing_on", "1").await
        };
        match begun.await {
            Ok(()) => Ok(CallbackEvents { odd: Some("the guest returned no trace".into()), text: None }),
            Err(AgentError::Failed { what, .. }) => Ok(CallbackEvents {
                odd: Some(format!("its kernel cannot trace events: {what}")),
                text: None,
            }),
            Err(error) => Err(error),
        }
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
            reach::walk(self.layout, async |address, bytes| vm.memory(address, bytes).await).await
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
            runs: reach::runs(&text, self.layout.traces_notifiers),
        };
        write_whole(&dir.join("trace.txt"), text.as_bytes())?;
        write_json_compact(&dir.join(reach::FILE), &all)
    }
}

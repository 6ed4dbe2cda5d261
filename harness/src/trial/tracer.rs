//! The files of the guest's kernel tracer (Documentation/trace/ftrace.rst).

use hotplug_protocol::Request;

use crate::Result;
use crate::guest::{Agent, AgentError};

/// The folder of the kernel's tracer.
pub(super) const TRACING: &str = "/sys/kernel/tracing";

/// The size of the trace buffer of each CPU, enough for 100,000 calls. If it is full, the newest
/// events are lost, and the kernel counts them.
const BUFFER_KIB: &str = "8192";

/// Stops the trace, and makes room for a new one.
pub(super) async fn prepare(agent: &Agent) -> Result<(), AgentError> {
    tell(agent, "tracing_on", "0").await?;
    tell(agent, "buffer_size_kb", BUFFER_KIB).await
}

/// Writes to one of the tracer's files.
pub(super) async fn tell(agent: &Agent, file: &str, data: &str) -> Result<(), AgentError> {
    let path = format!("{TRACING}/{file}");
    agent.ask(Request::Write { path, data: data.to_owned() }).await.map(drop)
}

/// The whole trace.
pub(super) async fn trace(agent: &Agent) -> Result<String, AgentError> {
    agent.read(format!("{TRACING}/trace")).await
}

/// Why the trace is incomplete, if a CPU lost events because its buffer was full. `cpus` is the
/// number of CPUs that may have a part of the trace.
pub(super) async fn lost_events(agent: &Agent, cpus: u32) -> Result<Option<String>, AgentError> {
    let mut odd = None;
    for cpu in 0..cpus {
        // `None` means that the machine cannot have this CPU.
        let path = format!("{TRACING}/per_cpu/cpu{cpu}/stats");
        let Some(stats) = agent.read_if_there(&path).await? else { continue };
        let lost = |line: &&str| {
            let (what, count) = line.split_once(':').unwrap_or_default();
            matches!(what.trim(), "overrun" | "commit overrun" | "dropped events") && count.trim() != "0"
        };
        if let Some(lost) = stats.lines().find(lost) {
            odd = Some(format!("its trace lost events on CPU {cpu}: {}", lost.trim()));
        }
    }
    Ok(odd)
}

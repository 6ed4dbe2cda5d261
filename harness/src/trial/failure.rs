//! The operation `fail`: a CPU or memory blocks go offline and online again and again, each time
//! with one failure on purpose. The kernel must undo every step that it had taken.

use std::time::Duration;

use hotplug_protocol::{Answer, Request};

use super::accounting::{Became, Change};
use super::bench::Bench;
use super::operation::{End, block_file, blocks, cpu_file, cpu_number};
use crate::Result;
use crate::event_log::OperationOutcome;
use crate::guest::AgentError;
use crate::scenario::{FailAt, Part, Place, Policy};

/// The states of CPU hotplug, by number (kernel/cpu.c, `states_show`).
const STATES: &str = "/sys/devices/system/cpu/hotplug/states";

/// The notifier that fails on demand (lib/memory-notifier-error-inject.c), with a folder for each
/// transition that may fail.
const NOTIFIER: &str = "/sys/kernel/debug/notifier-error-inject/memory/actions";

/// Allocations may fail even if the caller may wait for memory, and without a message
/// (Documentation/fault-injection/fault-injection.rst).
const ALLOCATIONS: [(&str, &str); 5] = [
    ("/sys/kernel/debug/failslab/ignore-gfp-wait", "N"),
    ("/sys/kernel/debug/failslab/verbose", "0"),
    ("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N"),
    ("/sys/kernel/debug/fail_page_alloc/min-order", "0"),
    ("/sys/kernel/debug/fail_page_alloc/verbose", "0"),
];

/// The most allocations of one write that fail, one after another. The first ones of a path differ;
/// later ones are mostly those of a loop.
const MOST_ALLOCATIONS: u32 = 48;

/// Why the operation ends early.
enum Stop {
    TimedOut,
    Agent(AgentError),
    /// The guest could not be brought back to its state.
    Stuck(String),
}

impl From<AgentError> for Stop {
    fn from(error: AgentError) -> Self {
        Self::Agent(error)
    }
}

/// A file that takes a CPU or a block offline and brings it online.
struct Toggle {
    path: String,
    offline: &'static str,
    online: &'static str,
}

/// The guest, and the limit of each request.
struct Guest<'a> {
    bench: Bench<'a>,
    limit: Duration,
}

impl Guest<'_> {
    async fn ask(&self, request: Request) -> Result<Answer, Stop> {
        match tokio::time::timeout(self.limit, self.bench.vm.agent.ask(request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Stop::TimedOut),
        }
    }

    /// Writes to a file. Returns whether the kernel took the value.
    async fn write(&self, path: &str, data: &str) -> Result<bool, Stop> {
        match self.must_write(path, data).await {
            Err(Stop::Stuck(_)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// A write that must succeed, because nothing fails on purpose.
    async fn must_write(&self, path: &str, data: &str) -> Result<(), Stop> {
        match self.ask(Request::Write { path: path.to_owned(), data: data.to_owned() }).await {
            Err(Stop::Agent(AgentError::Failed { what, .. })) => {
                Err(Stop::Stuck(format!("it failed without a reason: {what}")))
            }
            other => other.map(drop),
        }
    }
}

/// Performs the operation.
pub(super) async fn fail(bench: Bench<'_>, place: &Place, at: FailAt, part: Part) -> Result<End> {
    let guest = Guest { bench, limit: Duration::from_secs(bench.scenario.time_limit_s.into()) };
    let mut changed = Vec::new();
    let toggles = match cpu_number(bench, place).await {
        Err(end) => return Ok(end),
        Ok(Some(number)) => vec![Toggle { path: cpu_file(number), offline: "0", online: "1" }],
        Ok(None) => {
            let blocks = match blocks(bench, place).await {
                Ok(blocks) => blocks,
                Err(end) => return Ok(end),
            };
            changed.extend(blocks.iter().map(|number| (*number, Became::Online(Policy::Movable))));
            let toggle = |number| Toggle {
                path: block_file(number),
                offline: "offline",
                online: Policy::Movable.kernel_word(),
            };
            blocks.into_iter().map(toggle).collect()
        }
    };
    let change = if changed.is_empty() { Change::Nothing } else { Change::Blocks(changed) };
    Ok(match every(&guest, &toggles, at, part).await {
        Ok(0) => End { change, outcome: refused("nothing failed on purpose") },
        Ok(_) => End { change, outcome: OperationOutcome::Done },
        Err(Stop::TimedOut) => End { change: Change::Unknown, outcome: OperationOutcome::TimedOut },
        Err(Stop::Agent(error)) => End::of_agent(error),
        Err(Stop::Stuck(how)) => End { change: Change::Unknown, outcome: refused(&how) },
    })
}

fn refused(how: &str) -> OperationOutcome {
    OperationOutcome::RefusedByGuest { how: how.to_owned() }
}

/// Every failure of all toggles. Returns the number of writes that failed on purpose.
async fn every(guest: &Guest<'_>, toggles: &[Toggle], at: FailAt, part: Part) -> Result<u32, Stop> {
    if at == FailAt::Allocations {
        for (path, data) in ALLOCATIONS {
            guest.must_write(path, data).await?;
        }
    }
    let mut failures = 0;
    for toggle in toggles {
        let Toggle { path, offline, online } = toggle;
        for (to, back) in [(offline, online), (online, offline)] {
            failures += match at {
                FailAt::States => states(guest, path, to, back, part).await?,
                FailAt::Allocations => allocations(guest, path, to, back, part).await?,
                FailAt::Notifiers => notifiers(guest, path, to, back).await?,
            };
            guest.must_write(path, to).await?;
        }
    }
    Ok(failures)
}

/// A failure at each state of CPU hotplug that may fail on this way (kernel/cpu.c,
/// `write_cpuhp_fail`; the others are refused).
async fn states(guest: &Guest<'_>, path: &str, to: &str, back: &str, part: Part) -> Result<u32, Stop> {
    let fail = format!("{}/hotplug/fail", path.trim_end_matches("/online"));
    let states = Request::Read { path: STATES.to_owned(), offset: 0, length: None };
    let Answer::Contents(text) = guest.ask(states).await? else { return Ok(0) };
    let numbers = text.lines().filter_map(|line| line.split(':').next()?.trim().parse::<u32>().ok());
    let mut failures = 0;
    for (_, number) in (0..).zip(numbers).filter(|(failure, _)| part.has(*failure)) {
        if !guest.write(&fail, &number.to_string()).await? {
            continue;
        }
        if guest.write(path, to).await? {
            // The state has no callback on this way. The failure stays until it is taken away.
            guest.write(&fail, "-1").await?;
            guest.must_write(path, back).await?;
        } else {
            failures += 1;
        }
    }
    Ok(failures)
}

/// A failure of the first memory allocation of the write, then of the second, and so on, until one
/// succeeds because it has no more.
async fn allocations(guest: &Guest<'_>, path: &str, to: &str, back: &str, part: Part) -> Result<u32, Stop> {
    let mut failures = 0;
    for nth in (1..=MOST_ALLOCATIONS).filter(|nth| part.has(nth - 1)) {
        let request = Request::WriteFailing { path: path.to_owned(), data: to.to_owned(), nth };
        let Answer::Injected { is_injected, errno } = guest.ask(request).await? else { return Ok(failures) };
        failures += u32::from(is_injected);
        if errno == 0 {
            guest.must_write(path, back).await?;
        }
        if !is_injected {
            break;
        }
    }
    Ok(failures)
}

/// A failure of the notifier that is told last of what will happen.
async fn notifiers(guest: &Guest<'_>, path: &str, to: &str, back: &str) -> Result<u32, Stop> {
    let transition = if to == "offline" { "MEM_GOING_OFFLINE" } else { "MEM_GOING_ONLINE" };
    let error = format!("{NOTIFIER}/{transition}/error");
    guest.must_write(&error, "-12").await?;
    let succeeded = guest.write(path, to).await?;
    guest.must_write(&error, "0").await?;
    if succeeded {
        guest.must_write(path, back).await?;
    }
    Ok(u32::from(!succeeded))
}

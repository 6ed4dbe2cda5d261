//! A timed trial. The guest's kernel traces the calls of the functions under test, or measures how
//! long locks are held. Victims time their own loops. All of it is recorded.

use std::path::Path;

use hotplug_protocol::{AgentEvent, Load, LoadEnd, Request};

use super::OperationRecord;
use super::context::TrialPlan;
use super::outcome::TrialRecord;
use super::tracer::{lost_events, prepare, tell, trace};
use crate::Result;
use crate::arch::PhaseFunctions;
use crate::event_log::{Event, OperationOutcome, Stamped};
use crate::files::{write_json_compact, write_whole};
use crate::guest::{Agent, AgentError, LOCK_STAT};
use crate::latency::{self, CameOnline, Course, TrialTimes, VictimTimes};
use crate::scenario::{Clock, Mark, Phase, Victim};

/// The tracer's options, which give the format that [`latency::calls`] parses. Sleeps are part of a
/// call.
const OPTIONS: [(&str, &str); 8] = [
    ("funcgraph-abstime", "1"),
    ("funcgraph-proc", "1"),
    ("funcgraph-tail", "1"),
    ("funcgraph-irqs", "1"),
    ("funcgraph-overhead", "0"),
    ("sleep-time", "1"),
    ("overwrite", "0"),
    ("record-cmd", "1"),
];

/// What a timed trial measures.
#[derive(Debug, Clone)]
pub struct Watched {
    /// What its kernel measures.
    pub told: TimingSource,
    /// The loads whose loops are timed meanwhile.
    pub victims: Vec<Victim>,
    /// The clock that guests follow. For a guest that counts instructions, the host's clock has no
    /// meaning.
    pub clock: Clock,
}

/// What the kernel of a timed trial measures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimingSource {
    /// The calls of these functions, and the course of the trial's operations.
    Calls(Vec<String>),
    /// How long tasks wait for locks and hold them.
    Locks,
}

impl Watched {
    /// The loads that run in addition to the scenario's own.
    pub(super) fn loads(&self) -> impl Iterator<Item = Load> {
        self.victims.iter().map(|victim| victim.load.clone())
    }
}

/// The measurement in one guest.
#[derive(Debug)]
pub(super) struct Trace<'a> {
    watched: &'a Watched,
    /// The functions that mark the phases of an operation, if they are known.
    phases: Option<&'static PhaseFunctions>,
    /// The number of CPUs that may have a part of the trace.
    cpus: u32,
}

/// The measured data of one guest.
#[derive(Debug, Default)]
pub(super) struct Traced {
    /// The functions that this kernel cannot trace, because they do not exist or are inlined.
    untraceable: Vec<String>,
    trace: Option<String>,
    lock_stat: Option<String>,
    /// The results of the victims, in their order.
    pub(super) victims: Vec<LoadEnd>,
    /// Why the data is not valid.
    odd: Option<String>,
    /// Whether the measurement has begun.
    is_begun: bool,
}

impl<'a> Trace<'a> {
    pub(super) fn new(watched: &'a Watched, phases: Option<&'static PhaseFunctions>, cpus: u32) -> Self {
        Self { watched, phases, cpus }
    }

    /// Starts the trace, or resets the lock statistics. There is no data before [`Trace::end`].
    pub(super) async fn begin(&self, agent: &Agent) -> Result<Traced, AgentError> {
        let mut traced = Traced { odd: Some("the guest returned no times".into()), ..Traced::default() };
        let begun = match &self.watched.told {
            TimingSource::Locks => {
                let clear = Request::Write { path: LOCK_STAT.to_owned(), data: "0".to_owned() };
                agent.ask(clear).await.map(drop)
            }
            TimingSource::Calls(functions) => begin_trace(agent, self.phases, functions, &mut traced).await,
        };
        match begun {
            Ok(()) => traced.is_begun = true,
            // The image was built without a required option.
            Err(AgentError::Failed { what, .. }) => {
                traced.odd = Some(format!("its kernel cannot measure times: {what}"));
            }
            Err(error) => return Err(error),
        }
        agent.ask(Request::Steady).await?;
        Ok(traced)
    }
    /// Ends the measurement and reads its data.
    pub(super) async fn end(&self, agent: &Agent, traced: &mut Traced) -> Result<(), AgentError> {
        if !traced.is_begun {
            return Ok(());
        }
        traced.odd = None;
        if self.watched.told == TimingSource::Locks {
            traced.lock_stat = agent.lock_stat().await?;
            return Ok(());
        }
        tell(agent, "tracing_on", "0").await?;
        traced.odd = lost_events(agent, self.cpus).await?;
        traced.trace = Some(trace(agent).await?);
        Ok(())
    }

    /// Marks the data as not valid if the host had swapped out a part of the guest, because the
    /// guest then waits for the disk. With instructions as the clock, this has no effect.
    pub(super) fn see_swapped(&self, kib: Option<u64>, traced: &mut Traced) {
        if self.watched.clock == Clock::Wall
            && let Some(kib @ 1..) = kib
        {
            traced.odd = Some(format!("the host had swapped out {kib} KiB of it"));
        }
    }

    /// Writes the data to the trial's folder, both raw and parsed.
    pub(super) fn write(
        &self,
        plan: &TrialPlan,
        dir: &Path,
        record: &TrialRecord,
        traced: Traced,
    ) -> Result<()> {
        let Traced { untraceable, trace, lock_stat, victims, mut odd, .. } = traced;
        let mut times = TrialTimes { untraceable, ..TrialTimes::new(plan.side, plan.number) };
        if let Some(text) = trace {
            match latency::calls(&text) {
                Ok(calls) => times.calls = calls,
                Err(error) => odd = odd.or(Some(error.to_string())),
            }
            write_whole(&dir.join("trace.txt"), text.as_bytes())?;
        }
        if let Some(text) = lock_stat {
            match latency::lock_stat(&text) {
                Ok(locks) => times.locks = Some(locks),
                Err(error) => odd = odd.or(Some(error.to_string())),
            }
            write_whole(&dir.join("lock-stat.txt"), text.as_bytes())?;
        }
        if self.watched.told != TimingSource::Locks {
            if self.watched.clock == Clock::Wall {
                times.courses = record.operations.iter().filter_map(by_host).collect();
            }
            let heard = came_online(&fs_err::read_to_string(dir.join("events.jsonl"))?);
            let courses = self.phases.map(|phases| latency::courses(phases, &times.calls, &heard));
            times.courses.extend(courses.unwrap_or_default());
            let ended = self.watched.victims.iter().zip(victims);
            times.victims = ended.map(|(victim, end)| victim_times(victim, end)).collect();
        }
        times.odd = odd;
        write_json_compact(&dir.join(latency::FILE), &times)
    }
}

async fn begin_trace(
    agent: &Agent,
    phases: Option<&PhaseFunctions>,
    functions: &[String],
    traced: &mut Traced,
) -> Result<(), AgentError> {
    prepare(agent).await?;
    // The same clock as that of the uevents and the victims' loops.
    tell(agent, "trace_clock", "mono").await?;
    // Without a newline the kernel waits for more, and looks the name up when the file is closed. A
    // name that does not exist then causes no error (6.1 kernel/trace/ftrace.c,
    // `ftrace_regex_write()` and `trace_parser_cont()`).
    let knows = async |function: &str| match tell(agent, "set_ftrace_filter", &format!("{function}\n")).await
    {
        Ok(()) => Ok(true),
        Err(AgentError::Failed { .. }) => Ok(false),
        Err(error) => Err(error),
    };
    let mut any = false;
    let asked = |function: &str| functions.iter().any(|asked| asked == function);
    let others =
        phases.map(latency::traced).unwrap_or_default().into_iter().filter(|function| !asked(function));
    for function in functions.iter().map(String::as_str).chain(others) {
        // A part of a function that the compiler split off has a name of its own, such as
        // `try_remove_memory.part.0`.
        if knows(function).await? || knows(&format!("{function}.*")).await? {
            any = true;
        } else if asked(function) {
            traced.untraceable.push(function.to_owned());
        }
    }
    // Without a filter, all functions would be traced.
    if any {
        tell(agent, "current_tracer", "function_graph").await?;
        for (option, value) in OPTIONS {
            tell(agent, &format!("options/{option}"), value).await?;
        }
        tell(agent, "tracing_on", "1").await?;
    }
    Ok(())
}

/// The course of an operation by the host's clock. `None` if the operation was not done.
fn by_host(record: &OperationRecord) -> Option<Course> {
    let mark = |phase: Phase| match phase {
        Phase::Accepted => Mark::Accepted,
        Phase::Notified => Mark::Told,
        Phase::Online => Mark::ToldOnline,
        Phase::Offline => Mark::ToldOffline,
        Phase::Ejected => Mark::Deleted,
        Phase::Ended => Mark::Ended,
    };
    if record.outcome != OperationOutcome::Done {
        return None;
    }
    let asked = (Mark::Asked, record.asked);
    let phases = record.phases.iter().map(|(phase, at)| (mark(*phase), *at));
    let ended = record.ended.map(|at| (Mark::Ended, at));
    let mut marks: Vec<_> = std::iter::once(asked).chain(phases).chain(ended).collect();
    marks.sort_by_key(|(_, at)| *at);
    marks.dedup_by_key(|(mark, _)| *mark);
    #[expect(clippy::cast_precision_loss, reason = "below 2^52 us, which are 142 years")]
    let marks = marks.into_iter().map(|(mark, at)| (mark, at.0 as f64)).collect();
    Some(Course { operation: record.operation.kind(), marks })
}

/// The times at which the agent received the uevents of CPUs and memory blocks that came online.
fn came_online(events: &str) -> Vec<CameOnline> {
    let heard = events.lines().filter_map(|line| serde_json::from_str::<Stamped>(line).ok());
    heard
        .filter_map(|stamped| match stamped.what {
            Event::Agent { at, event: AgentEvent::Uevent { action, devpath } } if action == "online" => {
                let is_cpu = devpath.starts_with("/devices/system/cpu/cpu");
                #[expect(clippy::cast_precision_loss, reason = "below 2^52 us, which are 142 years")]
                let at = at.0 as f64;
                (is_cpu || devpath.starts_with("/devices/system/memory/memory"))
                    .then_some(CameOnline { at, is_cpu })
            }
            _ => None,
        })
        .collect()
}

fn victim_times(victim: &Victim, end: LoadEnd) -> VictimTimes {
    let LoadEnd { loops, mut times, unfinished, failures: _ } = end;
    // A loop that was still running took at least this long. It is kept only if it is longer than
    // all others.
    let longest = times.iter().map(|time| time.nanoseconds).max().unwrap_or(0);
    times.extend(unfinished.into_iter().filter(|time| time.nanoseconds > longest));
    VictimTimes { name: victim.name.clone(), loops, times }
}

#[cfg(test)]
mod tests {
    use hotplug_protocol::{GuestTime, LoopTime};

    use super::*;
    use crate::device::DeviceId;
    use crate::guest_clock::HostTime;
    use crate::scenario::{Expect, Operation};

    #[test]
    fn a_course_by_the_host_has_each_mark_once_and_in_order() {
        let record = |outcome| OperationRecord {
            lane: "a".into(),
            operation: Operation::Plug(DeviceId("dimm3".into())),
            expect: Expect::Done,
            asked: HostTime(100),
            phases: vec![
                (Phase::Accepted, HostTime(150)),
                (Phase::Notified, HostTime(300)),
                (Phase::Online, HostTime(900)),
                (Phase::Ended, HostTime(950)),
            ],
            ended: Some(HostTime(950)),
            outcome,
            short_limit: None,
        };
        let course = by_host(&record(OperationOutcome::Done)).unwrap();
        assert_eq!(course.operation, "plug dimm");
        let part = "plug dimm: asked..ended".parse().unwrap();
        assert_eq!((course.marks.len(), course.took(&part)), (5, Some(850_000.0)));
        assert_eq!(by_host(&record(OperationOutcome::TimedOut)), None);
    }

    #[test]
    fn a_guest_that_was_swapped_out_is_timed_by_its_instructions_alone() {
        let odd = |clock, kib| {
            let watched = Watched { told: TimingSource::Locks, victims: Vec::new(), clock };
            let mut traced = Traced::default();
            Trace::new(&watched, None, 1).see_swapped(kib, &mut traced);
            traced.odd
        };
        assert_eq!(odd(Clock::Wall, Some(12)).unwrap(), "the host had swapped out 12 KiB of it");
        for (clock, kib) in [(Clock::Wall, Some(0)), (Clock::Wall, None), (Clock::Exact, Some(12))] {
            assert_eq!(odd(clock, kib), None);
        }
    }

    #[test]
    fn what_came_online_is_told_by_the_guests_clock() {
        let uevent = |action: &str, devpath: &str| {
            let event = AgentEvent::Uevent { action: action.into(), devpath: devpath.into() };
            let what = Event::Agent { at: GuestTime(77), event };
            serde_json::to_string(&Stamped { at: HostTime(5), what }).unwrap()
        };
        let events = [
            uevent("add", "/devices/system/memory/memory40"),
            uevent("online", "/devices/system/memory/memory40"),
            uevent("online", "/devices/system/cpu/cpu3"),
            uevent("online", "/devices/ndbus0"),
            "half a li".into(),
        ];
        let expected = [CameOnline { at: 77.0, is_cpu: false }, CameOnline { at: 77.0, is_cpu: true }];
        assert_eq!(came_online(&events.join("\n")), expected);
    }

    #[test]
    fn a_loop_that_never_ended_counts_where_it_was_the_longest() {
        let time = |nanoseconds| LoopTime { began: GuestTime(1), nanoseconds };
        let load = hotplug_protocol::Load {
            kind: hotplug_protocol::LoadKind::Fork,
            workers: 1,
            rate: None,
            cpus: Vec::new(),
            path: None,
            data: Vec::new(),
            bytes: None,
            program: None,
            must_succeed: false,
            timed: true,
        };
        let victim = Victim { name: "fork".into(), load };
        let of = |stuck| {
            let end = LoadEnd {
                loops: 2,
                times: vec![time(5), time(9)],
                unfinished: vec![time(stuck)],
                failures: None,
            };
            victim_times(&victim, end).longest().map(|time| time.nanoseconds)
        };
        assert_eq!((of(3), of(30)), (Some(9), Some(30)));
    }
}

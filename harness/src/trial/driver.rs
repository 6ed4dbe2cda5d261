//! Drives the machine of a trial: start, load, lanes, last queries.

use std::pin::pin;

use hotplug_protocol::{Answer, Hello, Load, LoadEnd, Request};
use tokio_util::sync::CancellationToken;

use super::accounting::Ledger;
use super::callbacks::CallbackTrace;
use super::classify::TrialState;
use super::context::{TrialPlan, TrialSetup, TrialStart};
use super::coverage::Count;
use super::cpus::Cpus;
use super::holding::{self, Holds};
use super::housekeeping_cpu;
use super::lanes::{Lanes, Log};
use super::operation::QUOTED;
use super::outcome::LoadFailure;
use super::rest::{self, Beginning};
use super::standing::{StandingValues, Unrestored};
use super::timing::{Trace, Watched};
use super::vm::{Cut, Vm};
use crate::event_log::{Event, Stage, Subscription};
use crate::guest::{AgentError, LockdepStats};
use crate::limits::limits;
use crate::scenario::{Schedule, Start};
use crate::text::harmless;
use crate::vmm::gdb::GdbError;

/// Drives one trial, with everything that it reads and writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrialDriver<'a> {
    pub(super) vm: &'a Vm,
    /// What the guest began with, if it has taken a trial before.
    pub(super) beginning: Option<&'a Beginning>,
    pub(super) setup: TrialSetup<'a>,
    pub(super) plan: &'a TrialPlan,
    pub(super) schedule: &'a Schedule,
    pub(super) log: &'a Log,
    pub(super) holds: &'a Holds,
    /// The line counters, if lines are counted.
    pub(super) count: Option<&'a Count<'a>>,
    /// The trace, if functions or locks are timed.
    pub(super) trace: Option<&'a Trace<'a>>,
    /// The trace of callbacks, if they are recorded.
    pub(super) callbacks: Option<&'a CallbackTrace<'a>>,
    /// Cancelled when the first operation was accepted.
    pub(super) under_way: &'a CancellationToken,
}

impl TrialDriver<'_> {
    /// Runs the whole trial: start, load, lanes, last queries. Sets `state.cut` if something ends
    /// it early. `heard` is subscribed since before QEMU was started.
    pub(super) async fn drive(self, heard: Subscription, state: &mut TrialState) {
        // The work borrows `state`, so `state.cut` is set only after the race between the work and
        // a cut.
        let cut = self.vm.unless_cut(self.until_settled(heard, state)).await;
        self.under_way.cancel();
        let done = match cut {
            Ok(()) => self.vm.unless_cut(self.settle(state)).await,
            cut => cut,
        };
        state.cut = done.err();
    }

    /// Everything up to the last queries.
    async fn until_settled(self, heard: Subscription, state: &mut TrialState) -> Result<(), Cut> {
        let vm = self.vm;
        if self.setup.context.scenario.start == Start::Boot {
            return self.during_boot(heard, state).await;
        }
        let mut beginning = self.begin(heard).await?;
        state.ready = Some(vm.event_log.now());
        state.armed.start = beginning.armed;
        if beginning.standing.is_none() {
            beginning.standing = StandingValues::read(&vm.agent).await.ok();
        }
        state.beginning = Some(beginning.clone());
        if let Some(count) = self.count {
            // The counters of the guest, restored or booted, include its boot.
            count.read(&vm.agent).await;
        }
        if let Some(trace) = self.trace {
            let begun = trace.begin(&vm.agent).await;
            let broken =
                |error: AgentError| Cut::Broken(format!("the guest's tracer cannot be set up: {error}"));
            state.traced = begun.map_err(broken)?;
        }
        if let Some(callbacks) = self.callbacks {
            let begun = callbacks.begin(vm).await;
            state.callbacks = begun.map_err(|error| Cut::Broken(error.to_string()))?;
        }
        let counted = async {
            match self.count {
                Some(count) => count.follow(&vm.agent, vm.event_log.listen()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The order matters: the counting must subscribe before the first operation begins.
            biased;
            failed = counted => failed.map(|never| match never {}).map_err(|e| Cut::Broken(e.to_string())),
            ended = self.under_load(beginning) => ended,
        }
    }

    /// Restores or boots the guest, unless it has taken a trial before. Returns what it begins
    /// with.
    async fn begin(self, heard: Subscription) -> Result<Beginning, Cut> {
        let vm = self.vm;
        // The answer is not awaited, because the agent reads this request before all later ones.
        // Without it, every restored guest would continue from the same random numbers.
        let reseed = || vm.reseed(&blake3::hash(&self.plan.seed.0.to_le_bytes()).to_hex());
        if let Some(beginning) = self.beginning {
            vm.event_log.record(Event::Stage(Stage::Ready));
            reseed();
            return Ok(beginning.clone());
        }
        if let Some(checkpoint) = self.setup.start.checkpoint(self.plan.side) {
            vm.restore().await?;
            reseed();
            return Ok(checkpoint.beginning());
        }
        let hello = vm.boot(heard).await?;
        let questions = async {
            vm.kmsg.calm_for(limits().calm, limits().calm_at_most).await;
            Ok::<_, AgentError>((vm.agent.snapshot().await?, vm.agent.lockdep_stats().await?))
        };
        match tokio::time::timeout(limits().questions, questions).await {
            Ok(Ok((baseline, stats))) => Ok(Beginning {
                hello,
                baseline,
                standing: None,
                armed: stats.and_then(|stats| stats.armed()),
            }),
            _ => Err(Cut::Hung("no answer to the first queries".into())),
        }
    }

    /// Runs the lanes under load, on a guest that is ready.
    async fn under_load(self, beginning: Beginning) -> Result<(), Cut> {
        let Self { vm, setup, schedule, .. } = self;
        let Beginning { hello, baseline, .. } = beginning;
        let scenario = &setup.context.scenario;
        let cpus = Cpus::of_boot(&baseline.cpus_online);
        let spare = (!schedule.holding.is_empty())
            .then(|| housekeeping_cpu::spare(schedule, &baseline.cpus_online))
            .flatten();
        let listens = match setup.start {
            TrialStart::Restored(_) => housekeeping_cpu::in_checkpoints_of(scenario),
            TrialStart::Cold { .. } => None,
        };
        if let Some(cpu) = spare.filter(|_| spare != listens) {
            // This comes before the load, so that it does not apply to the load's processes.
            housekeeping_cpu::on(vm, cpu, limits().questions).await?;
        }
        let ledger = Ledger::new(baseline, &hello, vm.arch, scenario.guest.memory_online);
        let mut loads = scenario.guest.load.clone();
        loads.extend(setup.instruments.watched.iter().flat_map(Watched::loads));
        if !loads.is_empty() {
            let start = vm.agent.ask(Request::StartLoad { loads });
            match tokio::time::timeout(limits().questions, start).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(Cut::Broken(format!("the load does not start: {error}"))),
                Err(_) => return Err(Cut::Hung("the load does not start".into())),
            }
        }
        vm.event_log.record(Event::Stage(Stage::Lanes));
        let mut heard = vm.event_log.listen();
        let accepted = async {
            let first = |what: &Event| matches!(what, Event::OperationReached { .. }).then_some(());
            let _ = heard.until(first).await;
            self.under_way.cancel();
            std::future::pending().await
        };
        let typed = async {
            match scenario.guest.typing {
                Some(bytes) => vm.serial.type_for_ever(bytes).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = self.while_held(self.lanes(&ledger, &cpus)) => done,
            never = accepted => never,
            never = typed => match never {},
        }
    }

    async fn lanes(self, ledger: &Ledger, cpus: &Cpus) -> Result<(), Cut> {
        let of = (self.setup.context, self.plan.side);
        let lanes = Lanes::new(self.vm, of, ledger, cpus, self.log);
        lanes.run(self.schedule).await.map_err(|error| Cut::Hung(error.to_string()))
    }

    /// Runs `lanes` while tasks and vCPUs are held as the schedule says. Once the lanes have ended,
    /// no task or vCPU is held.
    async fn while_held(self, lanes: impl Future<Output = Result<(), Cut>>) -> Result<(), Cut> {
        let Self { vm, schedule, .. } = self;
        let places = self.setup.context.places.as_ref().map(|places| &**places.of(self.plan.side));
        let Some(places) = places.filter(|_| !schedule.holding.is_empty()) else { return lanes.await };
        let broken = |error: GdbError| Cut::Broken(error.to_string());
        let gdb = vm.gdb().await.map_err(broken)?;
        let over = CancellationToken::new();
        // The future is boxed because it is large, and most trials hold nothing.
        let mut held = Box::pin(holding::hold(
            gdb,
            &vm.qmp,
            places,
            &schedule.holding,
            &vm.event_log,
            self.holds,
            &over,
        ));
        let mut lanes = pin!(lanes);
        tokio::select! {
            // Without this branch, a guest might stay stopped for ever.
            held = &mut held => {
                held.map_err(broken)?;
                lanes.await
            }
            done = &mut lanes => {
                over.cancel();
                held.await.map_err(broken).and(done)
            }
        }
    }

    /// Runs the lanes while the guest boots. The state that the guest would have without them is
    /// not known, so there is no accounting.
    async fn during_boot(self, heard: Subscription, state: &mut TrialState) -> Result<(), Cut> {
        // In place of the values that the agent would send.
        let arch = self.vm.arch;
        let hello = Hello {
            version: 0,
            release: String::new(),
            page_bytes: arch.page.0,
            block_bytes: Some(arch.block.0),
        };
        let (ledger, cpus) = (Ledger::closed(&hello, arch), Cpus::default());
        self.vm.event_log.record(Event::Stage(Stage::Lanes));
        let boot = async {
            let hello = self.vm.boot(heard).await;
            state.ready = hello.is_ok().then(|| self.vm.event_log.now());
            hello
        };
        tokio::try_join!(boot, self.lanes(&ledger, &cpus)).map(drop)
    }

    /// The last queries.
    async fn settle(self, state: &mut TrialState) -> Result<(), Cut> {
        let vm = self.vm;
        vm.event_log.record(Event::Stage(Stage::Settling));
        let questions = async {
            if let Some(trace) = self.trace {
                trace.end(&vm.agent, &mut state.traced).await.ok()?;
                trace.see_swapped(vm.swapped_kib(), &mut state.traced);
            }
            if let Some(callbacks) = self.callbacks {
                callbacks.end(&vm.agent, &mut state.callbacks).await.ok()?;
            }
            if let Ok(Answer::LoadEnded(mut ended)) = vm.agent.ask(Request::StopLoad).await {
                // The victims were started last.
                let loads = self.setup.context.scenario.guest.load.len();
                state.traced.victims = ended.split_off(ended.len().min(loads));
                state.load_loops = ended.iter().map(|end| end.loops).collect();
                let failed = |(load, end): (&Load, LoadEnd)| {
                    let (program, failures) = (load.program.as_ref()?, end.failures?);
                    Some(LoadFailure {
                        program: program.name.clone(),
                        number: failures.number,
                        last: harmless(&failures.last, QUOTED),
                        must_succeed: load.must_succeed,
                    })
                };
                state.load_failures =
                    self.setup.context.scenario.guest.load.iter().zip(ended).filter_map(failed).collect();
            }
            if let Some(count) = self.count {
                count.read(&vm.agent).await;
            }
            if !vm.drain(limits().questions).await {
                return None;
            }
            vm.kmsg.calm_for(limits().calm, limits().calm_at_most).await;
            if let Some(beginning) = &mut state.beginning {
                state.unrestored = unrestored(vm, beginning).await;
            }
            let lockdep = vm.agent.lockdep_stats().await.ok()?;
            state.armed.end = lockdep.as_ref().and_then(LockdepStats::armed);
            // If the guest was not queried at the start: lockdep never arms itself again, so if it
            // is armed now, it was armed then.
            state.armed.start = state.armed.start.or(state.armed.end);
            state.lockdep_stats = lockdep;
            state.lock_stat = vm.agent.lock_stat().await.ok()?;
            vm.drain(limits().questions).await.then_some(())
        };
        if !matches!(tokio::time::timeout(limits().questions, questions).await, Ok(Some(()))) {
            return Err(Cut::Hung("no answer to the last queries".into()));
        }
        vm.event_log.record(Event::Stage(Stage::Collected));
        Ok(())
    }
}

/// The values that the trial left changed. None if memory or CPUs are not as at the beginning, or if
/// it cannot be told. A further trial of the guest begins with the values as they are now.
async fn unrestored(vm: &Vm, beginning: &mut Beginning) -> Option<Vec<Unrestored>> {
    let was = beginning.standing.take()?;
    if rest::changed(&beginning.baseline, &vm.agent.snapshot().await.ok()?).is_some() {
        return None;
    }
    let now = beginning.standing.insert(StandingValues::read(&vm.agent).await.ok()?);
    was.unrestored(now)
}

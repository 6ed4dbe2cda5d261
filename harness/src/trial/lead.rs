//! What is done with a trial's machine: start, load, lanes, last questions.

use std::pin::pin;

use hotplug_protocol::{Answer, Hello, Request, Snapshot};
use tokio_util::sync::CancellationToken;

use super::accounting::Ledger;
use super::conclude::Course;
use super::coverage::Count;
use super::cpus::Cpus;
use super::holding::{self, Holds};
use super::lanes::{Lanes, Log};
use super::listening;
use super::setting::{Setting, TrialPlan};
use super::timing::{Trace, Watched};
use super::vm::{Cut, Vm};
use crate::event_log::{Happening, Listener, Stage};
use crate::gdb::GdbError;
use crate::guest::{AgentError, LockdepStats};
use crate::limits::limits;
use crate::scenario::{Schedule, Start};

/// Who leads a trial through its machine, and what it keeps of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lead<'a> {
    pub(super) vm: &'a Vm,
    pub(super) setting: &'a Setting,
    pub(super) plan: &'a TrialPlan,
    pub(super) schedule: &'a Schedule,
    pub(super) log: &'a Log,
    pub(super) holds: &'a Holds,
    /// Where lines are counted.
    pub(super) count: Option<&'a Count<'a>>,
    /// Where functions are timed.
    pub(super) trace: Option<&'a Trace<'a>>,
    /// Told when the first operation was accepted.
    pub(super) under_way: &'a CancellationToken,
}

impl Lead<'_> {
    /// Start, load, lanes, last questions. Sets `course.cut` when something ends it early. `heard` listens since before
    /// QEMU was started.
    pub(super) async fn lead(self, heard: Listener, course: &mut Course) {
        // `cut` and the work borrow the machine, and the work writes the course: so the cut is set after the race.
        let cut = self.vm.unless_cut(self.until_settled(heard, course)).await;
        self.under_way.cancel();
        let done = match cut {
            Ok(()) => self.vm.unless_cut(self.settle(course)).await,
            cut => cut,
        };
        course.cut = done.err();
    }

    /// All but the last questions.
    async fn until_settled(self, heard: Listener, course: &mut Course) -> Result<(), Cut> {
        let vm = self.vm;
        if self.setting.scenario.start == Start::Boot {
            return self.during_boot(heard, course).await;
        }
        let (hello, baseline, armed) = self.begin(heard).await?;
        course.ready = Some(vm.journal.now());
        course.armed.start = armed;
        if let Some(count) = self.count {
            // Restored or booted, it has counted its boot.
            count.read(&vm.agent).await;
        }
        if let Some(trace) = self.trace {
            let begun = trace.begin(&vm.agent).await;
            let broken = |error: AgentError| Cut::Broken(format!("the guest does not tell times: {error}"));
            course.traced = begun.map_err(broken)?;
        }
        let counted = async {
            match self.count {
                Some(count) => count.follow(&vm.agent, vm.journal.listen()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // In this order: it listens before the first operation begins.
            biased;
            failed = counted => failed.map(|never| match never {}).map_err(|e| Cut::Broken(e.to_string())),
            ended = self.under_load(&hello, baseline) => ended,
        }
    }

    /// The guest is restored or boots, and what it begins with is known.
    async fn begin(self, heard: Listener) -> Result<(Hello, Snapshot, Option<bool>), Cut> {
        let vm = self.vm;
        if let Some(checkpoints) = &self.setting.checkpoints {
            let checkpoint = checkpoints.of(self.plan.side);
            vm.restore().await?;
            // Not waited for: it comes before anything else that is asked. Else every restored guest would go on from the
            // same random numbers.
            vm.reseed(&blake3::hash(&self.plan.seed.0.to_le_bytes()).to_hex());
            return Ok((
                checkpoint.hello().clone(),
                checkpoint.baseline().clone(),
                checkpoint.lockdep_armed(),
            ));
        }
        let hello = vm.boot(heard).await?;
        let questions = async {
            vm.kmsg.calm_for(limits().calm, limits().calm_at_most).await;
            Ok::<_, AgentError>((vm.agent.snapshot().await?, vm.agent.lockdep_stats().await?))
        };
        match tokio::time::timeout(limits().questions, questions).await {
            Ok(Ok((baseline, stats))) => Ok((hello, baseline, stats.and_then(|stats| stats.armed()))),
            _ => Err(Cut::Hung("no answer to the first question".into())),
        }
    }

    /// The lanes of a guest that is there to be asked, under load.
    async fn under_load(self, hello: &Hello, baseline: Snapshot) -> Result<(), Cut> {
        let Self { vm, setting, schedule, .. } = self;
        let scenario = &setting.scenario;
        let cpus = Cpus::of_boot(&baseline.cpus_online);
        let spare = (!schedule.holding.is_empty())
            .then(|| listening::spare(schedule, &baseline.cpus_online))
            .flatten();
        let listens = setting.checkpoints.as_ref().and_then(|_| listening::in_checkpoints_of(scenario));
        if let Some(cpu) = spare.filter(|_| spare != listens) {
            // Before the load, whose threads are not to listen.
            listening::on(vm, cpu, limits().questions).await?;
        }
        let ledger = Ledger::new(baseline, hello, scenario.guest.memory_online);
        let mut loads = scenario.guest.load.clone();
        loads.extend(setting.watched.iter().flat_map(Watched::loads));
        if !loads.is_empty() {
            let start = vm.agent.ask(Request::StartLoad { loads });
            match tokio::time::timeout(limits().questions, start).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(Cut::Broken(format!("the load does not start: {error}"))),
                Err(_) => return Err(Cut::Hung("the load does not start".into())),
            }
        }
        vm.journal.record(Happening::Stage(Stage::Lanes));
        let mut heard = vm.journal.listen();
        let accepted = async {
            let first = |what: &Happening| matches!(what, Happening::OperationReached { .. }).then_some(());
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
        let lanes = Lanes::new(self.vm, &self.setting.scenario, ledger, cpus, self.log);
        lanes.run(self.schedule).await.map_err(|error| Cut::Hung(error.to_string()))
    }

    /// Lets `lanes` run while tasks and vCPUs are held as the schedule says. Once the lanes have ended nobody is held.
    async fn while_held(self, lanes: impl Future<Output = Result<(), Cut>>) -> Result<(), Cut> {
        let Self { vm, schedule, .. } = self;
        let places = self.setting.places.as_ref().map(|places| &**places.of(self.plan.side));
        let Some(places) = places.filter(|_| !schedule.holding.is_empty()) else { return lanes.await };
        let broken = |error: GdbError| Cut::Broken(error.to_string());
        let gdb = vm.gdb().await.map_err(broken)?;
        let over = CancellationToken::new();
        // Boxed: most trials hold nobody, and all would carry it.
        let mut held =
            Box::pin(holding::hold(gdb, &vm.qmp, places, &schedule.holding, &vm.journal, self.holds, &over));
        let mut lanes = pin!(lanes);
        tokio::select! {
            // Without it a guest may stand for ever.
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

    /// The lanes of a guest that boots meanwhile. Nobody knows what it would have had without them, so nothing is accounted.
    async fn during_boot(self, heard: Listener, course: &mut Course) -> Result<(), Cut> {
        // Of x86: what the agent would say if it were there.
        let hello =
            Hello { version: 0, release: String::new(), page_bytes: 4096, block_bytes: Some(128 << 20) };
        let (ledger, cpus) = (Ledger::closed(&hello), Cpus::default());
        self.vm.journal.record(Happening::Stage(Stage::Lanes));
        let boot = async {
            let hello = self.vm.boot(heard).await;
            course.ready = hello.is_ok().then(|| self.vm.journal.now());
            hello
        };
        tokio::try_join!(boot, self.lanes(&ledger, &cpus)).map(drop)
    }

    /// The last questions.
    async fn settle(self, course: &mut Course) -> Result<(), Cut> {
        let vm = self.vm;
        vm.journal.record(Happening::Stage(Stage::Settling));
        let questions = async {
            if let Some(trace) = self.trace {
                trace.end(&vm.agent, &mut course.traced).await.ok()?;
                trace.see_swapped(vm.swapped_kib(), &mut course.traced);
            }
            if let Ok(Answer::LoadEnded(mut ended)) = vm.agent.ask(Request::StopLoad).await {
                // Victims were started last.
                let loads = self.setting.scenario.guest.load.len();
                course.traced.victims = ended.split_off(ended.len().min(loads));
                course.load_loops = ended.iter().map(|end| end.loops).collect();
            }
            if let Some(count) = self.count {
                count.read(&vm.agent).await;
            }
            if !vm.drain(limits().questions).await {
                return None;
            }
            vm.kmsg.calm_for(limits().calm, limits().calm_at_most).await;
            let stats = vm.agent.lockdep_stats().await.ok()?;
            course.armed.end = stats.as_ref().and_then(LockdepStats::armed);
            // Of a guest that was never asked before: what is armed now always was.
            course.armed.start = course.armed.start.or(course.armed.end);
            course.lockdep_stats = stats;
            course.lock_stat = vm.agent.lock_stat().await.ok()?;
            vm.drain(limits().questions).await.then_some(())
        };
        if !matches!(tokio::time::timeout(limits().questions, questions).await, Ok(Some(()))) {
            return Err(Cut::Hung("no answer to the last questions".into()));
        }
        vm.journal.record(Happening::Stage(Stage::Collected));
        Ok(())
    }
}

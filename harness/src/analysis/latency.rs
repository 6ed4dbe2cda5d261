//! The part of a comparison that asks what takes longer or shorter: both kernels once more, built to be timed, and boots of
//! theirs, each with a few trials whose calls are traced.

use std::ops::ControlFlow;
use std::path::PathBuf;

use hotplug_side::{Side, Sides};

use super::Prepared;
use crate::compare::{Judgement, Tally};
use crate::environment::{Env, HostEnv};
use crate::error::ErrorKind;
use crate::events::Event;
use crate::files::read_json_if_there;
use crate::host::Accelerator;
use crate::kernel::Config;
use crate::latency::{self, Latency, Timed, TrialTimes, enough_boots};
use crate::scenario::{Clock, Metric, Scenario, Seed, Teller, Timing};
use crate::trial::checkpoint::{self, Boot, Checkpoint, Checkpoints};
use crate::trial::{
    self, Happened, Ran, Setting, Told, TrialOutcome, TrialPlan, TrialRecord, Watched, run_all,
};
use crate::{Error, Result};

/// Boots of each kernel where the wall clock times them: on a busy machine they scatter by a tenth and more.
const WALL_BOOTS: u32 = 20;

/// With the exact clock, all CPUs of the guest in one thread, what this scenario does can be done.
pub(crate) fn fits_exactly(scenario: &Scenario) -> Result<()> {
    let Some(timing) = &scenario.latency else {
        return Err(Error::user(format!("scenario {} does not say what is timed", scenario.name))
            .help("give it a [latency] table, or take scenarios/latency.toml"));
    };
    if let Some(part) = timing.phases.iter().find(|part| part.first.teller() == Teller::Host) {
        return Err(Error::user(format!(
            "scenario {} times `{part}` by the host's clock, which says nothing of a guest that counts instructions",
            scenario.name
        ))
        .help("take marks of the guest's clock, such as `plug dimm: driver..online`, or no --exact"));
    }
    // QEMU 10.0, accel/tcg/tcg-accel-ops-rr.c: all vCPUs share one thread, and removing one waits for its end.
    if scenario.removes_cpus() {
        return Err(Error::user(format!(
            "scenario {} unplugs CPUs, at which QEMU aborts when it counts instructions",
            scenario.name
        ))
        .help("take one that does not, such as scenarios/latency.toml, or no --exact"));
    }
    Ok(())
}

/// Under this accelerator, too.
pub(crate) fn counts_instructions(accelerator: Accelerator) -> Result<()> {
    if accelerator == Accelerator::Tcg {
        return Ok(());
    }
    Err(Error::user(format!("instructions cannot be counted under {accelerator}"))
        .help("--accel tcg, or no --exact"))
}

/// Asks. An error is an interruption, or our own disk's.
pub(crate) async fn latency(
    prepared: &Prepared,
    timing: &Timing,
    judgement: &Judgement,
    env: &Env<'_>,
) -> Result<Latency> {
    let clock = prepared.run.plan.clock;
    let not = |why: String| Ok(Latency { clock, ..Latency::none(why) });
    if !prepared.analyses.latency_despite_reports
        && let Some(why) = unclean(judgement)
    {
        return not(format!("{why} (--latency-despite-reports)"));
    }
    // A run may go on elsewhere; its result says where it began.
    let here = &HostEnv::detect().await?.host;
    let began = &prepared.run.host;
    if (&began.cpu, began.cores, &began.kernel) != (&here.cpu, here.cores, &here.kernel) {
        return not(format!("the run began on another machine, {}", began.machine()));
    }
    match Box::pin(time(prepared, timing, env)).await {
        Ok(latency) => Ok(latency),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => not(error.to_string()),
    }
}

/// Where the scenario names nothing that is timed.
pub(crate) fn unnamed(prepared: &Prepared, judgement: &Judgement) -> Latency {
    let name = &prepared.setting.scenario.name;
    let nothing = || format!("scenario {name} names nothing to time; scenarios/latency.toml does");
    Latency { clock: prepared.run.plan.clock, ..Latency::none(unclean(judgement).unwrap_or_else(nothing)) }
}

/// Why the latency of a kernel that misbehaves is not judged: printing is latency, and what has gone wrong is not done.
fn unclean(judgement: &Judgement) -> Option<String> {
    Side::BOTH.into_iter().find_map(|side| {
        let Tally { trials, clean, .. } = judgement.tally.of(side);
        (clean < trials).then(|| format!("{} of {trials} {side} trials were not clean", trials - clean))
    })
}

/// The boots of one kind of kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Of kernels that trace calls, while victims time their loops.
    Calls,
    /// Of kernels that count how long locks are held.
    Locks,
}

impl Round {
    /// Those that the metrics need.
    fn needed(timing: &Timing) -> Vec<Self> {
        let is_lock = |metric: &Metric<'_>| matches!(metric, Metric::Held(_) | Metric::Waited(_));
        let metrics = timing.metrics();
        let calls = metrics.iter().any(|metric| !is_lock(metric)).then_some(Self::Calls);
        let locks = metrics.iter().any(is_lock).then_some(Self::Locks);
        calls.into_iter().chain(locks).collect()
    }

    /// Where its boots are kept, below the run.
    fn folder(self) -> &'static str {
        match self {
            Self::Calls => "latency",
            Self::Locks => "lock-times",
        }
    }

    fn config(self, config: Config) -> Config {
        match self {
            Self::Calls => config.timed(),
            Self::Locks => config.counting_locks(),
        }
    }

    /// What the kernels are built for, in words.
    fn built_for(self) -> &'static str {
        match self {
            Self::Calls => "built to be timed",
            Self::Locks => "built to count how long locks are held",
        }
    }

    fn watched(self, timing: &Timing, clock: Clock) -> Watched {
        let told = match self {
            Self::Calls => Told::Calls(timing.traced()),
            Self::Locks => Told::Locks,
        };
        Watched { told, victims: timing.victims.clone(), clock }
    }
}

async fn time(prepared: &Prepared, timing: &Timing, env: &Env<'_>) -> Result<Latency> {
    let clock = prepared.run.plan.clock;
    let metrics = timing.metrics().len();
    let boots = prepared.run.plan.boots.or(timing.boots).unwrap_or_else(|| match clock {
        Clock::Exact => enough_boots(metrics),
        Clock::Wall => WALL_BOOTS.max(enough_boots(metrics)),
    });
    let mut samples = Samples::new(clock, prepared.analyses.latency_despite_reports);
    for round in Round::needed(timing) {
        Box::pin(time_round(round, boots, prepared, timing, &mut samples, env)).await?;
    }
    Ok(samples.judge(timing))
}

async fn time_round(
    round: Round,
    boots: u32,
    prepared: &Prepared,
    timing: &Timing,
    samples: &mut Samples,
    env: &Env<'_>,
) -> Result<()> {
    let clock = prepared.run.plan.clock;
    let config = |config| round.config(config);
    let built = prepared.built_again("latency", round.built_for(), config, env).await?;
    let kernels = built.as_ref().unwrap_or(&prepared.kernels);
    let is_one_image = kernels.before.image_hash == kernels.after.image_hash;
    let mut setting = prepared.further(kernels).await?;
    setting.watched = Some(round.watched(timing, clock));
    setting.go_by(clock, kernels.before.hz());
    let workers = match clock {
        // What else the machine does takes no instructions of the guest.
        Clock::Exact => prepared.run.plan.workers,
        Clock::Wall => 1,
    };
    let place = prepared.folder.path().join(round.folder());
    let boots: Vec<TimedBoot> =
        (1..=boots).map(|number| TimedBoot { number, folder: place.join(number.to_string()) }).collect();
    // A run that goes on has some of them already.
    let left: Vec<Vec<TrialPlan>> =
        boots.iter().map(|boot| boot.left(timing.trials, prepared.run.seed)).collect();
    let count = |trials: usize| u64::try_from(trials).unwrap_or(u64::MAX);
    let all = count(boots.len()) * u64::from(timing.trials) * 2;
    let done = all - count(left.iter().map(Vec::len).sum());
    env.events.event(&Event::TrialsBegin { all: Some(all), done });
    let mut has_samples: Sides<u32> = Sides::default();
    for (boot, plans) in boots.iter().zip(left) {
        if !plans.is_empty() {
            setting.checkpoints = Some(boot.checkpoints(&setting, is_one_image, env).await?);
            let tell = |happened: Happened| {
                env.events.event(&Event::FurtherTrial(&happened));
                ControlFlow::Continue(())
            };
            fs_err::create_dir_all(boot.trials())?;
            let Ran { stopped, .. } =
                run_all(&setting, plans.into_iter(), workers, &boot.trials(), env.cancel, &tell).await;
            stopped.map_or(Ok(()), Err::<(), Error>)?;
        }
        let has = samples.read(boot, timing)?;
        for side in Side::BOTH {
            *has_samples.of_mut(side) += u32::from(*has.of(side));
        }
    }
    env.events.event(&Event::TrialsEnd);
    // Where there are two rounds, the boots of either: each metric has those of one.
    for side in Side::BOTH {
        let boots = samples.latency.boots.of_mut(side);
        *boots = (*boots).max(*has_samples.of(side));
    }
    Ok(())
}

/// One boot of each kernel, and its trials.
struct TimedBoot {
    number: u32,
    folder: PathBuf,
}

impl TimedBoot {
    fn trials(&self) -> PathBuf {
        self.folder.join("trials")
    }

    /// Its trials that are not there yet. Whichever side goes first in one boot goes second in the next.
    fn left(&self, trials: u32, seed: Seed) -> Vec<TrialPlan> {
        let turn = (self.number - 1) % 2;
        let numbered = |plan: TrialPlan| TrialPlan { number: plan.number - turn, ..plan };
        let all = trial::plan(turn..turn + trials, seed).map(numbered);
        all.filter(|plan| !self.trials().join(plan.folder()).join("trial.json").exists()).collect()
    }

    /// This boot of both kernels. Of one image for both sides, a boot of its own for each: else they would be alike in what
    /// boots differ in.
    async fn checkpoints(
        &self,
        setting: &Setting,
        is_one_image: bool,
        env: &Env<'_>,
    ) -> Result<Sides<Checkpoint>> {
        let evidence = self.folder.join("checkpoints");
        let prepare = async |number: u32| match Box::pin(checkpoint::prepare(
            setting,
            env.cache,
            Boot(number),
            &evidence,
            env.cancel,
        ))
        .await?
        {
            Checkpoints::Ready(checkpoints) => Ok(*checkpoints),
            Checkpoints::None(why) => Err(Error::infrastructure(why)),
        };
        if !is_one_image {
            return prepare(self.number).await;
        }
        let before = prepare(2 * self.number - 1).await?.before;
        Ok(Sides { before, after: prepare(2 * self.number).await?.after })
    }
}

/// What the trials so far have given.
#[derive(Debug)]
struct Samples {
    timed: Timed,
    /// All but its metrics.
    latency: Latency,
}

impl Samples {
    fn new(clock: Clock, despite_reports: bool) -> Self {
        Self { timed: Timed::default(), latency: Latency { clock, despite_reports, ..Latency::default() } }
    }

    /// Takes in a boot's trials; of which sides it has any.
    fn read(&mut self, boot: &TimedBoot, timing: &Timing) -> Result<Sides<bool>> {
        let mut has_samples: Sides<bool> = Sides::default();
        for entry in fs_err::read_dir(boot.trials())? {
            let folder = entry?.path();
            let Some(record) = read_json_if_there::<TrialRecord>(&folder.join("trial.json"))? else {
                continue;
            };
            if record.is_spoilt() {
                continue;
            }
            let side = record.side;
            let times: Option<TrialTimes> = read_json_if_there(&folder.join(latency::FILE))?;
            match self.usable(&record, times) {
                Ok(times) => {
                    *self.latency.trials.of_mut(side) += 1;
                    *has_samples.of_mut(side) = true;
                    self.timed.add_trial(boot.number, &times, timing);
                }
                Err(why) => {
                    *self.latency.left_out.of_mut(side) += 1;
                    self.latency.left_out_why.get_or_insert(format!("{side}: {why}"));
                }
            }
        }
        Ok(has_samples)
    }

    /// The times of a trial that says something about how long things take, or why it does not.
    fn usable(
        &self,
        record: &TrialRecord,
        times: Option<TrialTimes>,
    ) -> std::result::Result<TrialTimes, String> {
        let reported = record.outcome == TrialOutcome::Reported && self.latency.despite_reports;
        if record.outcome != TrialOutcome::Clean && !reported {
            return Err(format!("{}: {}", record.folder, record.why));
        }
        let times = times.ok_or_else(|| format!("{} tells no times", record.folder))?;
        match &times.odd {
            Some(odd) => Err(format!("{}: {odd}", record.folder)),
            None => Ok(times),
        }
    }

    fn judge(self, timing: &Timing) -> Latency {
        let metrics = self.timed.judge(timing, self.latency.clock);
        Latency { metrics, phases: self.timed.phases(), victims: self.timed.victims(timing), ..self.latency }
    }
}

//! The part of a comparison that asks what takes longer or shorter: both kernels once more, built to be timed, and boots of
//! theirs, each with a few trials whose calls are traced.

use std::ops::ControlFlow;
use std::path::PathBuf;

use hotplug_side::{Side, Sides};
use tokio_util::sync::CancellationToken;

use super::ground;
use super::ready::Ready;
use crate::compare::{Judgement, Tally};
use crate::error::ErrorKind;
use crate::files::read_json_if_there;
use crate::host::Accelerator;
use crate::kernel::{Cache, Config};
use crate::latency::{self, Latency, Timed, TrialTimes, enough_boots};
use crate::present::Progress;
use crate::scenario::{Clock, Metric, Scenario, Seed, Teller, Timing};
use crate::trial::checkpoint::{self, Boot, Checkpoint, Checkpoints};
use crate::trial::{
    self, Happened, Ran, Setting, Told, TrialOutcome, TrialPlan, TrialRecord, Watched, run_all,
};
use crate::{Error, Result};

/// Boots of each kernel where the wall clock times them: on a busy machine they scatter by a tenth and more.
const WALL_BOOTS: u32 = 20;

/// With the exact clock, all CPUs of the guest in one thread, what this scenario does can be done.
pub(super) fn fits_exactly(scenario: &Scenario) -> Result<()> {
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
pub(super) fn counts_instructions(accelerator: Accelerator) -> Result<()> {
    if accelerator == Accelerator::Tcg {
        return Ok(());
    }
    Err(Error::user(format!("instructions cannot be counted under {accelerator}"))
        .help("--accel tcg, or no --exact"))
}

/// Asks. An error is an interruption, or our own disk's.
pub(super) async fn latency(
    ready: &Ready,
    timing: &Timing,
    judgement: &Judgement,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<Latency> {
    let clock = ready.run.plan.clock;
    let not = |why: String| Ok(Latency { clock, ..Latency::none(why) });
    if !ready.asked.despite_reports
        && let Some(why) = unclean(judgement)
    {
        return not(format!("{why} (--latency-despite-reports)"));
    }
    // A run may go on elsewhere; its result says where it began.
    let here = ground::machine().await?.host;
    let began = &ready.run.host;
    if (&began.cpu, began.cores, &began.kernel) != (&here.cpu, here.cores, &here.kernel) {
        return not(format!("the run began on another machine, {}", began.machine()));
    }
    match Box::pin(time(ready, timing, cache, cancel)).await {
        Ok(latency) => Ok(latency),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => not(error.to_string()),
    }
}

/// Where the scenario names nothing that is timed.
pub(super) fn unnamed(ready: &Ready, judgement: &Judgement) -> Latency {
    let name = &ready.setting.scenario.name;
    let nothing = || format!("scenario {name} names nothing to time; scenarios/latency.toml does");
    Latency { clock: ready.run.plan.clock, ..Latency::none(unclean(judgement).unwrap_or_else(nothing)) }
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

async fn time(ready: &Ready, timing: &Timing, cache: &Cache, cancel: &CancellationToken) -> Result<Latency> {
    let clock = ready.run.plan.clock;
    let metrics = timing.metrics().len();
    let boots = ready.run.plan.boots.or(timing.boots).unwrap_or_else(|| match clock {
        Clock::Exact => enough_boots(metrics),
        Clock::Wall => WALL_BOOTS.max(enough_boots(metrics)),
    });
    let mut samples = Samples::new(clock, ready.asked.despite_reports);
    for round in Round::needed(timing) {
        Box::pin(time_round(round, boots, ready, timing, &mut samples, cache, cancel)).await?;
    }
    Ok(samples.judge(timing))
}

async fn time_round(
    round: Round,
    boots: u32,
    ready: &Ready,
    timing: &Timing,
    samples: &mut Samples,
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<()> {
    let clock = ready.run.plan.clock;
    let config = |config| round.config(config);
    let built = ready.built_again("latency", round.built_for(), config, cache, cancel).await?;
    let kernels = built.as_ref().unwrap_or(&ready.kernels);
    let is_one_image = kernels.before.image_hash == kernels.after.image_hash;
    let scenario = ground::kept_scenario(ready.folder.path(), &ready.run)?.0.unheld();
    let initramfs = crate::image::initramfs()?;
    let machine = ground::machine().await?;
    let mut setting =
        machine.setting(scenario, ready.setting.accelerator, kernels, &ready.run, &initramfs, None).await?;
    setting.watched = Some(round.watched(timing, clock));
    setting.go_by(clock, kernels.before.hz());
    let workers = match clock {
        // What else the machine does takes no instructions of the guest.
        Clock::Exact => ready.run.plan.workers,
        Clock::Wall => 1,
    };
    let place = ready.folder.path().join(round.folder());
    let boots: Vec<TimedBoot> =
        (1..=boots).map(|number| TimedBoot { number, folder: place.join(number.to_string()) }).collect();
    // A run that goes on has some of them already.
    let left: Vec<Vec<TrialPlan>> =
        boots.iter().map(|boot| boot.left(timing.trials, ready.run.seed)).collect();
    let count = |trials: usize| u64::try_from(trials).unwrap_or(u64::MAX);
    let all = count(boots.len()) * u64::from(timing.trials) * 2;
    let progress = Progress::of_trials(Some(all), all - count(left.iter().map(Vec::len).sum()));
    let mut has_samples: Sides<u32> = Sides::default();
    for (boot, plans) in boots.iter().zip(left) {
        if !plans.is_empty() {
            setting.checkpoints = Some(boot.checkpoints(&setting, is_one_image, cache, cancel).await?);
            let tell = |happened: Happened| {
                progress.tell(&happened);
                ControlFlow::Continue(())
            };
            fs_err::create_dir_all(boot.trials())?;
            let Ran { stopped, .. } =
                run_all(&setting, plans.into_iter(), workers, &boot.trials(), cancel, &tell).await;
            stopped.map_or(Ok(()), Err::<(), Error>)?;
        }
        let has = samples.read(boot, timing)?;
        for side in Side::BOTH {
            *has_samples.of_mut(side) += u32::from(*has.of(side));
        }
    }
    progress.finish();
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
        cache: &Cache,
        cancel: &CancellationToken,
    ) -> Result<Sides<Checkpoint>> {
        let evidence = self.folder.join("checkpoints");
        let prepare = async |number: u32| match Box::pin(checkpoint::prepare(
            setting,
            cache,
            Boot(number),
            &evidence,
            cancel,
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

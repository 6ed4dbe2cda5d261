//! The latency analysis: what becomes slower or faster. Both kernels are built again, to be timed,
//! and boot as often as the clock needs. Each boot has a few trials whose calls are traced.

mod diff;
mod page;
mod section;
mod stalls;

pub use diff::{diff, of_run};
pub use section::{full, row};

use std::path::PathBuf;

use hotplug_side::{Side, Sides};

use super::{Analysis, Kernels, Prepared};
use crate::compare::{Judgement, Tally};
use crate::conclusion::Conclusions;
use crate::environment::{Env, HostEnv};
use crate::files::read_json_if_there;
use crate::host::Accelerator;
use crate::kernel::Config;
use crate::latency::{self, Latency, Timed, TrialTimes, enough_boots};
use crate::scenario::{Clock, ClockSource, Metric, Scenario, Seed, Timing};
use crate::trial::checkpoint::{self, Boot, Checkpoint};
use crate::trial::{
    self, Instruments, TimingSource, TrialContext, TrialOutcome, TrialPlan, TrialRecord, TrialSetup,
    TrialStart, Watched,
};
use crate::unavailable::Unavailable;
use crate::{Error, Result};

/// Boots of each kernel if the wall clock times them. On a busy machine the boots vary by a tenth
/// and more.
const WALL_BOOTS: u32 = 20;

/// Checks that the scenario can run with the exact clock, which runs all CPUs of the guest in one
/// thread.
pub(crate) fn fits_exactly(scenario: &Scenario) -> Result<()> {
    let Some(timing) = &scenario.latency else {
        return Err(Error::user(format!("scenario {} does not define what to time", scenario.name))
            .help("give it a [latency] table, or use scenarios/latency.toml"));
    };
    if let Some(part) = timing.phases.iter().find(|part| part.first.teller() == ClockSource::Host) {
        return Err(Error::user(format!(
            "scenario {} times `{part}` by the host's clock, which cannot be compared with a count of the guest's instructions",
            scenario.name
        ))
        .help("use marks of the guest's clock, such as `plug dimm: driver..online`, or omit --exact"));
    }
    // QEMU 10.0, accel/tcg/tcg-accel-ops-rr.c: all vCPUs share one thread, and removing one waits
    // for the end of that thread.
    if scenario.removes_cpus() {
        return Err(Error::user(format!(
            "scenario {} unplugs CPUs, and QEMU aborts on that when it counts instructions",
            scenario.name
        ))
        .help("use one that does not, such as scenarios/latency.toml, or omit --exact"));
    }
    Ok(())
}

/// Checks that instructions can be counted under this accelerator.
pub(crate) fn counts_instructions(accelerator: Accelerator) -> Result<()> {
    if accelerator == Accelerator::Tcg {
        return Ok(());
    }
    Err(Error::user(format!("instructions cannot be counted under {accelerator}"))
        .help("use --accel tcg, or omit --exact"))
}

pub(crate) struct LatencyAnalysis;

impl Analysis for LatencyAnalysis {
    type Conclusion = Latency;

    const NAME: &'static str = "latency";

    fn kernels(prepared: &Prepared) -> Vec<Kernels> {
        let timing = prepared.context().scenario.latency.iter();
        timing.flat_map(Round::needed).map(Round::kernels).collect()
    }

    async fn conclude(
        prepared: &Prepared,
        judgement: &mut Judgement,
        _: &Conclusions,
        env: &Env<'_>,
    ) -> Result<Option<Latency>> {
        let not = |why: String| Ok(Self::unavailable(prepared, Unavailable::because(why)));
        let unclean = unclean(judgement);
        let Some(timing) = &prepared.context().scenario.latency else {
            let name = &prepared.context().scenario.name;
            let nothing = || format!("scenario {name} names nothing to time; scenarios/latency.toml does");
            return not(unclean.unwrap_or_else(nothing));
        };
        if !prepared.analyses.latency_despite_reports
            && let Some(why) = unclean
        {
            return not(format!("{why} (--latency-despite-reports)"));
        }
        // A run may be continued on another machine. Its result names the machine where it began.
        let here = &HostEnv::detect(prepared.kernels.before.arch).await?.host;
        let began = &prepared.run.host;
        if (&began.cpu, began.cores, &began.kernel) != (&here.cpu, here.cores, &here.kernel) {
            return not(format!("the run began on another machine, {}", began.machine()));
        }
        time(prepared, timing, env).await.map(Some)
    }

    fn unavailable(prepared: &Prepared, why: Unavailable) -> Option<Latency> {
        Some(Latency { clock: prepared.run.plan.clock, ..Latency::none(why) })
    }
}

/// The reason why the latency of a kernel with reports is not judged. Printing adds latency, and
/// failed operations do less work.
fn unclean(judgement: &Judgement) -> Option<String> {
    Side::BOTH.into_iter().find_map(|side| {
        let Tally { trials, clean, .. } = judgement.tally.of(side);
        (clean < trials).then(|| format!("{} of {trials} {side} trials were not clean", trials - clean))
    })
}

/// The boots of one kind of kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Boots of kernels that trace calls, while the victims time their loops.
    Calls,
    /// Boots of kernels that count how long locks are held.
    Locks,
}

impl Round {
    /// The rounds that the metrics need.
    fn needed(timing: &Timing) -> Vec<Self> {
        let is_lock = |metric: &Metric<'_>| matches!(metric, Metric::Held(_) | Metric::Waited(_));
        let metrics = timing.metrics();
        let calls = metrics.iter().any(|metric| !is_lock(metric)).then_some(Self::Calls);
        let locks = metrics.iter().any(is_lock).then_some(Self::Locks);
        calls.into_iter().chain(locks).collect()
    }

    /// The folder of its boots, below the run's folder.
    fn folder(self) -> &'static str {
        match self {
            Self::Calls => "latency",
            Self::Locks => "lock-times",
        }
    }

    fn kernels(self) -> Kernels {
        match self {
            Self::Calls => Kernels::Configured("to be timed", Config::timed),
            Self::Locks => Kernels::Configured("to count how long locks are held", Config::counting_locks),
        }
    }

    fn watched(self, timing: &Timing, clock: Clock) -> Watched {
        let told = match self {
            Self::Calls => TimingSource::Calls(timing.traced()),
            Self::Locks => TimingSource::Locks,
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
    let kernels = prepared.kernels_for(round.kernels(), "latency", env).await?;
    let is_one_image = kernels.before.image_hash == kernels.after.image_hash;
    let context = prepared.further_context(&kernels).await?.with_clock(clock, kernels.before.hz());
    let instruments = Instruments { watched: Some(round.watched(timing, clock)), ..Instruments::default() };
    let workers = match clock {
        // Other work of the machine does not add instructions to the guest.
        Clock::Exact => prepared.run.plan.workers,
        Clock::Wall => 1,
    };
    let place = prepared.folder.path().join(round.folder());
    let boots: Vec<TimedBoot> =
        (1..=boots).map(|number| TimedBoot { number, folder: place.join(number.to_string()) }).collect();
    // A continued run has some of them already.
    let left: Vec<Vec<TrialPlan>> =
        boots.iter().map(|boot| boot.left(timing.trials, prepared.run.seed)).collect();
    let count = |trials: usize| u64::try_from(trials).unwrap_or(u64::MAX);
    let all = count(boots.len()) * u64::from(timing.trials) * 2;
    env.trials_begin(all, left.iter().map(Vec::len).sum());
    let mut has_samples: Sides<u32> = Sides::default();
    for (boot, plans) in boots.iter().zip(left) {
        if !plans.is_empty() {
            let start = TrialStart::Restored(Box::new(boot.checkpoints(&context, is_one_image, env).await?));
            fs_err::create_dir_all(boot.trials())?;
            let setup = TrialSetup { context: &context, start: &start, instruments: &instruments, rounds: 1 };
            prepared.run_further(&[setup], plans, workers, &boot.trials(), env).await?;
        }
        let has = samples.read(boot, timing)?;
        for side in Side::BOTH {
            *has_samples.of_mut(side) += u32::from(*has.of(side));
        }
    }
    env.trials_end();
    // With two rounds, the larger number of boots: each metric is measured in one round.
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

    /// The trials of this boot that are still to run. The side that goes first in one boot goes
    /// second in the next.
    fn left(&self, trials: u32, seed: Seed) -> Vec<TrialPlan> {
        let turn = (self.number - 1) % 2;
        let numbered = |plan: TrialPlan| TrialPlan { number: plan.number - turn, ..plan };
        let all = trial::plan(turn..turn + trials, seed).map(numbered);
        all.filter(|plan| !self.trials().join(plan.folder()).join("trial.json").exists()).collect()
    }

    /// This boot of both kernels. If both sides are one image, each gets a boot of its own;
    /// otherwise they would share what differs between boots.
    async fn checkpoints(
        &self,
        context: &TrialContext,
        is_one_image: bool,
        env: &Env<'_>,
    ) -> Result<Sides<Checkpoint>> {
        let evidence = self.folder.join("checkpoints");
        let prepare = async |number: u32| {
            let both = checkpoint::prepare(context, env.cache, Boot(number), &evidence, env.cancel);
            Box::pin(both).await?.map(|both| *both).map_err(Error::infrastructure)
        };
        if !is_one_image {
            return prepare(self.number).await;
        }
        let before = prepare(2 * self.number - 1).await?.before;
        Ok(Sides { before, after: prepare(2 * self.number).await?.after })
    }
}

/// The samples of the trials so far.
#[derive(Debug)]
struct Samples {
    timed: Timed,
    /// The result without its metrics.
    latency: Latency,
}

impl Samples {
    fn new(clock: Clock, despite_reports: bool) -> Self {
        Self { timed: Timed::default(), latency: Latency { clock, despite_reports, ..Latency::default() } }
    }

    /// Adds the trials of a boot. Returns which sides have any.
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

    /// The times of a trial that can be used, or why it cannot.
    fn usable(
        &self,
        record: &TrialRecord,
        times: Option<TrialTimes>,
    ) -> std::result::Result<TrialTimes, String> {
        let reported = record.outcome == TrialOutcome::Reported && self.latency.despite_reports;
        if record.outcome != TrialOutcome::Clean && !reported {
            return Err(format!("{}: {}", record.folder, record.why));
        }
        let times = times.ok_or_else(|| format!("{} has no times", record.folder))?;
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

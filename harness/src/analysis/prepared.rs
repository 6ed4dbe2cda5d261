//! A comparison whose kernels, machine, scenario and folder are ready.

use std::ops::ControlFlow;
use std::path::Path;

use hotplug_side::Sides;

use super::Kernels;
use crate::compare::Judge;
use crate::environment::{self, Env, HostEnv};
use crate::events::{Builds, RunEvent};
use crate::kernel::{Kernel, PairRequest, build_counted, still_asks_for};
use crate::record::{Run, RunFolder, StartMethod};
use crate::spec::AnalysesSpec;
use crate::trial::checkpoint;
use crate::trial::{
    Happened, PriorTrials, ScenarioOfTrial, TrialContext, TrialPlan, TrialSetup, TrialStart, run_all,
};
use crate::{Error, Result};

/// A comparison that is ready to begin or to be continued.
#[derive(Debug)]
pub struct Prepared {
    /// The run's folder.
    pub folder: RunFolder,
    /// The content of `run.json`.
    pub run: Run,
    /// The scenarios that have trials. There is at least one.
    pub(crate) parts: Vec<ScenarioPart>,
    /// The two kernels, held so that no `prune` removes them.
    pub(crate) kernels: Sides<Kernel>,
    /// Whether the run is continued.
    pub(crate) resumed: bool,
    /// The analyses beside the judged trials.
    pub(crate) analyses: AnalysesSpec,
    /// Judges the trials as they end.
    pub(crate) judge: Judge,
    /// Seconds that the trials of an earlier process took.
    pub(crate) earlier: f64,
}

/// One scenario of a comparison.
#[derive(Debug)]
pub(crate) struct ScenarioPart {
    /// The context that its trials share.
    pub(crate) context: TrialContext,
    /// Its place among the parts, and the beginning of the names of its trials.
    pub(crate) of_trial: ScenarioOfTrial,
    /// The trials that an earlier process ran; empty for a new run.
    pub(crate) past: PriorTrials,
}

impl Prepared {
    /// The context of the first scenario, in which the analyses run trials of their own.
    pub(crate) fn context(&self) -> &TrialContext {
        &self.parts[0].context
    }

    /// Whether both kernels were built here, and can be built with another configuration.
    pub(crate) fn are_built(&self) -> bool {
        self.kernels.before.is_built() && self.kernels.after.is_built()
    }

    /// The kernels that an analysis needs, built unless they are in the cache. Kernels that were
    /// given as images are used unchanged where another configuration is needed.
    pub(crate) async fn kernels_for(
        &self,
        needed: Kernels,
        label: &str,
        env: &Env<'_>,
    ) -> Result<Sides<Kernel>> {
        let pair = match needed {
            Kernels::Judged => return Ok(self.kernels.clone()),
            Kernels::Configured(..) if !self.are_built() => {
                env.note(label, "uses the given kernels unchanged");
                return Ok(self.kernels.clone());
            }
            Kernels::Configured(words, config) => {
                let mut request = self.kernels_again(env).await?;
                request.config = config(request.config);
                env.note(label, &format!("builds both kernels again, {words}"));
                env.build(&request).await?
            }
            Kernels::Counted => {
                let request = self.kernels_again(env).await?;
                env.note(label, "builds both kernels again, with counters in the files that differ");
                build_counted(env.cache, &request, &Builds(env.events), env.cancel).await?
            }
        };
        Ok(Sides { before: pair.before, after: pair.after })
    }

    /// Runs further trials, which are not judged. A plan's scenario has the place of its setup. The
    /// records stay in `folder`. Fails if not all of them ran.
    pub(crate) async fn run_further(
        &self,
        setups: &[TrialSetup<'_>],
        plans: Vec<TrialPlan>,
        workers: usize,
        folder: &Path,
        env: &Env<'_>,
    ) -> Result<()> {
        let tell = |happened: Happened| {
            env.events.event(&RunEvent::FurtherTrial(&happened));
            ControlFlow::Continue(())
        };
        let plans = plans.into_iter();
        let ran = run_all(setups, plans, workers, folder, env.cancel, &tell).await;
        ran.stopped.map_or(Ok(()), Err)
    }

    /// The context of further trials, with other kernels and without holds.
    pub(crate) async fn further_context(&self, kernels: &Sides<Kernel>) -> Result<TrialContext> {
        let context = self.context();
        let scenario = context.scenario.clone().unheld();
        let host = HostEnv::detect(scenario.machine.kind.arch().id).await?;
        host.context(scenario, context.accelerator, kernels, &self.run, host.initramfs()?, None).await
    }

    /// The request for the run's kernels, to be built with another configuration. Fails if a
    /// source, patch or config fragment has changed since the run began.
    pub(crate) async fn kernels_again(&self, env: &Env<'_>) -> Result<PairRequest> {
        let request = self.run.spec.kernels.request()?;
        still_asks_for(env.cache, &request, &self.kernels, env.cancel).await?;
        Ok(request)
    }

    /// Determines how the trials of each scenario start, and writes `run.json`. A continued run
    /// starts its trials as before.
    pub(crate) async fn settle_start(&mut self, env: &Env<'_>) -> Result<Vec<TrialStart>> {
        let notes = self.run.scenarios();
        let mut starts: Vec<TrialStart> = Vec::new();
        for part in &self.parts {
            let name = &part.context.scenario.name;
            let earlier = notes.iter().find(|note| note.name == *name).and_then(|note| note.start.clone());
            let start = if let Some(StartMethod::Cold { why }) = &earlier {
                TrialStart::Cold { why: why.clone() }
            } else if let [TrialStart::Cold { why }, ..] = starts.as_slice()
                && checkpoint::is_failed_boot(why)
            {
                // Its trials show whether a kernel does not boot at all.
                TrialStart::Cold { why: why.clone() }
            } else {
                let evidence = part.of_trial.below(self.folder.checkpoints());
                environment::start(self.run.plan.cold, &part.context, &evidence, env).await?
            };
            if let (Some(StartMethod::Restored), TrialStart::Cold { why }) = (&earlier, &start) {
                return Err(Error::infrastructure(format!(
                    "the run's earlier trials were restored from checkpoints, but now there is {why}"
                )));
            }
            self.run.set_start(name, StartMethod::of(&start));
            starts.push(start);
        }
        if self.resumed {
            self.run.continued.push(jiff::Timestamp::now());
        }
        self.folder.write("run.json", &self.run)?;
        Ok(starts)
    }
}

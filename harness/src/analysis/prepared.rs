//! A comparison whose kernels, machine, scenario and folder are there.

use hotplug_side::Sides;

use crate::compare::Judge;
use crate::environment::{self, Env, HostEnv};
use crate::kernel::{Config, Kernel, PairRequest, still_asks_for};
use crate::record::{Run, RunFolder, Start};
use crate::spec::AnalysesSpec;
use crate::trial::{Past, Setting};
use crate::{Error, Result, image};

/// A comparison that is ready to begin, or to go on.
#[derive(Debug)]
pub struct Prepared {
    /// The run's folder.
    pub folder: RunFolder,
    /// What `run.json` has.
    pub run: Run,
    /// What all trials share.
    pub(crate) setting: Setting,
    /// The two kernels, held so that no prune takes them away.
    pub(crate) kernels: Sides<Kernel>,
    /// It goes on.
    pub(crate) resumed: bool,
    /// The analyses beside the judged trials.
    pub(crate) analyses: AnalysesSpec,
    /// Judges the trials as they end.
    pub(crate) judge: Judge,
    /// What an earlier process ran of it; nothing of a new one.
    pub(crate) past: Past,
    /// How long that took, seconds.
    pub(crate) earlier: f64,
}

impl Prepared {
    /// Both kernels once more, built with `config`, which `said` describes. Kernels that were given as images are taken
    /// as they are: none.
    pub(crate) async fn built_again(
        &self,
        label: &str,
        said: &str,
        config: impl FnOnce(Config) -> Config,
        env: &Env<'_>,
    ) -> Result<Option<Sides<Kernel>>> {
        if self.kernels.before.record.is_none() || self.kernels.after.record.is_none() {
            env.note(label, "the kernels as they were given");
            return Ok(None);
        }
        let mut request = self.kernels_again(env).await?;
        request.config = config(request.config);
        env.note(label, &format!("both kernels again, {said}"));
        let pair = env.build(&request).await?;
        Ok(Some(Sides { before: pair.before, after: pair.after }))
    }

    /// The context of further trials, with other kernels and no holds.
    pub(crate) async fn further(&self, kernels: &Sides<Kernel>) -> Result<Setting> {
        let scenario = self.setting.scenario.clone().unheld();
        let host = HostEnv::detect().await?;
        host.context(scenario, self.setting.accelerator, kernels, &self.run, image::initramfs()?, None).await
    }

    /// The request for the run's kernels, to be built differently. An error where a source, patch or fragment has changed
    /// since the run began.
    pub(crate) async fn kernels_again(&self, env: &Env<'_>) -> Result<PairRequest> {
        let request = self.run.spec.kernels.request()?;
        still_asks_for(env.cache, &request, &self.kernels, env.cancel).await?;
        Ok(request)
    }

    /// Decides how the trials start, as those before them did if there are any, and writes `run.json`.
    pub(crate) async fn settle_start(&mut self, env: &Env<'_>) -> Result<()> {
        let earlier = self.run.start.take();
        let start = if let Some(cold @ Start::Cold { .. }) = &earlier {
            cold.clone()
        } else {
            let evidence = self.folder.checkpoints();
            environment::start(self.run.plan.cold, &mut self.setting, &evidence, env).await?
        };
        if let (Some(Start::Restored), Start::Cold { why }) = (&earlier, &start) {
            return Err(Error::infrastructure(format!(
                "the run's trials were restored from checkpoints: {why}"
            )));
        }
        self.run.start = Some(start);
        if self.resumed {
            self.run.continued.push(jiff::Timestamp::now());
        }
        self.folder.write("run.json", &self.run)
    }
}

//! The trials that decide about a candidate: one context, whose scenario and checkpoints change.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use crate::compare::{Count, Replays};
use crate::environment::Env;
use crate::qemu::Start;
use crate::record::RunFolder;
use crate::scenario::{Scenario, Schedule};
use crate::text::harmless;
use crate::trial::checkpoint::{self, Boot, Checkpoints};
use crate::trial::{Again, Happened, Original, Setting, TrialOutcome, TrialPlan, TrialRecord, run_all};
use crate::{Error, Result};

/// Runs trials of one recorded trial's kernel.
pub(super) struct Bench<'a> {
    setting: Setting,
    env: &'a Env<'a>,
    folder: &'a RunFolder,
    workers: usize,
    record: &'a TrialRecord,
    signature: String,
    trials: u32,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        setting: Setting,
        env: &'a Env<'a>,
        folder: &'a RunFolder,
        workers: usize,
        record: &'a TrialRecord,
        signature: &str,
    ) -> Self {
        Self { setting, env, folder, workers, record, signature: signature.into(), trials: 0 }
    }

    /// Tells the listener how far the search is.
    pub(super) fn say(&self, text: &str) {
        self.env.note("shrink", text);
    }

    /// Trials that were run.
    pub(super) fn trials(&self) -> u32 {
        self.trials
    }

    /// In how many of at most `most` trials of `scenario` the report came, of those that could have shown it. Each
    /// follows `schedule`, or one of its own; none begins once `enough` says so, and what then still ends has no say.
    pub(super) async fn show(
        &mut self,
        scenario: &Scenario,
        schedule: Option<&Schedule>,
        name: &str,
        most: u32,
        enough: impl Fn(Count) -> bool + Sync,
    ) -> Result<Count> {
        if !self.make_room(scenario, name).await? {
            return Ok(Count::default());
        }
        let replays = Replays::of(self.record).ok_or_else(|| Error::user("the trial showed nothing"))?;
        // The count, the trials that ended, and whether that was enough.
        let state = Mutex::new((replays, Count::default(), 0, false));
        let tell = |happened: Happened| {
            let Happened::Ended(record, Again::No) = &happened else { return ControlFlow::Continue(()) };
            let (replays, count, ended, decided) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
            *ended += 1;
            if !*decided {
                replays.add(record);
                *count = count_of(replays, &self.signature);
                // What was spoilt in every attempt would be so again: this scenario cannot be run, as a load without the
                // files that it reads.
                let spoilt = record.outcome == TrialOutcome::Infrastructure && count.trials == 0;
                *decided = enough(*count) || spoilt && schedule.is_none();
                if spoilt {
                    self.say(&format!("{}: {}", record.folder, harmless(&record.why, 120)));
                }
            }
            if *decided { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let plans = (0..most).map(|number| {
            // A recorded schedule comes with its seed, which also seeds the guest.
            let seed = if schedule.is_some() { self.record.seed } else { self.record.seed.of_trial(number) };
            let schedule = schedule.cloned().unwrap_or_else(|| scenario.schedule(seed, number));
            let replay = Some(Original { folder: name.to_owned(), schedule });
            TrialPlan { side: self.record.side, number, seed, replay, attempt: 0 }
        });
        let trials = self.folder.trials();
        let ran = run_all(&self.setting, plans, self.workers, &trials, self.env.cancel, &tell).await;
        let (_, count, ended, _) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.trials += ended;
        match ran.stopped {
            Some(error) => Err(error),
            None => Ok(count),
        }
    }

    /// Sets the scenario. Another command line wants another checkpoint; false where its guest gives none, though
    /// others did: it is no machine to run trials on.
    async fn make_room(&mut self, scenario: &Scenario, name: &str) -> Result<bool> {
        let alike = self.setting.command_line(Start::Template)
            == self.setting.command_line_of(scenario, Start::Template);
        let before = std::mem::replace(&mut self.setting.scenario, scenario.clone());
        if alike || self.setting.checkpoints.is_none() {
            return Ok(true);
        }
        let evidence = self.folder.checkpoints().join(name);
        match checkpoint::prepare(&self.setting, self.env.cache, Boot::FIRST, &evidence, self.env.cancel)
            .await?
        {
            Checkpoints::Ready(checkpoints) => {
                self.setting.checkpoints = Some(*checkpoints);
                Ok(true)
            }
            Checkpoints::None(why) => {
                self.say(&format!("this machine gives no checkpoint: {why}"));
                self.setting.scenario = before;
                Ok(false)
            }
        }
    }
}

fn count_of(replays: &Replays, signature: &str) -> Count {
    let all = replays.recurrences();
    all.iter()
        .find(|finding| finding.recorded && finding.signature == signature)
        .map_or_else(Count::default, |finding| finding.again)
}

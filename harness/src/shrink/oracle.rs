//! Runs the trials that decide about a candidate. They share one context, whose scenario and
//! checkpoints change.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use crate::compare::{Count, Replays};
use crate::environment::Env;
use crate::record::RunFolder;
use crate::scenario::{Scenario, Schedule};
use crate::text::harmless;
use crate::trial::checkpoint::{self, Boot};
use crate::trial::{
    Again, Happened, Instruments, Original, ScenarioOfTrial, TrialContext, TrialOutcome, TrialPlan,
    TrialRecord, TrialSetup, TrialStart, run_all,
};
use crate::vmm::LaunchMode;
use crate::{Error, Result};

/// Runs trials on the kernel of one recorded trial.
pub(super) struct Bench<'a> {
    context: TrialContext,
    start: TrialStart,
    env: &'a Env<'a>,
    folder: &'a RunFolder,
    workers: usize,
    record: &'a TrialRecord,
    signature: String,
    trials: u32,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        context: TrialContext,
        start: TrialStart,
        env: &'a Env<'a>,
        folder: &'a RunFolder,
        workers: usize,
        record: &'a TrialRecord,
        signature: &str,
    ) -> Self {
        Self { context, start, env, folder, workers, record, signature: signature.into(), trials: 0 }
    }

    /// Reports the progress of the search to the listener.
    pub(super) fn say(&self, text: &str) {
        self.env.note("shrink", text);
    }

    /// The number of trials that were run.
    pub(super) fn trials(&self) -> u32 {
        self.trials
    }

    /// Runs at most `most` trials of `scenario`, and counts those that showed the report, among
    /// those that could have shown it. Each trial follows `schedule`, or a schedule of its own. No
    /// trial begins once `enough` is true, and trials that end after that do not count.
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
                // A trial that was spoilt in every attempt would be spoilt again. This scenario
                // cannot be run, for example because a load has no files to read.
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
            let (side, scenario) = (self.record.side, ScenarioOfTrial::default());
            TrialPlan { side, scenario, number, seed, replay, history: Vec::new(), attempt: 0 }
        });
        let trials = self.folder.trials();
        let setup = TrialSetup {
            context: &self.context,
            start: &self.start,
            instruments: &Instruments::default(),
            rounds: 1,
        };
        let ran =
            run_all(std::slice::from_ref(&setup), plans, self.workers, &trials, self.env.cancel, &tell).await;
        let (_, count, ended, _) = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.trials += ended;
        match ran.stopped {
            Some(error) => Err(error),
            None => Ok(count),
        }
    }

    /// Sets the scenario. A different command line needs a different checkpoint. Returns false if
    /// the guest gives none although other guests did: no trials can be run on that machine.
    async fn make_room(&mut self, scenario: &Scenario, name: &str) -> Result<bool> {
        let context = self.context.with_scenario(scenario.clone());
        let alike =
            context.command_line(LaunchMode::Template) == self.context.command_line(LaunchMode::Template);
        if !alike && matches!(self.start, TrialStart::Restored(_)) {
            let evidence = self.folder.checkpoints().join(name);
            let prepared =
                checkpoint::prepare(&context, self.env.cache, Boot::FIRST, &evidence, self.env.cancel);
            match prepared.await? {
                Ok(checkpoints) => self.start = TrialStart::Restored(checkpoints),
                Err(why) => {
                    self.say(&format!("this machine gives no checkpoint: {why}"));
                    return Ok(false);
                }
            }
        }
        self.context = context;
        Ok(true)
    }
}

fn count_of(replays: &Replays, signature: &str) -> Count {
    let all = replays.recurrences();
    all.iter()
        .find(|finding| finding.recorded && finding.signature == signature)
        .map_or_else(Count::default, |finding| finding.again)
}

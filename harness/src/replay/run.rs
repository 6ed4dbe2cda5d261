//! Runs recorded trials again, and counts how often their findings come again.

use futures::future::LocalBoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{RecordedRun, shell};
use crate::compare::{Recurrence, Replays};
use crate::environment::{self, Env};
use crate::events::RunEvent;
use crate::record::{ReplayResult, RunFolder, RunResult, SCHEMA, read_run};
use crate::spec::RunningSpec;
use crate::trial::{
    HandOver, HandOverKind, Happened, Instruments, Original, PastTrial, ScenarioOfTrial, TrialOutcome,
    TrialPlan, TrialRecord, TrialSetup, TrialsRun, VmcoreQuota, run_all, vmcores_of,
};
use crate::{Error, Result, files, trial};

/// Recorded trials to replay.
#[derive(Debug)]
pub struct ReplaySpec {
    /// The folder of a trial, or of a run. A run stands for the example trial of each of its
    /// findings.
    pub recorded: PathBuf,
    /// The number of replays of each trial.
    pub times: u32,
    /// How trials run, and where results go.
    pub running: RunningSpec,
    /// The user who gets the guest at the end of the replay. Then it is one replay of one trial.
    pub hand_over: Option<HandOver>,
}

/// Replays the trials. If not all of them ran, the reason is returned with the result.
pub fn replay<'a>(
    spec: ReplaySpec,
    env: &'a Env<'a>,
) -> LocalBoxFuture<'a, Result<(ReplayResult, RunFolder, Option<Error>)>> {
    Box::pin(async move {
        let (source, records) = recorded(&spec.recorded)?;
        if spec.hand_over.is_some() {
            check_single(&source, &records)?;
        }
        let wants_shell = spec.hand_over.as_ref().is_some_and(|one| one.wanted() == HandOverKind::Shell);
        let mut replays: BTreeMap<String, Replays> = BTreeMap::new();
        for record in &records {
            let of = Replays::of(record).ok_or_else(|| {
                Error::user(format!(
                    "trial {} showed nothing that could come again: {}",
                    record.folder, record.why
                ))
                .help("name a trial that reported, panicked or hung; result.json names one for each finding")
            })?;
            replays.insert(record.folder.clone(), of);
        }
        let mut rerun = RecordedRun::find(&spec.running, &source, &records, env).await?;
        if wants_shell {
            rerun.scenarios.iter_mut().try_for_each(|(scenario, _)| shell::add(scenario))?;
        }
        let what = match records.as_slice() {
            [one] => one.folder.clone(),
            _ => rerun.recorded.id.chars().skip("2026-01-01T00-00-00-".len()).collect(),
        };
        let folder = RunFolder::create(&spec.running.results, &format!("replay-{what}"))?;
        let mut run = rerun.run(&spec.running, &folder, spec.times, env);
        environment::save_inputs(&folder, &run, rerun.texts(), rerun.initramfs)?;
        folder.write("run.json", &run)?;
        let (ready, _kernels) = rerun.contexts(&spec.running, &mut run, &folder, env).await?;
        let scenarios: Vec<String> = ready.iter().map(|(context, _)| context.scenario.name.clone()).collect();
        folder.write("run.json", &run)?;

        let mut again = Again {
            records: &records,
            scenarios: &scenarios,
            times: spec.times,
            replays: Mutex::new(replays),
            examples: Mutex::default(),
            env,
        };
        let began = Instant::now();
        let workers = run.plan.workers;
        let trials = folder.trials();
        let side = records.first().map_or(hotplug_side::Side::After, |record| record.side);
        let source_of = &run.kernels.of(side).source;
        let hand_over = spec.hand_over.map(|one| Arc::new(one.with_source(source_of)));
        let is_handed_over = hand_over.is_some();
        let wanted = spec.running.vmcores_asked();
        let vmcores = wanted.map(|number| VmcoreQuota::new(number, &trials).into());
        let instruments = Instruments { vmcores, hand_over, ..Instruments::default() };
        let setups: Vec<TrialSetup<'_>> = ready
            .iter()
            .map(|(context, start)| TrialSetup { context, start, instruments: &instruments, rounds: 1 })
            .collect();
        let mut ran = again.run(&setups, |_| Some(Vec::new()), workers, &trials).await;
        let (mut findings, never) = again.recurrences(0);
        // What a trial does not show alone may need what its guest did before.
        let histories = if is_handed_over { BTreeMap::new() } else { histories(&source, &records, &never)? };
        if ran.stopped.is_none() && !histories.is_empty() {
            env.note("replay", "again, after the earlier trials of the same guest");
            again.replays = Mutex::new(
                records
                    .iter()
                    .filter_map(|record| Some((record.folder.clone(), Replays::of(record)?)))
                    .collect(),
            );
            let with =
                again.run(&setups, |record| histories.get(&record.folder).cloned(), workers, &trials).await;
            ran.repeated.extend(with.repeated);
            ran.stopped = with.stopped;
            for (trial, history) in &histories {
                let earlier = u32::try_from(history.len()).unwrap_or(u32::MAX);
                let with: Vec<_> =
                    again.recurrences(earlier).0.into_iter().filter(|one| one.trial == *trial).collect();
                // What came again only so counts in place of what did not come alone.
                findings.retain(|one| {
                    one.trial != *trial || with.iter().all(|with| with.signature != one.signature)
                });
                findings.extend(with);
            }
            findings.sort_by(|a, b| (&a.trial, !a.recorded).cmp(&(&b.trial, !b.recorded)));
        }
        let examples = again.examples.into_inner().unwrap_or_else(PoisonError::into_inner);
        let vmlinux = |side| ready.iter().find_map(|(context, _)| context.vmlinux.of(side).clone());
        let vmcores = wanted.map(|_| vmcores_of(&folder.trials(), vmlinux)).transpose()?;
        let result = ReplayResult {
            schema: SCHEMA,
            exit_status: exit_status(&findings),
            findings,
            examples,
            repeated: ran.repeated,
            vmcores,
            trials_seconds: began.elapsed().as_secs_f64(),
            run,
        };
        match (folder.write("replay.json", &result), ran.stopped) {
            (Ok(()), stopped) => Ok((result, folder, stopped)),
            // The first error is returned, also if the result could not be written either.
            (Err(_), Some(error)) | (Err(error), None) => Err(error),
        }
    })
}

/// Fails with a user error unless there is one trial: one guest is handed over.
fn check_single(source: &Path, records: &[TrialRecord]) -> Result<()> {
    let [one, _, ..] = records else { return Ok(()) };
    let text = format!("the run has {} trials to replay, and one guest is handed over", records.len());
    let trial = source.join("trials").join(&one.folder);
    Err(Error::user(text).help(format!("name a trial: {}", trial.display())))
}

/// The replays of recorded trials.
struct Again<'a> {
    records: &'a [TrialRecord],
    /// The scenarios of the replays. A record of an older version names none.
    scenarios: &'a [String],
    /// The number of replays of each trial.
    times: u32,
    replays: Mutex<BTreeMap<String, Replays>>,
    /// The first replay of each trial that showed something.
    examples: Mutex<BTreeMap<String, String>>,
    env: &'a Env<'a>,
}

impl Again<'_> {
    /// Runs the replays of all records with a history. They take turns, so that a run that is
    /// interrupted has replayed each of them.
    async fn run(
        &self,
        setups: &[TrialSetup<'_>],
        history: impl Fn(&TrialRecord) -> Option<Vec<PastTrial>> + Send,
        workers: usize,
        folder: &Path,
    ) -> TrialsRun {
        let with: Vec<_> =
            self.records.iter().filter_map(|record| Some((record, history(record)?))).collect();
        let total = u64::from(self.times) * with.len() as u64;
        let plans = (0..self.times).flat_map(|time| with.iter().map(move |one| (one, time))).map(
            |((record, history), time)| {
                // The folders of replays with a history follow those without.
                let number = if history.is_empty() { time } else { self.times + time };
                TrialPlan { history: history.clone(), ..plan(record, number, self.scenarios) }
            },
        );
        self.env.events.event(&RunEvent::TrialsBegin { label: "trials", all: Some(total), done: 0 });
        let tell = |happened: Happened| {
            self.env.events.event(&RunEvent::Trial(&happened));
            if let Happened::Ended(record, trial::Again::No) = &happened {
                let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
                let of = record.folder.rsplit_once("-replay-").map_or("", |(of, _)| of);
                if let Some(replay) = replays.get_mut(of) {
                    replay.add(record);
                }
                if !matches!(record.outcome, TrialOutcome::Clean | TrialOutcome::Infrastructure) {
                    let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
                    examples.entry(of.to_owned()).or_insert_with(|| format!("trials/{}", record.folder));
                }
            }
            ControlFlow::Continue(())
        };
        let ran = run_all(setups, plans, workers, folder, self.env.cancel, &tell).await;
        self.env.events.event(&RunEvent::TrialsEnd);
        ran
    }

    /// The findings after `earlier` trials of the same guest, and the trials of which no recorded
    /// finding came again.
    fn recurrences(&self, earlier: u32) -> (Vec<Recurrence>, BTreeSet<String>) {
        let replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Recurrence> = replays
            .values()
            .flat_map(Replays::recurrences)
            .map(|one| Recurrence { earlier, ..one })
            .collect();
        let came: BTreeSet<&str> =
            all.iter().filter(|one| one.recorded && one.again.seen > 0).map(|one| &*one.trial).collect();
        let never = replays.keys().filter(|trial| !came.contains(&***trial)).cloned().collect();
        (all, never)
    }
}

/// The histories of those trials in `wanted` whose guests took trials before, by their folders.
fn histories(
    run: &Path,
    records: &[TrialRecord],
    wanted: &BTreeSet<String>,
) -> Result<BTreeMap<String, Vec<PastTrial>>> {
    let past = |folder: &String| {
        let record = read(&run.join("trials").join(folder).join("trial.json"))?;
        let original = Original { folder: record.folder, schedule: record.schedule };
        Ok(PastTrial { original, seed: record.seed })
    };
    let with = records.iter().filter(|one| wanted.contains(&one.folder) && !one.earlier.is_empty());
    with.map(|record| {
        Ok((record.folder.clone(), record.earlier.iter().map(past).collect::<Result<Vec<_>>>()?))
    })
    .collect()
}

/// The plan of one replay of a recorded trial. `number` counts the trial's replays. `scenarios` are
/// those of the replays, and a record of an older version names none.
fn plan(record: &TrialRecord, number: u32, scenarios: &[String]) -> TrialPlan {
    let original = Original { folder: record.folder.clone(), schedule: record.schedule.clone() };
    let place = scenarios.iter().position(|name| *name == record.scenario).unwrap_or(0);
    TrialPlan {
        side: record.side,
        scenario: ScenarioOfTrial { place, prefix: None },
        number,
        seed: record.seed,
        replay: Some(original),
        history: Vec::new(),
        attempt: 0,
    }
}

/// 0 if every recorded finding came again, 1 if some never did, 4 if no replay could have shown
/// any.
fn exit_status(findings: &[Recurrence]) -> u8 {
    let recorded = || findings.iter().filter(|finding| finding.recorded);
    if recorded().all(|finding| finding.again.seen > 0) {
        0
    } else if recorded().all(|finding| finding.again.trials == 0) {
        4
    } else {
        1
    }
}

/// The folder of the run, and the record of the trial in `path`.
pub(crate) fn recorded_trial(path: &Path) -> Result<(PathBuf, TrialRecord)> {
    let run = run_of(path).ok_or_else(|| {
        Error::user(format!("{} is not the folder of a trial", path.display()))
            .help("name a folder such as results/RUN/trials/after-003")
    })?;
    Ok((run, read(&path.join("trial.json"))?))
}

/// The folder of the run, and the records of the trials to replay: the trial in `path`, or, if
/// `path` is a run's folder, the example of each finding that is not known.
fn recorded(path: &Path) -> Result<(PathBuf, Vec<TrialRecord>)> {
    if run_of(path).is_some() {
        return recorded_trial(path).map(|(run, record)| (run, vec![record]));
    }
    read_run(path)?;
    let file = path.join("result.json");
    let text = fs_err::read(&file).map_err(|error| {
        Error::user(format!("this run has no result.json that names trials to replay: {error}")).help(
            format!(
                "run hotplug compare --continue {0}, or name a trial: hotplug replay {0}/trials/TRIAL",
                path.display()
            ),
        )
    })?;
    let result: RunResult = files::parse_json(&file, &text)?;
    let mut examples: Vec<String> =
        result.reports.into_iter().filter(|finding| finding.known.is_none()).map(|f| f.example).collect();
    examples.sort();
    examples.dedup();
    if examples.is_empty() {
        return Err(Error::user(format!("the run in {} found nothing", path.display()))
            .help("name a trial: hotplug replay RESULT/trials/TRIAL"));
    }
    let records = examples.iter().map(|example| read(&path.join(example).join("trial.json")));
    Ok((path.to_owned(), records.collect::<Result<_>>()?))
}

/// The run that a trial's folder belongs to: `results/RUN` of `results/RUN/trials/TRIAL`.
fn run_of(trial: &Path) -> Option<PathBuf> {
    let trials = fs_err::canonicalize(trial).ok()?.parent()?.to_owned();
    let run = trials.parent()?.to_owned();
    (trials.file_name()? == "trials" && run.join("run.json").exists()).then_some(run)
}

fn read(path: &Path) -> Result<TrialRecord> {
    let text = fs_err::read(path).map_err(|error| {
        Error::user(format!("the trial has no record: {error}")).help("name a trial that ran to its end")
    })?;
    files::parse_json(path, &text)
}

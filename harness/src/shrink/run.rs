//! The search for the smallest scenario that still gives a recorded trial's report.

use futures::future::LocalBoxFuture;
use std::path::PathBuf;
use std::time::Instant;

use super::file::{about, file};
use super::oracle::Bench;
use super::{CandidateResult, Rule, ShrinkResult, Size, Word, rate, reduce};
use crate::compare::{Count, Recurrence, Replays};
use crate::comparison::{Env, RunningSpec};
use crate::files::write_whole;
use crate::record::{RunFolder, SCHEMA};
use crate::replay::{RecordedRun, recorded_trial};
use crate::scenario::{Scenario, flatten};
use crate::trial::TrialRecord;
use crate::{Error, ErrorKind, Result, environment};

/// A recorded trial to shrink.
#[derive(Debug, Clone)]
pub struct ShrinkSpec {
    /// The trial's folder.
    pub recorded: PathBuf,
    /// The beginning of the finding's signature. None: the first report.
    pub signature: Option<String>,
    /// The number of trials that measure the rate of the recorded trial, and that of the result.
    /// Also the most trials of one candidate.
    pub times: u32,
    /// The confidence, in percent, at which a candidate counts as worse and is given up.
    pub confidence: u32,
    /// The scenario file to write. None: `shrunk.toml` in the search's folder.
    pub out: Option<PathBuf>,
    /// How trials run, and where results go.
    pub running: RunningSpec,
}

/// Shrinks the trial. Returns the result, its folder, and the path of the scenario file, which is
/// written if something was found.
pub fn shrink<'a>(
    spec: &'a ShrinkSpec,
    env: &'a Env<'a>,
) -> LocalBoxFuture<'a, Result<(ShrinkResult, RunFolder, PathBuf)>> {
    Box::pin(async move {
        let (source, record) = recorded_trial(&spec.recorded)?;
        let wanted = wanted(&record, spec.signature.as_deref())?;
        let recorded = RecordedRun::find(&spec.running, &source, std::slice::from_ref(&record), env).await?;
        let folder = RunFolder::create(&spec.running.results, &format!("shrink-{}", record.folder))?;
        let mut run = recorded.run(&spec.running, &folder, spec.times, env);
        // There is no run.json: each candidate has a scenario of its own, so its trials cannot be
        // continued or replayed.
        environment::save_inputs(&folder, &run, recorded.texts(), recorded.initramfs)?;
        let (ready, _kernels) = recorded.contexts(&spec.running, &mut run, &folder, env).await?;
        let Some((context, start)) = ready.into_iter().next() else {
            return Err(Error::infrastructure("the recorded trial has no scenario"));
        };
        let scenario = context.scenario.clone();
        let workers = run.plan.workers;
        let result = ShrinkResult {
            schema: SCHEMA,
            exit_status: 1,
            trial: record.folder.clone(),
            signature: wanted.signature,
            title: wanted.title,
            original: Count::default(),
            rule: String::new(),
            steps: Vec::new(),
            sizes: Default::default(),
            shrunk: None,
            trials: 0,
            trials_seconds: 0.0,
            run,
        };
        let file = spec.out.clone().unwrap_or_else(|| folder.path().join("shrunk.toml"));
        let of_trial = |name: &String| Ok(recorded_trial(&source.join("trials").join(name))?.1);
        let earlier = record.earlier.iter().map(of_trial).collect::<Result<Vec<_>>>()?;
        let bench = Bench::new(context, start, env, &folder, workers, &record, &result.signature);
        let mut search = Search { bench, record: &record, earlier, result, file, written: false };
        let began = Instant::now();
        let ended = Box::pin(search.whole(&scenario, spec)).await;
        let Search { bench, mut result, file, written, .. } = search;
        result.trials = bench.trials();
        result.trials_seconds = began.elapsed().as_secs_f64();
        if let Err(error) = ended {
            if written && error.kind() == ErrorKind::Interrupted {
                bench.say(&format!("the best scenario so far is in {}", file.display()));
            }
            return Err(error);
        }
        folder.write("shrink.json", &result)?;
        drop(bench);
        Ok((result, folder, file))
    })
}

/// The finding of the recorded trial that `signature` selects.
fn wanted(record: &TrialRecord, signature: Option<&str>) -> Result<Recurrence> {
    let all = Replays::of(record).map(|replays| replays.recurrences()).unwrap_or_default();
    let first = record.reports.first().map(|seen| seen.first.signature.hash.as_str());
    let meant = |finding: &&Recurrence| match signature.or(first) {
        Some(wanted) => finding.signature.starts_with(wanted),
        None => true,
    };
    if let Some(found) = all.iter().find(meant) {
        return Ok(found.clone());
    }
    let known: Vec<String> =
        all.iter().map(|finding| format!("{} {}", finding.signature, finding.title)).collect();
    let what = match known.as_slice() {
        [] => format!("trial {} showed nothing that could be shrunk: {}", record.folder, record.why),
        _ => {
            format!("trial {} showed nothing with signature {}", record.folder, signature.unwrap_or_default())
        }
    };
    Err(Error::user(what)
        .detail(known.join("\n"))
        .help("name a trial, and a signature, that result.json names"))
}

/// A search in progress.
struct Search<'a> {
    bench: Bench<'a>,
    record: &'a TrialRecord,
    /// The trials that its guest took before, in their order.
    earlier: Vec<TrialRecord>,
    result: ShrinkResult,
    file: PathBuf,
    written: bool,
}

impl Search<'_> {
    /// Measures the recorded trial, reduces it, and measures the result.
    async fn whole(&mut self, scenario: &Scenario, spec: &ShrinkSpec) -> Result<()> {
        let schedule = Some(&self.record.schedule);
        let mut original =
            self.bench.show(scenario, schedule, &self.record.folder, spec.times, |_| false).await?;
        self.bench.say(&format!("the report of the recorded trial came again in {}", rate(original)));
        let alone = original.seen > 0;
        let whole = if alone { None } else { self.joined(scenario, &self.earlier) };
        if let Some(whole) = &whole {
            original = self.bench.show(whole, None, "with-history", spec.times, |_| false).await?;
            let trials = match self.earlier.len() {
                1 => "the earlier trial".to_owned(),
                n => format!("the {n} earlier trials"),
            };
            self.bench.say(&format!("after {trials} of its guest, it came in {}", rate(original)));
        }
        self.result.original = original;
        let rule = Rule::new(original, 1.0 - f64::from(spec.confidence) / 100.0, spec.times);
        let mut start = whole.unwrap_or_else(|| flatten(scenario, &self.record.schedule));
        start.about = about(&self.result);
        self.result.sizes = [Size::of(&start).to_string(), String::new()];
        if original.seen == 0 {
            self.result.exit_status = if original.trials == 0 { 4 } else { 1 };
            return Ok(());
        }
        self.result.rule = format!(
            "wanted rate {:.0} %; a candidate of this rate is taken with probability {:.0} %, one of a tenth of the recorded rate with {:.0} %",
            rule.rate() * 100.0,
            rule.taken_at(rule.rate()) * 100.0,
            rule.taken_at(rule.rate() / 5.0) * 100.0
        );
        self.bench.say(&self.result.rule);
        if !self.gives(None, &start, &rule).await? {
            return Ok(());
        }
        if !alone {
            start = self.without_earlier(scenario, start, &rule).await?;
        }
        let mut history = vec![start.clone()];
        let reduced = reduce(start, async |best, candidate| {
            let taken = self.gives(Some(best), candidate, &rule).await?;
            if taken {
                history.push(candidate.clone());
            }
            Ok(taken)
        });
        Box::pin(reduced).await?;
        self.confirm(history, &rule, spec.times).await
    }

    /// The scenario that does what these trials did, and then what the recorded one did. `None` if
    /// there are none, or if no guest can do it.
    fn joined(&self, scenario: &Scenario, earlier: &[TrialRecord]) -> Option<Scenario> {
        if earlier.is_empty() {
            return None;
        }
        let all = earlier.iter().chain([self.record]).map(|record| flatten(scenario, &record.schedule));
        Scenario::one_after_the_other(all).unwrap_or_else(|why| {
            self.bench.say(&format!("the earlier trials of its guest cannot be repeated: {why}"));
            None
        })
    }

    /// Leaves out whole earlier trials, one after the other, as long as the report comes.
    async fn without_earlier(&mut self, scenario: &Scenario, all: Scenario, rule: &Rule) -> Result<Scenario> {
        let mut best = all;
        let mut left = self.earlier.clone();
        for place in (0..self.earlier.len()).rev() {
            let mut fewer = left.clone();
            fewer.remove(place);
            let Some(mut candidate) = self.joined(scenario, &fewer) else { continue };
            candidate.about = best.about.clone();
            if self.gives(Some(&best), &candidate, rule).await? {
                (best, left) = (candidate, fewer);
            }
        }
        Ok(best)
    }

    /// Tries a candidate. One that is taken is written to the file, so that an interruption leaves
    /// the best one so far.
    async fn gives(&mut self, best: Option<&Scenario>, candidate: &Scenario, rule: &Rule) -> Result<bool> {
        let name = format!("step-{:03}", self.result.steps.len());
        let size = Size::of(candidate);
        let what = best.map_or_else(
            || "as plain lanes, pauses drawn anew".to_owned(),
            |best| size.less_than(&Size::of(best)),
        );
        let open = |seen| rule.word(seen) != Word::Open;
        let again = self.bench.show(candidate, None, &name, rule.most(), open).await?;
        let taken = rule.word(again) == Word::Taken;
        let word = if taken { "taken   " } else { "given up" };
        self.bench.say(&format!("{word} {again}  {what}"));
        if taken && best.is_some() {
            self.bench.say(&format!("left: {size}"));
            let words =
                format!("{} of {} when it was taken; the search was cut off", again.seen, again.trials);
            self.write(candidate, &words)?;
        }
        self.result.steps.push(CandidateResult { name, what, taken, again });
        Ok(taken)
    }

    /// Measures the rate of the smallest scenario in trials that had no part in the search. If the
    /// report is too rare there, the scenario was taken by luck, and the one before it is measured.
    async fn confirm(&mut self, mut history: Vec<Scenario>, rule: &Rule, times: u32) -> Result<()> {
        while let Some(smallest) = history.pop() {
            let name = format!("shrunk-{:03}", history.len());
            let shrunk = self.bench.show(&smallest, None, &name, times, |_| false).await?;
            self.bench.say(&format!("the report of the smallest scenario comes again in {}", rate(shrunk)));
            if (shrunk.seen > 0 && !rule.is_implausible(shrunk)) || history.is_empty() {
                self.result.sizes[1] = Size::of(&smallest).to_string();
                self.result.shrunk = Some(shrunk);
                self.result.exit_status = u8::from(shrunk.seen == 0);
                return self.write(&smallest, &rate(shrunk));
            }
            self.bench.say("too rare: this scenario was taken by luck, and the one before it is measured");
        }
        Ok(())
    }

    fn write(&mut self, scenario: &Scenario, again: &str) -> Result<()> {
        let text = file(scenario, &self.result, self.record.side, again);
        write_whole(&self.file, text.as_bytes())?;
        self.written = true;
        Ok(())
    }
}

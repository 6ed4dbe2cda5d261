//! `hotplug shrink`: from a recorded trial to the smallest scenario that still gives its report.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::rerun::{Rerun, RerunArgs};
use super::shrink_bench::Bench;
use super::{ground, replay};
use crate::compare::{Count, Recurrence, Replays};
use crate::files::write_whole;
use crate::present::shrink as present;
use crate::record::{RunFolder, SCHEMA, ShrinkResult, Tried, rate};
use crate::scenario::Scenario;
use crate::shrink::{Rule, Size, Word, plain, reduce};
use crate::trial::TrialRecord;
use crate::{Error, ErrorKind, Result};

/// Options of `hotplug shrink`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example: hotplug shrink last/trials/after-003 --out smaller.toml

Drops lanes, loads, devices, steps, operations, meetings, then parts of the machine, then pauses. A candidate is taken at its
second report, and given up once so few would be unlikely at half the recorded trial's rate (docs/results.md).

Exit status: 0 a smaller scenario was written, or it is minimal already; 1 the report did not come again; \
2 your mistake; 4 infrastructure; 130 interrupted, the best so far was written.")]
pub struct ShrinkArgs {
    /// A trial's folder, such as results/RUN/trials/after-003
    #[arg(value_name = "RESULT/TRIAL")]
    pub recorded: PathBuf,
    /// Which of its findings, by the beginning of the signature in result.json [default: the first report]
    #[arg(long, value_name = "SIGNATURE")]
    pub signature: Option<String>,
    /// Trials that measure the recorded trial's rate, and the result's; also the most of each candidate
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
    pub times: u32,
    /// How sure, in percent, a candidate is worse before it is given up
    #[arg(long, value_name = "PERCENT", default_value_t = 90, value_parser = clap::value_parser!(u32).range(50..100))]
    pub confidence: u32,
    /// The scenario file that is written [default: shrunk.toml in the search's folder below --results]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How they are run.
    #[command(flatten)]
    pub how: RerunArgs,
}

/// Shrinks, prints the screen to `out`, returns the exit status.
pub async fn run(args: &ShrinkArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let (source, record) = replay::recorded_trial(&super::found(&args.recorded)?)?;
    let wanted = wanted(&record, args.signature.as_deref())?;
    let rerun = Rerun::look(&args.how, &source, std::slice::from_ref(&record), cancel).await?;
    let folder = RunFolder::create(&args.how.results, &format!("shrink-{}", record.folder))?;
    let mut run = rerun.run(&args.how, &folder, args.times);
    // No run.json: its trials have a scenario each, and are none that could be continued or replayed.
    ground::keep(&folder, &rerun.scenario_text, &rerun.initramfs)?;
    let (scenario, cache) = (rerun.scenario.clone(), rerun.cache.clone());
    let (setting, _kernels) = rerun.setting(&args.how, &mut run, &folder, cancel).await?;
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
    let file = args.out.clone().unwrap_or_else(|| folder.path().join("shrunk.toml"));
    let bench = Bench::new(setting, &cache, &folder, workers, cancel, &record, &result.signature);
    let mut search = Search { bench, record: &record, result, file, written: false };
    let began = Instant::now();
    let ended = Box::pin(search.whole(&scenario, args)).await;
    let Search { bench, mut result, file, written, .. } = search;
    result.trials = bench.trials();
    result.trials_seconds = began.elapsed().as_secs_f64();
    if let Err(error) = ended {
        if written && error.kind() == ErrorKind::Interrupted {
            say(&format!("the best so far is in {}", file.display()));
        }
        return Err(error);
    }
    folder.write("shrink.json", &result)?;
    out.write_all(present::screen(&result, folder.path(), &file).as_bytes())?;
    Ok(result.exit_status)
}

/// The finding of the recorded trial that is meant.
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

fn say(words: &str) {
    eprintln!("shrink    {words}");
}

/// The search under way.
struct Search<'a> {
    bench: Bench<'a>,
    record: &'a TrialRecord,
    result: ShrinkResult,
    file: PathBuf,
    written: bool,
}

impl Search<'_> {
    /// Measures, reduces, measures again.
    async fn whole(&mut self, scenario: &Scenario, args: &ShrinkArgs) -> Result<()> {
        let schedule = Some(&self.record.schedule);
        let original =
            self.bench.show(scenario, schedule, &self.record.folder, args.times, |_| false).await?;
        self.result.original = original;
        say(&format!("the recorded trial came again in {}", rate(original)));
        let rule = Rule::new(original, 1.0 - f64::from(args.confidence) / 100.0, args.times);
        let mut start = plain(scenario, &self.record.schedule);
        start.about = present::about(&self.result);
        self.result.sizes = [Size::of(&start).to_string(), String::new()];
        if original.seen == 0 {
            self.result.exit_status = if original.trials == 0 { 4 } else { 1 };
            return Ok(());
        }
        self.result.rule = format!(
            "wanted rate {:.0} %; a candidate with it is taken with {:.0} %, one with a tenth of the recorded trial's with {:.0} %",
            rule.rate() * 100.0,
            rule.taken_at(rule.rate()) * 100.0,
            rule.taken_at(rule.rate() / 5.0) * 100.0
        );
        say(&self.result.rule);
        if !self.gives(None, &start, &rule).await? {
            return Ok(());
        }
        let mut history = vec![start.clone()];
        let reduced = reduce(start, async |best, candidate| {
            let taken = self.gives(Some(best), candidate, &rule).await?;
            if taken {
                history.push(candidate.clone());
            }
            Ok(taken)
        });
        reduced.await?;
        self.confirm(history, &rule, args.times).await
    }

    /// Tries a candidate; what was taken is written, so that an interruption leaves the best so far.
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
        say(&format!("{word} {again}  {what}"));
        if taken && best.is_some() {
            say(&format!("left: {size}"));
            let words =
                format!("{} of {} when it was taken; the search was cut off", again.seen, again.trials);
            self.write(candidate, &words)?;
        }
        self.result.steps.push(Tried { name, what, taken, again });
        Ok(taken)
    }

    /// Measures the rate of what is left in trials that had no say in the search. What turns out too rare was taken by
    /// luck: then the one before it is measured.
    async fn confirm(&mut self, mut history: Vec<Scenario>, rule: &Rule, times: u32) -> Result<()> {
        while let Some(smallest) = history.pop() {
            let name = format!("shrunk-{:03}", history.len());
            let shrunk = self.bench.show(&smallest, None, &name, times, |_| false).await?;
            say(&format!("what is left comes again in {}", rate(shrunk)));
            if (shrunk.seen > 0 && !rule.is_implausible(shrunk)) || history.is_empty() {
                self.result.sizes[1] = Size::of(&smallest).to_string();
                self.result.shrunk = Some(shrunk);
                self.result.exit_status = u8::from(shrunk.seen == 0);
                return self.write(&smallest, &rate(shrunk));
            }
            say("too rare: it was taken by luck, and the one before it is measured");
        }
        Ok(())
    }

    fn write(&mut self, scenario: &Scenario, again: &str) -> Result<()> {
        let text = present::file(scenario, &self.result, self.record.side, again);
        write_whole(in_some_folder(&self.file).as_path(), text.as_bytes())?;
        self.written = true;
        Ok(())
    }
}

/// A bare file name is one in the current folder.
fn in_some_folder(file: &Path) -> PathBuf {
    if file.parent() == Some(Path::new("")) { Path::new(".").join(file) } else { file.to_owned() }
}

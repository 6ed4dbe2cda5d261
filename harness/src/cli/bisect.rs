//! `hotplug bisect`: the revision that brought a report, also one that shows itself only now and then.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use hotplug_statistics::clean_trials;
use tokio_util::sync::CancellationToken;

use super::ground;
use super::kernel::{BuildReporter, PairArgs, cache_path};
use super::suspect::{Lineup, LineupArgs};
use crate::bisect::{Bisection, History};
use crate::host::{self, AcceleratorRequest};
use crate::kernel::{Cache, Revisions, build_pair, resolve};
use crate::present::bisect as screen;
use crate::record::{BisectResult, Head, Revision, RunFolder, Suspected, Test};
use crate::scenario::Scenario;
use crate::{Error, Result};

/// Exit status of `git bisect run`'s command: this revision cannot be tried.
const SKIP: u8 = 125;

/// Options of `hotplug bisect`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug bisect --source ~/src/linux --good v6.12 --bad v6.13-rc1 --signature 3f2a9c1b
  hotplug bisect --good v6.12 --bad HEAD --signature flush_all_cpus_locked --scenario scenarios/block-against-cpu.toml
  git bisect run hotplug bisect --step --signature flush_all_cpus_locked --rate 0.2

Exit status: 0 the revision was found; 1 the good end has it itself; 2 your mistake; 3 no more trials can decide; \
4 infrastructure; 130 interrupted. With --step: 0 good; 1 bad; 125 cannot be tried; 128 or more stops git's bisection.")]
pub struct BisectArgs {
    /// What is looked for: how a report's signature begins, or a part of its title, its key or the text of a WARN
    #[arg(long, value_name = "WORDS")]
    pub signature: String,
    /// A revision without it
    #[arg(long, value_name = "REV", required_unless_present = "step")]
    pub good: Option<String>,
    /// A revision with it
    #[arg(long, value_name = "REV", required_unless_present = "step")]
    pub bad: Option<String>,
    /// Try the revision that is checked out, and no other: for git bisect run
    #[arg(long, conflicts_with_all = ["good", "bad", "confidence"])]
    pub step: bool,
    /// With --step: how many trials of a bad revision show it; as many are run as make a silent one good at 95 %
    #[arg(long, value_name = "0..1", requires = "step", default_value_t = 1.0, value_parser = share)]
    pub rate: f64,
    /// How probable the answer has to be
    #[arg(long, value_name = "0..1", default_value_t = 0.98, value_parser = share)]
    pub confidence: f64,
    /// The repository
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub source: PathBuf,
    /// The most trials of one revision
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(2..))]
    pub trials: u32,
    /// What all kernels and trials have.
    #[command(flatten)]
    pub all: LineupArgs,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("\"{text}\" is no number"))?;
    if share > 0.0 && share <= 1.0 { Ok(share) } else { Err("above 0, at most 1".to_owned()) }
}

impl BisectArgs {
    fn lineup<'a>(&'a self, cache: &'a Cache, folder: &'a Path) -> Lineup<'a> {
        Lineup { cache, all: &self.all, folder, called: &self.signature, most: self.trials }
    }

    /// The kernel of a revision, on both sides.
    fn pair(&self, revision: &str) -> PairArgs {
        PairArgs { source: Some(format!("{}@{revision}", self.source.display())), ..self.all.kernels() }
    }
}

/// Bisects, or tries the one revision; the screen goes to `out`. Returns the exit status.
pub async fn run(args: &BisectArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    if let Some(file) = &args.all.scenario {
        Scenario::read(file)?;
    }
    if args.signature.is_empty() {
        return Err(Error::user("--signature says nothing").help("give a part of the report's title"));
    }
    if args.step { Box::pin(step(args, out, cancel)).await } else { Box::pin(whole(args, out, cancel)).await }
}

/// For `git bisect run`: it stops at statuses from 128 on, so that no mistake is taken for a verdict.
async fn step(args: &BisectArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let tried = async {
        let revision = resolve(&args.source, "HEAD", cancel).await?;
        let cache = Cache::open(cache_path(args.all.how.cache.as_deref())?)?;
        let folder = RunFolder::bare(&args.all.how.results, &format!("bisect-{}", &revision[..12]))?;
        let trials = clean_trials(args.rate, 0.95).min(args.trials);
        let lineup = args.lineup(&cache, folder.path());
        let test = lineup.try_out(args.pair(&revision), trials, true, cancel).await?;
        folder.write("test.json", &test)?;
        Ok::<Test, Error>(test)
    };
    let (status, words) = match tried.await {
        Ok(Test { cannot: Some(why), .. }) => (SKIP, format!("cannot be tried: {why}")),
        Ok(test) if test.hits > 0 => {
            (1, format!("bad: {} of {} trials show it", test.hits, test.hits + test.clean))
        }
        Ok(test) if test.clean == 0 => (SKIP, "cannot be tried: no trial was watched to its end".to_owned()),
        Ok(test) => (0, format!("good: none of {} trials shows it", test.clean)),
        Err(error) => {
            eprintln!("hotplug: {error}");
            return Ok(128 + error.exit_status().min(127));
        }
    };
    writeln!(out, "{words}")?;
    Ok(status)
}

async fn whole(args: &BisectArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let (started, began) = (jiff::Timestamp::now(), Instant::now());
    let (Some(good), Some(bad)) = (&args.good, &args.bad) else {
        return Err(Error::user("--good and --bad are both needed"));
    };
    let revisions = Revisions::between(&args.source, good, bad, cancel).await?;
    let (history, names) = History::of_rev_list(&revisions.good, &revisions.list);
    let shown: Vec<String> = names
        .iter()
        .zip(&revisions.subjects)
        .map(|(name, subject)| format!("{} {subject}", name.get(..12).unwrap_or(name)))
        .collect();
    let cache = Cache::open(cache_path(args.all.how.cache.as_deref())?)?;
    let machine = ground::machine().await?;
    let last = names.len() - 1;
    let first =
        build_pair(&cache, &args.pair(&names[last]).request()?, &BuildReporter::new(), cancel).await?;
    let (asked, image) = (AcceleratorRequest::by(args.all.how.accel), Some(&*first.after.image));
    let probed = host::find_accelerator(&machine.qemu, asked, image, &cache, cancel).await?;
    let mut args = args.clone();
    args.all.how.found = Some(probed.accelerator);
    let folder = RunFolder::bare(&args.all.how.results, "bisect")?;
    let mut bisection = Bisection::new(history, args.confidence.min(0.9999));
    let mut result = BisectResult {
        head: Head::new(started, machine.note(&probed)),
        called: args.signature.clone(),
        exit_status: 3,
        revisions: revisions_of(&names, &bisection),
        tests: Vec::new(),
        suspected: None,
        seconds: 0.0,
    };
    let source = format!("{} {good}..{bad}", args.source.display());
    out.write_all(screen::head(&source, last, &args.signature, &result.head.host).as_bytes())?;
    out.flush()?;
    let lineup = args.lineup(&cache, folder.path());
    let hunted = lineup
        .hunt(
            &mut bisection,
            |revision| args.pair(&names[revision]),
            |revision, test, bisection| {
                out.write_all(screen::row(&shown[revision], test, bisection).as_bytes())?;
                out.flush()?;
                // Written after each: one that is killed leaves what it had.
                result.tests.push(Test { revision, ..test.clone() });
                result.revisions = revisions_of(&names, bisection);
                result.seconds = began.elapsed().as_secs_f64();
                folder.write("bisect.json", &result)
            },
            cancel,
        )
        .await;
    let suspected = hunted?;
    result.exit_status = exit_status(&suspected);
    result.seconds = began.elapsed().as_secs_f64();
    out.write_all(screen::suspected(&suspected, |at| shown[at].clone(), &bisection).as_bytes())?;
    result.suspected = Some(suspected);
    folder.write("bisect.json", &result)?;
    out.write_all(screen::totals(&result, folder.path()).as_bytes())?;
    Ok(result.exit_status)
}

fn revisions_of(names: &[String], bisection: &Bisection) -> Vec<Revision> {
    let known = bisection.tested().iter().zip(bisection.posterior());
    let all = names.iter().zip(known);
    all.map(|(name, (tested, probability))| Revision {
        name: name.clone(),
        tested: tested.clone(),
        probability,
    })
    .collect()
}

fn exit_status(suspected: &Suspected) -> u8 {
    match suspected.revisions.as_slice() {
        [0] if suspected.decided => 1,
        [_] if suspected.decided => 0,
        _ => 3,
    }
}

//! `hotplug prove`: known bugs, and whether they are found.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::compare::CompareArgs;
use super::comparison::{Finished, whole};
use super::ground;
use super::kernel::{BuildReporter, PairArgs, cache_path};
use super::running::RunningArgs;
use crate::Result;
use crate::error::ErrorKind;
use crate::host::{self, AcceleratorRequest};
use crate::kernel::{Built, Cache, build_pair};
use crate::present::prove as screen;
use crate::prove::{Entry, EntryResult, Sight, Suite, Totals, Tried};
use crate::record::{Head, ProveResult, RunFolder};

/// Options of `hotplug prove`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug prove --quick
  hotplug prove seed padata-lock-order
  hotplug prove --source linux-source-6.12

Exit status: 0 all was found, and nothing that is not there; 1 not so; 2 your mistake; 4 something could not be tried.")]
pub struct ProveArgs {
    /// Known bugs to try, by name [default: all]
    #[arg(value_name = "ENTRY")]
    pub entries: Vec<String>,
    /// Only a few of them, chosen for speed
    #[arg(long)]
    pub quick: bool,
    /// Trials a side of each scenario [default: as each entry's card says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trials: Option<u32>,
    /// Kernel source: linux-source-6.1, a tarball, a folder, or repository@revision [default: linux-source-6.1, else the newest installed]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Take the suite below DIR, laid out as the project's repository, instead of the one in this binary
    #[arg(long, value_name = "DIR")]
    pub suite: Option<PathBuf>,
    /// Compilations at once [default: number of processors]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Guests at once [default: number of processors, less where memory is short]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// What all schedules are drawn from [default: a random one for each comparison]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// How guest code is run [default: auto, as was found out once since this machine booted; with this option it is found
    /// out anew]
    #[arg(long, value_enum)]
    pub accel: Option<host::Choice>,
}

/// Runs the proof: a row on `out` as each entry ends, then the totals. Returns the exit status.
pub async fn run(args: &ProveArgs, out: &mut dyn Write, cancel: &CancellationToken) -> Result<u8> {
    let started = jiff::Timestamp::now();
    let began = Instant::now();
    // A mistake is told before anything is built or written.
    let draft = tempfile::tempdir()?;
    suite(args, draft.path())?.choose(&args.entries, args.quick)?;
    let cache = Cache::open(cache_path(args.cache.as_deref())?)?;
    let machine = ground::machine().await?;
    let unmodified = {
        let request = pair(args, None, "").request()?;
        build_pair(&cache, &request, &BuildReporter::new(), cancel).await?.before
    };
    let (asked, image) = (AcceleratorRequest::by(args.accel), Some(&*unmodified.image));
    let probed = host::find_accelerator(&machine.qemu, asked, image, &cache, cancel).await?;

    let folder = RunFolder::bare(&args.results, if args.quick { "prove-quick" } else { "prove" })?;
    let suite = suite(args, &folder.path().join("suite"))?;
    let chosen = suite.choose(&args.entries, args.quick)?;
    let mut result = ProveResult {
        head: Head::new(started, machine.note(&probed)),
        source: ground::note(&unmodified).source,
        release: unmodified.release.clone(),
        exit_status: 0,
        totals: Totals::default(),
        entries: Vec::new(),
        seconds: 0.0,
    };
    let series = series(&unmodified.release);
    out.write_all(screen::head(&result.release, &result.source, &result.head.host).as_bytes())?;
    out.flush()?;
    let proof = Proof {
        args,
        folder: folder.path(),
        series: &series,
        accelerator: probed.accelerator,
        cache: &cache,
    };
    let mut stopped = None;
    for (number, entry) in chosen.iter().enumerate() {
        eprintln!("prove     {} of {}: {}", number + 1, chosen.len(), entry.name);
        match proof.entry(entry, cancel).await {
            Ok(ended) => {
                out.write_all(screen::row(&ended).as_bytes())?;
                out.flush()?;
                result.entries.push(ended);
            }
            Err(error) => {
                stopped = Some(error);
                break;
            }
        }
        // Written after each: a proof that is killed leaves what it had.
        result.totals = Totals::of(&result.entries);
        result.exit_status = result.totals.exit_status();
        result.seconds = began.elapsed().as_secs_f64();
        folder.write("prove.json", &result)?;
    }
    out.write_all(screen::totals(&result, folder.path()).as_bytes())?;
    stopped.map_or(Ok(result.exit_status), Err)
}

/// The suite; the binary's own is written below `folder`.
fn suite(args: &ProveArgs, folder: &Path) -> Result<Suite> {
    args.suite.as_deref().map_or_else(|| Suite::built_in(folder), Suite::read)
}

/// The kernels to compare: the unmodified one, and it with the entry's patches. Without an entry: the unmodified one.
fn pair(args: &ProveArgs, entry: Option<&Entry>, series: &str) -> PairArgs {
    PairArgs {
        patches: entry.map_or_else(Vec::new, |entry| entry.patches(series)),
        source: args.source.clone(),
        config: entry.and_then(Entry::config).into_iter().collect(),
        jobs: args.jobs,
        cache: args.cache.clone(),
        ..PairArgs::default()
    }
}

/// `6.1` of `6.1.192`, `6.12` of `6.12-rc3`.
fn series(release: &str) -> String {
    let mut numbers = release.split(['.', '-']);
    [numbers.next(), numbers.next()].into_iter().flatten().collect::<Vec<_>>().join(".")
}

/// What all entries share.
struct Proof<'a> {
    args: &'a ProveArgs,
    folder: &'a Path,
    series: &'a str,
    accelerator: host::Accelerator,
    cache: &'a Cache,
}

impl Proof<'_> {
    /// Tries one entry, scenario after scenario until it is found. An error is an interruption, or a disk that takes no
    /// more: whatever else goes wrong is the entry's.
    async fn entry(&self, entry: &Entry, cancel: &CancellationToken) -> Result<EntryResult> {
        let mut all = EntryResult::new(&entry.name, entry.group(), &entry.card, self.series);
        if all.is_left_out() {
            return Ok(all);
        }
        for scenario in entry.scenarios() {
            let finished = match whole(&self.comparison(entry, scenario), self.cache, cancel).await {
                Ok(finished) => finished,
                Err(error) if error.kind() == ErrorKind::Interrupted || !self.folder.is_dir() => {
                    return Err(error);
                }
                Err(error) => {
                    all.sight = Sight::Failed { why: error.to_string() };
                    break;
                }
            };
            count_builds(&mut all, &finished);
            let result = finished.result;
            let (verdict, reason) = (result.verdict, result.reason);
            all.add(Tried {
                scenario: result.run.scenario,
                run: finished.folder.id(),
                trials: result.trials,
                findings: result.reports,
                latency: result.latency,
                start_seconds: finished.start_seconds,
                trials_seconds: result.trials_seconds,
            });
            if all.sight == Sight::Found {
                break;
            }
            if verdict.is_none() {
                all.sight = Sight::Failed { why: reason };
                break;
            }
        }
        Ok(all)
    }

    fn comparison(&self, entry: &Entry, scenario: PathBuf) -> CompareArgs {
        CompareArgs {
            pair: pair(self.args, Some(entry), self.series),
            scenario: Some(scenario),
            trials: Some(self.args.trials.unwrap_or(entry.card.trials)),
            until_decided: true,
            exact: entry.is_timed(self.series),
            no_latency: !entry.is_timed(self.series),
            running: RunningArgs {
                workers: self.args.workers,
                seed: self.args.seed,
                results: self.folder.to_owned(),
                found: Some(self.accelerator),
                ..RunningArgs::default()
            },
            ..CompareArgs::default()
        }
    }
}

/// The kernels that were built for this comparison.
fn count_builds(all: &mut EntryResult, finished: &Finished) {
    let before = &finished.kernels.before;
    let other = (finished.kernels.after.id != before.id).then_some(&finished.kernels.after);
    for kernel in [Some(before), other].into_iter().flatten() {
        if let Built::Now { seconds, .. } = kernel.built {
            all.builds += 1;
            all.build_seconds += seconds;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_release_has_a_series() {
        for (release, series) in [("6.1.192", "6.1"), ("6.12-rc3", "6.12"), ("6.12.117+", "6.12")] {
            assert_eq!(super::series(release), series);
        }
    }
}

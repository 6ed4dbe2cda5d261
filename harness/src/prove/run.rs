//! Tries the known bugs, one comparison after the other.

use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::future::LocalBoxFuture;

use super::{ComparedEntry, EntryResult, ProveResult, Sight, Totals};
use crate::comparison::{
    AnalysesSpec, AnalysisRequest, ComparisonSpec, Env, Finished, RunningSpec, ScenarioChoice, TrialsSpec,
    compare_inner,
};
use crate::environment;
use crate::error::ErrorKind;
use crate::kernel::{Built, Kernel, PairSpec};
use crate::known_bugs::{Entry, Suite};
use crate::record::{Head, RunFolder};
use crate::release::Release;
use crate::{Error, Result};

/// Which known bugs are tried, and how.
#[derive(Debug, Clone, Default)]
pub struct ProveSpec {
    /// The names of the entries. Empty: all.
    pub entries: Vec<String>,
    /// Only a few entries, chosen for speed.
    pub quick: bool,
    /// Judge each entry with the portfolio on a wide kernel, as if nothing were known of it, for at
    /// most this many seconds of trials.
    pub blind: Option<f64>,
    /// Trials of each side in each scenario. None: the number of each entry's card.
    pub trials: Option<u32>,
    /// The kernel source. None: the default one.
    pub source: Option<String>,
    /// The folder of the suite, with the layout of the project's repository. None: the suite in
    /// this binary.
    pub suite: Option<PathBuf>,
    /// Compilations at once. None: as many as there are processors.
    pub jobs: Option<usize>,
    /// How trials run, and where results go.
    pub running: RunningSpec,
}

/// The progress of a proof.
#[derive(Debug)]
pub enum Proving<'a> {
    /// It begins. The result has no entries yet.
    Begins(&'a ProveResult),
    /// An entry was tried.
    Tried(&'a EntryResult),
}

/// Tries the entries. `tell` receives each entry as it ends. If not all of them were tried, the
/// reason is returned with the result.
pub fn prove<'a>(
    spec: &'a ProveSpec,
    env: &'a Env<'a>,
    tell: &'a mut (dyn FnMut(Proving<'_>) -> Result<()> + 'a),
) -> LocalBoxFuture<'a, Result<(ProveResult, RunFolder, Option<Error>)>> {
    Box::pin(async move {
        let started = jiff::Timestamp::now();
        let began = Instant::now();
        // A mistake is reported before anything is built or written.
        let draft = tempfile::tempdir()?;
        suite(spec, draft.path())?.choose(&spec.entries, spec.quick, spec.blind.is_some())?;
        let (unmodified, host, running) = env.settle(&spec.running, &pair(spec, None, "")).await?;

        let folder = RunFolder::bare(&spec.running.results, name(spec))?;
        let suite = suite(spec, &folder.path().join("suite"))?;
        let chosen = suite.choose(&spec.entries, spec.quick, spec.blind.is_some())?;
        let mut result = ProveResult {
            head: Head::new(started, env.command, host),
            source: environment::note(&unmodified).source,
            release: unmodified.release.clone(),
            exit_status: 0,
            totals: Totals::default(),
            entries: Vec::new(),
            blind: spec.blind,
            seconds: 0.0,
        };
        let series = series(&unmodified.release);
        tell(Proving::Begins(&result))?;
        let proof = Proof { spec, folder: folder.path(), series: &series, running, env };
        let mut stopped = None;
        for (number, entry) in chosen.iter().enumerate() {
            env.note("prove", &format!("{} of {}: {}", number + 1, chosen.len(), entry.name));
            match proof.entry(entry).await {
                Ok(ended) => {
                    tell(Proving::Tried(&ended))?;
                    result.entries.push(ended);
                }
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            }
            // The result is written after each entry, so that a proof that is killed leaves what it
            // had.
            result.totals = Totals::of(&result.entries);
            // A blind proof measures, and what it misses is its figure.
            result.exit_status = match spec.blind {
                Some(_) => u8::from(result.totals.failed > 0 || result.totals.tried() == 0) * 4,
                None => result.totals.exit_status(),
            };
            result.seconds = began.elapsed().as_secs_f64();
            folder.write("prove.json", &result)?;
        }
        Ok((result, folder, stopped))
    })
}

/// The suite. That of the binary is written below `folder`.
fn suite(spec: &ProveSpec, folder: &Path) -> Result<Suite> {
    spec.suite.as_deref().map_or_else(|| Suite::built_in(folder), Suite::read)
}

/// The kernels to compare: the unmodified one without and with the entry's patches. Without an
/// entry, both are the unmodified one.
fn pair(spec: &ProveSpec, entry: Option<&Entry>, series: &str) -> PairSpec {
    PairSpec {
        patches: entry.map_or_else(Vec::new, |entry| entry.patches(series)),
        source: spec.source.clone(),
        // A person who knows nothing of the bug does not know its options either.
        config: entry.filter(|_| spec.blind.is_none()).and_then(Entry::config).into_iter().collect(),
        wide: spec.blind.is_some() || entry.is_some_and(|entry| entry.card.wide),
        jobs: spec.jobs,
        ..PairSpec::default()
    }
}

/// The end of the name of the proof's folder.
fn name(spec: &ProveSpec) -> &'static str {
    match spec {
        ProveSpec { blind: Some(_), .. } => "prove-blind",
        ProveSpec { quick: true, .. } => "prove-quick",
        _ => "prove",
    }
}

/// `6.1` of `6.1.192`, `6.12` of `6.12-rc3`.
fn series(release: &str) -> String {
    Release::of(release).to_string()
}

/// What all entries have in common.
struct Proof<'a> {
    spec: &'a ProveSpec,
    folder: &'a Path,
    series: &'a str,
    /// With the accelerator that was found.
    running: RunningSpec,
    env: &'a Env<'a>,
}

impl Proof<'_> {
    /// Tries one entry, scenario after scenario until it is found. Errors are interruptions, and
    /// the loss of the proof's folder. Every other failure is recorded as the entry's outcome.
    async fn entry(&self, entry: &Entry) -> Result<EntryResult> {
        let mut all = EntryResult::new(&entry.name, entry.group(), &entry.card, self.series);
        if all.is_left_out() {
            return Ok(all);
        }
        let comparisons: Vec<ComparisonSpec> = match self.spec.blind {
            Some(seconds) => vec![self.blind_comparison(entry, seconds)],
            None => entry.scenarios().map(|scenario| self.comparison(entry, scenario)).collect(),
        };
        for spec in comparisons {
            let finished = match compare_inner(&spec, self.env).await {
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
            if let Some(told) = &result.no_boot {
                all.sight = Sight::LeftOut { why: told.to_string() };
                break;
            }
            let tried = ComparedEntry {
                scenario: result.run.scenario,
                run: finished.folder.id(),
                trials: result.trials,
                findings: result.reports,
                latency: result.latency,
                start_seconds: finished.start_seconds,
                trials_seconds: result.trials_seconds,
            };
            if self.spec.blind.is_some() {
                all.add_blind(tried, reason.clone());
            } else {
                all.add(tried);
            }
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

    /// The same for all entries.
    fn blind_comparison(&self, entry: &Entry, seconds: f64) -> ComparisonSpec {
        ComparisonSpec {
            kernels: pair(self.spec, Some(entry), self.series),
            scenarios: ScenarioChoice::Portfolio,
            trials: TrialsSpec { seconds: Some(seconds), until_decided: true, ..TrialsSpec::default() },
            analyses: AnalysesSpec::none(),
            running: RunningSpec { results: self.folder.to_owned(), ..self.running.clone() },
            ..ComparisonSpec::default()
        }
    }

    fn comparison(&self, entry: &Entry, scenario: PathBuf) -> ComparisonSpec {
        let is_timed = entry.is_timed(self.series);
        ComparisonSpec {
            kernels: pair(self.spec, Some(entry), self.series),
            scenarios: ScenarioChoice::one(Some(scenario)),
            trials: TrialsSpec {
                end: Some(self.spec.trials.unwrap_or(entry.card.trials)),
                until_decided: true,
                ..TrialsSpec::default()
            },
            analyses: AnalysesSpec {
                latency: if is_timed { AnalysisRequest::Usual } else { AnalysisRequest::Omitted },
                exact: is_timed,
                ..AnalysesSpec::none()
            },
            running: RunningSpec {
                results: self.folder.to_owned(),
                rounds: entry.card.rounds.or(self.running.rounds),
                ..self.running.clone()
            },
            ..ComparisonSpec::default()
        }
    }
}

/// Counts the kernels that were built for this comparison.
fn count_builds(all: &mut EntryResult, finished: &Finished) {
    let mut kernels: Vec<&Kernel> = finished.kernels.iter().collect();
    kernels.dedup_by_key(|kernel| &kernel.id);
    for kernel in kernels {
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

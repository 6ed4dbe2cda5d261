//! Expands a matrix to combinations and their shards, with all files that they need beside them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use tokio_util::sync::CancellationToken;

use super::matrix::{Matrix, MatrixKernel};
use crate::comparison::known_issues;
use crate::files::write_json;
use crate::kernel::{Cache, Source};
use crate::record::plain_name;
use crate::scenario::Scenario;
use crate::{Error, Result};

/// The name of a plan's file.
const FILE: &str = "plan.json";

/// `plan.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the harness that made the plan, and that must run it.
    pub hotplug: String,
    /// A hash of the ids of all pieces.
    pub id: String,
    /// The name of the plan.
    pub name: String,
    /// The combinations.
    pub cells: Vec<Combination>,
    /// The file of known issues, below the plan's folder.
    pub known: Option<PathBuf>,
}

/// One combination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combination {
    /// The names of its kernel, config and scenario, and its seed.
    pub name: String,
    /// The two kernels.
    pub kernel: PlannedPair,
    /// The scenario file, below the plan's folder.
    pub scenario: PathBuf,
    /// The seed that the schedules are drawn from.
    pub seed: u64,
    /// Trials a side.
    pub trials: u32,
    /// The pieces.
    pub pieces: Vec<Piece>,
}

/// A pair of kernels. Files are below the plan's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPair {
    /// The source, as for `--source`, in full: an absolute path, or a package with its version.
    pub source: String,
    /// Hashes or names that identify the contents of the source, or of both revisions. Every
    /// machine that runs a shard must have the same contents.
    pub contents: Vec<String>,
    /// Patches of the after kernel only.
    pub patches: Vec<PathBuf>,
    /// Patches of both kernels.
    pub base_patches: Vec<PathBuf>,
    /// The full name of the before revision, instead of patches.
    pub before: Option<String>,
    /// The full name of the after revision.
    pub after: Option<String>,
    /// Fragments over the harness's own config.
    pub config: Vec<PathBuf>,
}

/// A piece of work: some trials of a combination, which one shard runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// A hash of all that determines the trials.
    pub id: String,
    /// Number of the first trial.
    pub first: u32,
    /// Number after the last trial.
    pub end: u32,
}

impl Plan {
    /// Expands a matrix below `fleet`. Returns the plan and its folder. If anything is wrong,
    /// nothing is written. If the plan exists already, it is the same plan.
    pub async fn make(
        matrix: &Matrix,
        fleet: &Path,
        cache: &Cache,
        cancel: &CancellationToken,
    ) -> Result<(Self, PathBuf)> {
        let mut inputs = Inputs::default();
        if known_issues(matrix.known.as_deref())?.masks().next().is_some() {
            return Err(Error::user("the file of known issues has masks, which a fleet does not apply")
                .help("give them as base_patches of the kernels, and remove `mask` from the file"));
        }
        let known = matrix.known.as_deref().map(|file| inputs.add(file)).transpose()?;
        let mut cells = Vec::new();
        for kernel in &matrix.kernel {
            let bare = inputs.pair(kernel, cache, cancel).await?;
            for config in &matrix.config {
                let config_files =
                    config.fragments.iter().map(|file| inputs.add(file)).collect::<Result<_>>()?;
                let pair = PlannedPair { config: config_files, ..bare.clone() };
                for file in &matrix.scenarios {
                    let (scenario, text) = Scenario::read(file)?;
                    let kept = inputs.add(file)?;
                    for seed in &matrix.seeds {
                        let name = format!("{} / {} / {} / {seed}", kernel.name, config.name, scenario.name);
                        // The hash covers the contents of the source, not its path. It covers the
                        // known issues, because they affect the judgement of a shard.
                        let nowhere = PlannedPair { source: String::new(), ..pair.clone() };
                        let made_of = (env!("CARGO_PKG_VERSION"), &nowhere, &text, seed, &known);
                        let firsts = (0..matrix.trials).step_by(matrix.shard as usize);
                        let pieces = firsts
                            .map(|first| {
                                let end = matrix.trials.min(first.saturating_add(matrix.shard));
                                Ok(Piece { id: hash(&(&made_of, first, end), 16)?, first, end })
                            })
                            .collect::<Result<_>>()?;
                        cells.push(Combination {
                            name,
                            kernel: pair.clone(),
                            scenario: kept.clone(),
                            seed: *seed,
                            trials: matrix.trials,
                            pieces,
                        });
                    }
                }
            }
        }
        let ids: Vec<&String> = cells.iter().flat_map(|cell| &cell.pieces).map(|piece| &piece.id).collect();
        let id = hash(&ids, 12)?;
        let plan =
            Self { hotplug: env!("CARGO_PKG_VERSION").into(), id, name: matrix.name.clone(), cells, known };
        let folder = fleet.join(format!("{}-{}", plain(&plan.name), plan.id));
        fs_err::create_dir_all(folder.join("inputs"))?;
        for (name, bytes) in &inputs.files {
            fs_err::create_dir_all(folder.join(name.parent().unwrap_or(name)))?;
            fs_err::write(folder.join(name), bytes)?;
        }
        // The plan is written last: if its file exists, all files exist.
        write_json(&folder.join(FILE), &plan)?;
        Ok((plan, folder))
    }

    /// Reads the plan of a folder, or of its file.
    pub fn read(path: &Path) -> Result<(Self, PathBuf)> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let file = folder.join(FILE);
        let bytes = fs_err::read(&file).map_err(|error| {
            Error::user(format!("there is no plan in {}: {error}", folder.display()))
                .help("name the folder that hotplug plan made")
        })?;
        let plan: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::user(format!("{} is not a plan: {error}", file.display())))?;
        if plan.hotplug != env!("CARGO_PKG_VERSION") {
            let what = format!(
                "the plan was made by hotplug {}, but this is {}: their trials would differ",
                plan.hotplug,
                env!("CARGO_PKG_VERSION")
            );
            return Err(Error::user(what).help("make the plan anew, or use the version that made it"));
        }
        Ok((plan, folder.to_owned()))
    }

    /// All pieces in their order, each with the index of its combination.
    pub fn pieces(&self) -> impl Iterator<Item = (usize, &Piece)> {
        self.cells.iter().enumerate().flat_map(|(at, cell)| cell.pieces.iter().map(move |piece| (at, piece)))
    }

    /// The piece that `asked` selects: by its number from 0, as in an array of jobs, or by the
    /// beginning of its id.
    pub fn piece(&self, asked: &str) -> Result<(usize, &Piece)> {
        let by_number =
            || asked.parse().ok().filter(|_| asked.len() < 6).and_then(|at| self.pieces().nth(at));
        let mut by_id = self.pieces().filter(|(_, piece)| asked.len() >= 6 && piece.id.starts_with(asked));
        let one = by_id.next().filter(|_| by_id.next().is_none());
        one.or_else(by_number).ok_or_else(|| {
            Error::user(format!("the plan has no shard {asked}")).help(format!(
                "name one by its number, from 0 to {}, or by its id in plan.json",
                self.pieces().count().saturating_sub(1)
            ))
        })
    }

    /// The pairs of kernels, each once.
    pub fn kernels(&self) -> Vec<&PlannedPair> {
        let mut all: Vec<&PlannedPair> = Vec::new();
        for cell in &self.cells {
            if !all.contains(&&cell.kernel) {
                all.push(&cell.kernel);
            }
        }
        all
    }
}

impl PlannedPair {
    /// Checks that the sources on this machine match the plan. If they do not, the error is the
    /// user's.
    pub async fn check_contents(&self, cache: &Cache, cancel: &CancellationToken) -> Result<()> {
        let source = Source::parse(&self.source)?;
        let here = pinned(source, [&self.before, &self.after], cache, cancel).await?;
        for ((name, content), planned) in here.iter().zip(&self.contents) {
            if content != planned {
                let what =
                    format!("{name} does not match the plan: it has {content}, the plan has {planned}");
                return Err(Error::user(what).help("make the plan anew: hotplug plan"));
            }
        }
        Ok(())
    }
}

/// The files that a plan needs, by their paths below its folder.
#[derive(Debug, Default)]
struct Inputs {
    files: std::collections::BTreeMap<PathBuf, Vec<u8>>,
}

impl Inputs {
    /// Adds a file. Its path has a hash of its content.
    fn add(&mut self, file: &Path) -> Result<PathBuf> {
        let bytes = fs_err::read(file)
            .map_err(|error| Error::user(format!("cannot read a file that the matrix names: {error}")))?;
        let hash = blake3::hash(&bytes).to_hex();
        let name = plain(&file.file_name().unwrap_or_default().to_string_lossy());
        // A scenario is named after its file. A folder for each file keeps the file's name.
        let path = Path::new("inputs").join(&hash[..16]).join(name);
        self.files.insert(path.clone(), bytes);
        Ok(path)
    }

    /// Adds patch files, and all patches of folders, in their order.
    fn patches(&mut self, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for path in paths {
            for file in crate::kernel::patch_files(path)? {
                all.push(self.add(&file)?);
            }
        }
        Ok(all)
    }

    /// A pair of kernels, with its source and revisions by names that stay valid when a branch
    /// moves.
    async fn pair(
        &mut self,
        kernel: &MatrixKernel,
        cache: &Cache,
        cancel: &CancellationToken,
    ) -> Result<PlannedPair> {
        let source = kernel.source.as_deref().map_or(Ok(Source::Package { version: None }), Source::parse)?;
        let pinned = pinned(source, [&kernel.before, &kernel.after], cache, cancel).await?;
        let mut pair = PlannedPair {
            contents: pinned.iter().map(|(_, content)| content.clone()).collect(),
            patches: self.patches(&kernel.patches)?,
            base_patches: self.patches(&kernel.base_patches)?,
            ..PlannedPair::default()
        };
        if let [(Source::Git { repo, revision: before }, _), (Source::Git { revision: after, .. }, _)] =
            pinned.as_slice()
        {
            pair.source = repo.display().to_string();
            (pair.before, pair.after) = (Some(before.clone()), Some(after.clone()));
        } else if let Some((source, _)) = pinned.first() {
            pair.source = source.to_string();
        }
        Ok(pair)
    }
}

/// The sources of a pair by names that stay valid, each with what identifies its contents: both
/// revisions, or the one source.
async fn pinned(
    source: Source,
    revisions: [&Option<String>; 2],
    cache: &Cache,
    cancel: &CancellationToken,
) -> Result<Vec<(Source, String)>> {
    let sources = match revisions {
        [Some(before), Some(after)] => vec![source.at(before)?, source.at(after)?],
        _ => vec![source],
    };
    let mut all = Vec::new();
    for source in sources {
        all.push(source.pinned(cache, cancel).await?);
    }
    Ok(all)
}

fn hash(value: &impl Serialize, digits: usize) -> Result<String> {
    let text = serde_json::to_vec(value).map_err(Error::infrastructure)?;
    Ok(blake3::hash(&text).to_hex()[..digits].to_owned())
}

/// A name that can be a file name by itself: it is not hidden, not an option, and not empty.
fn plain(name: &str) -> String {
    let name = plain_name(name, 60);
    let name = name.trim_start_matches(['-', '.']);
    if name.is_empty() { "x".to_owned() } else { name.to_owned() }
}

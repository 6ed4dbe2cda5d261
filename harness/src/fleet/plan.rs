//! A matrix expanded: combinations, and the pieces of work of each, with all files that they need beside them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use tokio_util::sync::CancellationToken;

use super::matrix::{Matrix, MatrixKernel};
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
    /// Version of the harness that made it, and that has to run it.
    pub hotplug: String,
    /// Made of its pieces' ids.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Combinations.
    pub cells: Vec<Cell>,
    /// The file of known issues, below the plan's folder.
    pub known: Option<PathBuf>,
}

/// One combination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Kernel, config, scenario and seed, by their names.
    pub name: String,
    /// The two kernels.
    pub kernel: Kernel,
    /// Below the plan's folder.
    pub scenario: PathBuf,
    /// What the schedules are drawn from.
    pub seed: u64,
    /// Trials a side.
    pub trials: u32,
    /// The pieces.
    pub pieces: Vec<Piece>,
}

/// Two kernels. Files are below the plan's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// As `--source` has it, in full: a path from the root, a package's version.
    pub source: String,
    /// What names the contents of the source, or of both revisions: whoever works on it has to have the same.
    pub contents: Vec<String>,
    /// Patches that make the difference.
    pub patches: Vec<PathBuf>,
    /// Patches that both have.
    pub base_patches: Vec<PathBuf>,
    /// A revision's full name, instead of patches.
    pub before: Option<String>,
    /// The other's.
    pub after: Option<String>,
    /// Fragments over the harness's own config.
    pub config: Vec<PathBuf>,
}

/// Some trials of a combination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Made of all that makes the trials what they are.
    pub id: String,
    /// Number of its first trial.
    pub first: u32,
    /// Number behind its last.
    pub end: u32,
}

impl Plan {
    /// Expands a matrix below `fleet`; the plan's folder. Nothing is written where anything is wrong. A plan that is there
    /// already is the same one.
    pub async fn make(
        matrix: &Matrix,
        fleet: &Path,
        cache: &Cache,
        cancel: &CancellationToken,
    ) -> Result<(Self, PathBuf)> {
        let mut inputs = Inputs::default();
        let known = matrix.known.as_deref().map(|file| inputs.add(file)).transpose()?;
        let mut cells = Vec::new();
        for kernel in &matrix.kernel {
            let bare = inputs.pair(kernel, cache, cancel).await?;
            for config in &matrix.config {
                let config_files =
                    config.fragments.iter().map(|file| inputs.add(file)).collect::<Result<_>>()?;
                let pair = Kernel { config: config_files, ..bare.clone() };
                for file in &matrix.scenarios {
                    let (scenario, text) = Scenario::read(file)?;
                    let kept = inputs.add(file)?;
                    for seed in &matrix.seeds {
                        let name = format!("{} / {} / {} / {seed}", kernel.name, config.name, scenario.name);
                        // The contents of the source, not where it is; the issues that are known, as they have a say in
                        // what a shard judges.
                        let nowhere = Kernel { source: String::new(), ..pair.clone() };
                        let made_of = (env!("CARGO_PKG_VERSION"), &nowhere, &text, seed, &known);
                        let firsts = (0..matrix.trials).step_by(matrix.shard as usize);
                        let pieces = firsts
                            .map(|first| {
                                let end = matrix.trials.min(first.saturating_add(matrix.shard));
                                Ok(Piece { id: hash(&(&made_of, first, end), 16)?, first, end })
                            })
                            .collect::<Result<_>>()?;
                        cells.push(Cell {
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
        // Last: who finds it finds all.
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
            .map_err(|error| Error::user(format!("{} is no plan: {error}", file.display())))?;
        if plan.hotplug != env!("CARGO_PKG_VERSION") {
            let what = format!(
                "the plan was made by hotplug {}, this is {}: their trials would not be alike",
                plan.hotplug,
                env!("CARGO_PKG_VERSION")
            );
            return Err(Error::user(what).help("make the plan anew, or use the version that made it"));
        }
        Ok((plan, folder.to_owned()))
    }

    /// All pieces in their order, with the place of their cell.
    pub fn pieces(&self) -> impl Iterator<Item = (usize, &Piece)> {
        self.cells.iter().enumerate().flat_map(|(at, cell)| cell.pieces.iter().map(move |piece| (at, piece)))
    }

    /// The piece that `asked` means: its number from 0, as an array of jobs has it, or how its id begins.
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

    /// Kernels, each once.
    pub fn kernels(&self) -> Vec<&Kernel> {
        let mut all: Vec<&Kernel> = Vec::new();
        for cell in &self.cells {
            if !all.contains(&&cell.kernel) {
                all.push(&cell.kernel);
            }
        }
        all
    }
}

impl Kernel {
    /// Whether the sources here are those that the plan was made of. An error of the user's where they are not.
    pub async fn check_contents(&self, cache: &Cache, cancel: &CancellationToken) -> Result<()> {
        let source = Source::parse(&self.source)?;
        let here = pinned(source, [&self.before, &self.after], cache, cancel).await?;
        for ((name, content), planned) in here.iter().zip(&self.contents) {
            if content != planned {
                let what = format!("{name} is not what the plan was made of: {content}, not {planned}");
                return Err(Error::user(what).help("make the plan anew: hotplug plan"));
            }
        }
        Ok(())
    }
}

/// Files that a plan needs, by their names below its folder.
#[derive(Debug, Default)]
struct Inputs {
    files: std::collections::BTreeMap<PathBuf, Vec<u8>>,
}

impl Inputs {
    /// Takes in a file, named by what is in it.
    fn add(&mut self, file: &Path) -> Result<PathBuf> {
        let bytes = fs_err::read(file)
            .map_err(|error| Error::user(format!("cannot read what the matrix names: {error}")))?;
        let hash = blake3::hash(&bytes).to_hex();
        let name = plain(&file.file_name().unwrap_or_default().to_string_lossy());
        // A scenario's file gives it its name: a folder of its own keeps that.
        let path = Path::new("inputs").join(&hash[..16]).join(name);
        self.files.insert(path.clone(), bytes);
        Ok(path)
    }

    /// Takes in a file, or all of a folder of patches, in their order.
    fn patches(&mut self, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for path in paths {
            for file in crate::kernel::patch_files(path)? {
                all.push(self.add(&file)?);
            }
        }
        Ok(all)
    }

    /// Two kernels, their sources and revisions by names that stay, whatever branch moves on.
    async fn pair(
        &mut self,
        kernel: &MatrixKernel,
        cache: &Cache,
        cancel: &CancellationToken,
    ) -> Result<Kernel> {
        let source = kernel.source.as_deref().map_or(Ok(Source::Package { version: None }), Source::parse)?;
        let pinned = pinned(source, [&kernel.before, &kernel.after], cache, cancel).await?;
        let mut pair = Kernel {
            contents: pinned.iter().map(|(_, content)| content.clone()).collect(),
            patches: self.patches(&kernel.patches)?,
            base_patches: self.patches(&kernel.base_patches)?,
            ..Kernel::default()
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

/// The sources of a pair, by names that stay, and what names their contents: of both revisions, or of the one source.
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

/// What can be a file's name by itself: neither hidden, nor an option, nor empty.
fn plain(name: &str) -> String {
    let name = plain_name(name, 60);
    let name = name.trim_start_matches(['-', '.']);
    if name.is_empty() { "x".to_owned() } else { name.to_owned() }
}

//! The matrix file: kernels, configs, scenarios and seeds, each combined with each.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result};

/// A matrix file, such as `nightly.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// The name of the matrix.
    pub name: String,
    /// Trials a side of each combination.
    pub trials: u32,
    /// Trials a side of one shard.
    #[serde(default = "shard")]
    pub shard: u32,
    /// The seeds that the schedules are drawn from. Each seed is a combination of its own.
    #[serde(default = "seeds")]
    pub seeds: Vec<u64>,
    /// Scenario files.
    pub scenarios: Vec<PathBuf>,
    /// Pairs of kernels.
    pub kernel: Vec<MatrixKernel>,
    /// Configs, each combined with all pairs. Default: the harness's own config.
    #[serde(default = "configs")]
    pub config: Vec<MatrixConfig>,
    /// TOML file of known issues.
    #[serde(default)]
    pub known: Option<PathBuf>,
}

/// A pair of kernels.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixKernel {
    /// The name of the pair.
    pub name: String,
    /// The source, as for `--source`.
    #[serde(default)]
    pub source: Option<String>,
    /// Patches of the after kernel only.
    #[serde(default)]
    pub patches: Vec<PathBuf>,
    /// Patches of both kernels.
    #[serde(default)]
    pub base_patches: Vec<PathBuf>,
    /// The revision of the before kernel, instead of patches.
    #[serde(default)]
    pub before: Option<String>,
    /// The revision of the after kernel.
    #[serde(default)]
    pub after: Option<String>,
}

impl MatrixKernel {
    /// The fault of the table, and the help.
    fn wrong(&self) -> Option<(&'static str, &'static str)> {
        match (&self.before, &self.after) {
            (Some(_), None) => Some(("has `before`, but no `after`", "after = \"REVISION\"")),
            (None, Some(_)) => Some(("has `after`, but no `before`", "before = \"REVISION\"")),
            (Some(_), Some(_)) if !self.patches.is_empty() || !self.base_patches.is_empty() => Some((
                "has both patches and revisions",
                "use one of the two: commit the patches, or name a source that lacks only them",
            )),
            (Some(_), Some(_)) if self.source.is_none() => {
                Some(("has revisions, but no source", "source = \"PATH-OF-THE-REPOSITORY\""))
            }
            _ => None,
        }
    }
}

/// A config.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixConfig {
    /// The name of the config.
    pub name: String,
    /// Fragments over the harness's own config.
    #[serde(default)]
    pub fragments: Vec<PathBuf>,
}

fn shard() -> u32 {
    100
}

fn seeds() -> Vec<u64> {
    vec![1]
}

fn configs() -> Vec<MatrixConfig> {
    vec![MatrixConfig { name: "default".into(), fragments: Vec::new() }]
}

impl Matrix {
    /// Reads a matrix file. Paths in it are relative to its folder.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs_err::read_to_string(path).map_err(|error| {
            Error::user(format!("cannot read the matrix: {error}")).help("check the path")
        })?;
        let name = path.display();
        let mut this: Self = toml::from_str(&text)
            .map_err(|error| Error::user(format!("{name} does not parse")).detail(error))?;
        let empty = [
            ("seeds", this.seeds.is_empty()),
            ("scenarios", this.scenarios.is_empty()),
            ("kernel", this.kernel.is_empty()),
            ("config", this.config.is_empty()),
        ];
        if let Some((key, _)) = empty.iter().find(|(_, is)| *is) {
            return Err(
                Error::user(format!("{name}: {key} is empty")).help(format!("give at least one {key}"))
            );
        }
        for (key, value) in [("trials", this.trials), ("shard", this.shard)] {
            if value == 0 {
                return Err(Error::user(format!("{name}: {key} = 0"))
                    .help(format!("give 1 or more, such as {key} = 100")));
            }
        }
        for kernel in &this.kernel {
            if let Some((what, help)) = kernel.wrong() {
                let said = format!("{name}: [[kernel]] \"{}\" {what}", kernel.name);
                return Err(Error::user(said).help(help));
            }
        }
        twice(path, "kernel", this.kernel.iter().map(|one| &one.name))?;
        twice(path, "config", this.config.iter().map(|one| &one.name))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let here = |file: &mut PathBuf| *file = folder.join(&*file);
        this.scenarios.iter_mut().for_each(here);
        this.known.iter_mut().for_each(here);
        for kernel in &mut this.kernel {
            // The name of a package is not a path.
            if let Some(source) = &mut kernel.source
                && (!source.starts_with("linux-source") || source.contains('/'))
            {
                *source = folder.join(&*source).display().to_string();
            }
            kernel.patches.iter_mut().chain(&mut kernel.base_patches).for_each(here);
        }
        this.config.iter_mut().flat_map(|config| &mut config.fragments).for_each(here);
        Ok(this)
    }

    /// The number of combinations.
    pub fn combinations(&self) -> usize {
        self.kernel.len() * self.config.len() * self.scenarios.len() * self.seeds.len()
    }

    /// The number of trials of all combinations, both sides together.
    pub fn all_trials(&self) -> u64 {
        self.combinations() as u64 * u64::from(self.trials) * 2
    }
}

fn twice<'a>(file: &Path, key: &str, names: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::user(format!("{}: two of [[{key}]] are called \"{name}\"", file.display()))
                .help("give each a name of its own"));
        }
    }
    Ok(())
}

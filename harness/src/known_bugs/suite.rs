//! The entries of the suite and their files. The binary contains them; they can also be in a folder
//! with the layout of the project's repository.

use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use serde::{Deserialize, Serialize};

use super::card::{Card, Origin, SeriesPatches};
use crate::scenario::{Scenario, Timing};
use crate::{Error, Result};

/// The group that an entry is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Bugs that the kernel once had, or that a proposed patch would have introduced.
    Real,
    /// Bugs that were made for this suite.
    Planted,
    /// Kernels with no more bugs than the unmodified one.
    Clean,
}

/// The folder of the cards.
const CARDS: &str = "guest-images/patches/known-bugs";
const CONFIGS: &str = "guest-images/configs";
const SCENARIOS: &str = "scenarios";

/// The folders that the binary contains, with their paths in the repository.
static BUILT_IN: [(&str, Dir<'_>); 3] = [
    ("guest-images/patches", include_dir!("$CARGO_MANIFEST_DIR/../guest-images/patches")),
    (CONFIGS, include_dir!("$CARGO_MANIFEST_DIR/../guest-images/configs")),
    (SCENARIOS, include_dir!("$CARGO_MANIFEST_DIR/../scenarios")),
];

/// A known bug, or a patch that is known to add no bug.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The entry's name, which is that of its card.
    pub name: String,
    /// The entry's card.
    pub card: Card,
    /// The suite's folder.
    root: PathBuf,
}

/// All entries.
#[derive(Debug, Clone)]
pub struct Suite {
    entries: Vec<Entry>,
}

impl Suite {
    /// The suite that the binary contains. Its files are written below `folder`, where a run and
    /// its reader can read them.
    pub fn built_in(folder: &Path) -> Result<Self> {
        for (place, files) in &BUILT_IN {
            let to = folder.join(place);
            fs_err::create_dir_all(&to)?;
            files.extract(&to)?;
        }
        Self::read(folder)
    }

    /// Reads the suite below `root`, with cards, patches, configs and scenarios where the project's
    /// repository has them. Every file that an entry names must exist.
    pub fn read(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root)?;
        let cards = root.join(CARDS);
        let listed = fs_err::read_dir(&cards).map_err(|error| {
            Error::user(format!("there is no suite of known bugs: {error}"))
                .help(format!("name a folder that has {CARDS}/, as the project's repository has"))
        })?;
        let mut entries = Vec::new();
        for file in listed {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                entries.push(Entry::read(&root, &path)?);
            }
        }
        // Real bugs come first. Entries that share a config follow one another, and so do their
        // builds.
        entries.sort_by_key(|e: &Entry| (e.group(), e.card.wide, e.card.config.clone(), e.name.clone()));
        Ok(Self { entries })
    }

    /// All entries, real bugs first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries with these names, or all if there are no names. With `quick`, only those of the
    /// quick proof. With `real`, without names, only real bugs.
    pub fn choose(&self, names: &[String], quick: bool, real: bool) -> Result<Vec<&Entry>> {
        if let Some(unknown) = names.iter().find(|name| self.entries.iter().all(|entry| entry.name != **name))
        {
            let all: Vec<&str> = self.entries.iter().map(|entry| &*entry.name).collect();
            return Err(Error::user(format!("no known bug is called {unknown}"))
                .detail(format!("there are {}", all.join(", ")))
                .help("name some of these, or no entry to choose all"));
        }
        let wanted = |entry: &&Entry| {
            let is_among = if names.is_empty() {
                !real || entry.group() == Group::Real
            } else {
                names.contains(&entry.name)
            };
            is_among && (!quick || entry.card.quick)
        };
        let chosen: Vec<&Entry> = self.entries.iter().filter(wanted).collect();
        if chosen.is_empty() {
            return Err(Error::user("none of these belongs to the quick proof").help("leave --quick out"));
        }
        Ok(chosen)
    }
}

impl Entry {
    fn read(root: &Path, path: &Path) -> Result<Self> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let card = Card::parse(&name, &path.display(), &fs_err::read_to_string(path)?)?;
        let entry = Self { name, card, root: root.to_owned() };
        let patches = entry.card.on.keys().flat_map(|series| entry.patches(series));
        let files = patches.chain(entry.config());
        for file in files {
            if !file.is_file() {
                return Err(Error::user(format!("{}: there is no {}", path.display(), file.display())));
            }
        }
        for file in entry.scenarios() {
            let (scenario, _) = Scenario::read(&file)?;
            let timed = scenario.latency.iter().flat_map(Timing::metrics).map(|metric| metric.to_string());
            let timed: Vec<String> = timed.collect();
            let mut slower = entry.card.on.keys().flat_map(|series| entry.slower(series));
            if let Some(missing) = slower.find(|metric| !timed.contains(metric)) {
                return Err(Error::user(format!(
                    "{}: {} does not time {missing}",
                    path.display(),
                    scenario.name
                )));
            }
        }
        Ok(entry)
    }

    /// The group that the entry is counted in.
    pub fn group(&self) -> Group {
        match self.card.origin {
            Origin::Undoes { .. } | Origin::Proposed(_) => Group::Real,
            Origin::Plants(_) => Group::Planted,
            Origin::ChangesNothing(_) => Group::Clean,
        }
    }

    /// The entry's patch files for kernels of `series`, in order. Empty if it has no patch for
    /// them.
    pub fn patches(&self, series: &str) -> Vec<PathBuf> {
        match self.card.on.get(series) {
            Some(SeriesPatches::There { patches, .. }) => {
                patches.iter().map(|patch| self.root.join(CARDS).join(patch)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The metrics that must be slower on kernels of `series` for the entry to be found.
    fn slower(&self, series: &str) -> &[String] {
        match self.card.on.get(series) {
            Some(SeriesPatches::There { slower, .. }) => slower,
            _ => &[],
        }
    }

    /// Whether the entry is found by latency.
    pub fn is_timed(&self, series: &str) -> bool {
        !self.slower(series).is_empty()
    }

    /// The entry's config fragment.
    pub fn config(&self) -> Option<PathBuf> {
        self.card.config.as_ref().map(|file| self.root.join(CONFIGS).join(file))
    }

    /// The entry's scenario files.
    pub fn scenarios(&self) -> impl Iterator<Item = PathBuf> {
        self.card.scenarios.iter().map(|name| self.root.join(SCENARIOS).join(format!("{name}.toml")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_in_the_binary_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let suite = Suite::built_in(folder.path()).unwrap();
        assert!(!suite.choose(&[], true, false).unwrap().is_empty());
        // All entries are made for the kernel that the project was developed with.
        for entry in suite.entries() {
            assert!(matches!(entry.card.on.get("6.1"), Some(SeriesPatches::There { .. })), "{}", entry.name);
        }
        // A blind proof needs bugs that people merged or proposed.
        let real = suite.choose(&[], false, true).unwrap();
        assert!(real.iter().all(|entry| entry.group() == Group::Real) && real.len() >= 10);
    }

    #[test]
    fn an_unknown_name_is_told_with_those_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let suite = Suite::built_in(folder.path()).unwrap();
        let error = suite.choose(&["sed".into()], false, false).unwrap_err();
        assert!(error.to_string().starts_with("no known bug is called sed\n    there are "), "{error}");
        assert!(
            Suite::read(&folder.path().join("none"))
                .unwrap_err()
                .to_string()
                .contains("no suite of known bugs")
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        Suite::built_in(folder.path()).unwrap();
        let gone = folder
            .path()
            .join("guest-images/patches/seed/0001-mm-memory_hotplug-Don-t-take-the-cpu_hotplug_lock.patch");
        fs_err::remove_file(&gone).unwrap();
        let error = Suite::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(".toml: there is no") && error.contains("cpu_hotplug_lock.patch"), "{error}");
    }
}

//! `hotplug.toml`: options of a project, so that they need not be given each time. The command line
//! and the environment take precedence.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use serde::Deserialize;

use hotplug::kernel::Source;
use hotplug::{Error, Result};

/// The name of the file, in the folder in which hotplug was started or in one above it.
const FILE: &str = "hotplug.toml";

/// Commands that take a source as a comparison does. `bisect` takes a repository.
const COMPARING: [&str; 4] = ["compare", "race", "series", "build"];

/// The content of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    results: Option<PathBuf>,
    cache: Option<PathBuf>,
    known: Option<PathBuf>,
    source: Option<String>,
    base_patch: Vec<PathBuf>,
    config: Vec<PathBuf>,
    defconfig: Option<String>,
    make: Vec<String>,
    jobs: Option<u32>,
    workers: Option<u32>,
    accel: Option<String>,
    scenario: Vec<String>,
    trials: Option<u32>,
}

/// An option that the file sets.
#[derive(Debug)]
struct Setting {
    /// The option, without its dashes.
    name: &'static str,
    values: Vec<String>,
    /// The commands that it is for; all that have the option if there are none.
    commands: &'static [&'static str],
}

impl Setting {
    fn is_for(&self, command: &str) -> bool {
        self.commands.is_empty() || self.commands.contains(&command)
    }
}

/// The options that a file sets.
#[derive(Debug, Default)]
pub struct ConfigFile {
    path: PathBuf,
    settings: Vec<Setting>,
}

/// What the file set for this command, for the record of a run. It is set once, before the command
/// begins.
static SET: OnceLock<Vec<String>> = OnceLock::new();

/// What the file set for this command, such as `source = linux-source-6.12 (/x/hotplug.toml)`.
pub fn set() -> &'static [String] {
    SET.get().map_or(&[], Vec::as_slice)
}

impl ConfigFile {
    /// Finds and reads the file, from `here` upwards. Fails with a user error if it is malformed.
    pub fn find(here: &Path) -> Result<Self> {
        let Some(path) = here.ancestors().map(|folder| folder.join(FILE)).find(|file| file.is_file()) else {
            return Ok(Self::default());
        };
        let text = fs_err::read_to_string(&path)
            .map_err(|error| Error::user(format!("cannot read the configuration: {error}")))?;
        let settings: Settings = toml::from_str(&text).map_err(|error| {
            Error::user(format!("{} cannot be used", path.display()))
                .detail(error)
                .help("its keys are options without their dashes; docs/results.md lists them")
        })?;
        let folder = path.parent().unwrap_or(here).to_owned();
        Ok(Self { settings: settings.list(&folder), path })
    }

    /// Makes the settings the defaults of the options.
    pub fn apply(&self, command: Command) -> Command {
        let mut command = command;
        for setting in &self.settings {
            let is_for = setting.is_for(command.get_name());
            let has = command.get_arguments().any(|arg| arg.get_long() == Some(setting.name));
            if is_for && has {
                let id = id(setting.name);
                let values = setting.values.clone();
                command = command.mut_arg(id, |arg| arg.default_values(values));
            }
        }
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        for name in names {
            command = command.mut_subcommand(name, |sub| self.apply(sub));
        }
        command
    }

    /// Records which settings were in effect.
    pub fn record(&self, matches: &ArgMatches) {
        let (mut name, mut leaf) = ("", matches);
        while let Some((next, below)) = leaf.subcommand() {
            (name, leaf) = (next, below);
        }
        let is_set = |setting: &&Setting| {
            setting.is_for(name)
                && leaf.try_contains_id(&id(setting.name)).unwrap_or(false)
                && leaf.value_source(&id(setting.name)) == Some(ValueSource::DefaultValue)
        };
        let words = |setting: &Setting| {
            format!("{} = {} ({})", setting.name, setting.values.join(", "), self.path.display())
        };
        let _ = SET.set(self.settings.iter().filter(is_set).map(words).collect());
    }
}

/// The name of an option's field.
fn id(name: &str) -> String {
    name.replace('-', "_")
}

impl Settings {
    /// The settings, with paths that begin at the file's folder.
    fn list(self, folder: &Path) -> Vec<Setting> {
        let path = |path: PathBuf| folder.join(path).display().to_string();
        // A name of a scenario or of a target of make is no path.
        let named = |text: String| {
            let file = folder.join(&text);
            if file.exists() { file.display().to_string() } else { text }
        };
        let source = |text: String| match Source::parse(&text) {
            Ok(Source::Package { .. }) => text,
            _ => match text.rsplit_once('@') {
                Some((repo, revision)) if folder.join(repo).is_dir() => {
                    format!("{}@{revision}", folder.join(repo).display())
                }
                _ => named(text),
            },
        };
        let number = |number: Option<u32>| number.iter().map(ToString::to_string).collect();
        let all: [(&str, Vec<String>, &[&str]); 13] = [
            ("results", self.results.into_iter().map(path).collect(), &[]),
            ("cache", self.cache.into_iter().map(path).collect(), &[]),
            ("known", self.known.into_iter().map(path).collect(), &[]),
            ("source", self.source.into_iter().map(source).collect(), &COMPARING),
            ("base-patch", self.base_patch.into_iter().map(path).collect(), &COMPARING),
            ("config", self.config.into_iter().map(path).collect(), &COMPARING),
            ("defconfig", self.defconfig.into_iter().map(named).collect(), &COMPARING),
            ("make", self.make, &COMPARING),
            ("jobs", number(self.jobs), &[]),
            ("workers", number(self.workers), &[]),
            ("accel", self.accel.into_iter().collect(), &[]),
            ("scenario", self.scenario.into_iter().map(named).collect(), &["compare"]),
            ("trials", number(self.trials), &["compare"]),
        ];
        let some = all.into_iter().filter(|(_, values, _)| !values.is_empty());
        some.map(|(name, values, commands)| Setting { name, values, commands }).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::Cli;

    const TEXT: &str = "results = \"out\"\nsource = \"tree\"\nknown = \"known.toml\"\nscenario = [\"dimm-and-cpu\"]\n\
        trials = 3\nworkers = 1\n";

    fn parsed(folder: &Path, words: &[&str]) -> Cli {
        let config = ConfigFile::find(&folder.join("below/it")).unwrap();
        let matches = config.apply(Cli::command()).get_matches_from(words);
        Cli::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn it_is_found_upwards_and_the_command_line_takes_precedence() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs_err::create_dir_all(at.join("below/it")).unwrap();
        fs_err::create_dir_all(at.join("tree")).unwrap();
        fs_err::write(at.join(FILE), TEXT).unwrap();
        let crate::Command::Compare(compare) = parsed(at, &["hotplug", "compare", "x.patch"]).command else {
            panic!()
        };
        assert_eq!(compare.running.at.results, at.join("out"));
        assert_eq!(compare.pair.source, Some(at.join("tree").display().to_string()));
        assert_eq!((compare.scenario, compare.trials), (vec![PathBuf::from("dimm-and-cpu")], Some(3)));
        let words = ["hotplug", "compare", "--results", "r", "--scenario", "all", "--trials", "9"];
        let crate::Command::Compare(compare) = parsed(at, &words).command else { panic!() };
        assert_eq!(compare.running.at.results, Path::new("r"));
        assert_eq!((compare.scenario, compare.trials), (vec![PathBuf::from("all")], Some(9)));
        let words = ["hotplug", "bisect", "--good", "a", "--bad", "b", "--signature", "x"];
        let crate::Command::Bisect(bisect) = parsed(at, &words).command else { panic!() };
        assert_eq!((bisect.source, bisect.trials), (PathBuf::from("."), 300));
        assert_eq!(bisect.all.how.workers, Some(1));
        // A continued run has its own source.
        parsed(at, &["hotplug", "compare", "--continue", "last"]);
        let crate::Command::Report(report) = parsed(at, &["hotplug", "report", "last"]).command else {
            panic!()
        };
        assert_eq!(report.at.results, at.join("out"));
    }

    #[test]
    fn a_key_that_is_unknown_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join(FILE), "sauce = 1\n").unwrap();
        let error = ConfigFile::find(folder.path()).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("unknown field `sauce`"), "{error}");
    }
}

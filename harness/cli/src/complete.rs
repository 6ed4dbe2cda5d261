//! Completions that know the runs, trials, scenarios and known bugs. The shell's script calls this
//! binary (`clap_complete::env`), which looks at what is there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use hotplug::known_bugs::Suite;
use hotplug::record::read_run;
use hotplug::scenario::{BUILT_IN, Scenario};

use super::results;

/// The variable with which the shell's script calls this binary.
pub(super) const VARIABLE: &str = "COMPLETE";

/// The name of the newest run.
const LAST: &str = "last";

/// The most runs that are offered, the newest ones.
const RUNS: usize = 30;

/// The command line with completions of what its arguments name.
pub(super) fn with_candidates(command: Command) -> Command {
    command.mut_args(completed).mut_subcommands(with_candidates)
}

/// An argument with its completions, which the name of its value tells.
fn completed(arg: Arg) -> Arg {
    let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let completer = match (value.as_deref(), arg.get_long()) {
        (Some("RESULT"), _) => ArgValueCompleter::new(|current: &OsStr| named(current, runs, true)),
        (Some("RESULT/TRIAL" | "RESULT[/TRIAL]"), _) => {
            ArgValueCompleter::new(|current: &OsStr| named(current, || trials(current), true))
        }
        (Some("NAME|FILE"), None) | (_, Some("scenario")) => {
            ArgValueCompleter::new(|current: &OsStr| named(current, scenarios, true))
        }
        (Some("ENTRY"), _) => ArgValueCompleter::new(|current: &OsStr| named(current, entries, false)),
        _ => return arg,
    };
    arg.add(completer)
}

/// A name that can be completed, and what it is.
type Named = (String, String);

/// The names that begin with what was typed, and if `paths` the paths.
fn named(current: &OsStr, names: impl FnOnce() -> Vec<Named>, paths: bool) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy();
    let fits = |(name, _): &Named| name.starts_with(&*typed);
    let candidate = |(name, what): Named| CompletionCandidate::new(name).help(Some(what.into()));
    let mut all: Vec<_> = names().into_iter().filter(fits).map(candidate).collect();
    if paths {
        all.extend(PathCompleter::any().complete(current));
    }
    all
}

/// The folder of the results, of the line that is completed.
fn folder() -> PathBuf {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    results::in_words(&words)
}

fn runs() -> Vec<Named> {
    runs_in(&folder())
}

/// The runs, the newest first.
fn runs_in(results: &Path) -> Vec<Named> {
    let entries = std::fs::read_dir(results).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("run.json").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    // A name begins with the time of the run.
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.truncate(RUNS);
    let newest = (!names.is_empty()).then(|| (LAST.to_owned(), "the newest run".to_owned()));
    let what = |name: &String| match read_run(&results.join(name)) {
        Ok(run) if run.patches.is_empty() => run.scenario,
        Ok(run) => format!("{}: {}", run.scenario, run.patches.join(", ")),
        Err(_) => String::new(),
    };
    newest.into_iter().chain(names.into_iter().map(|name| (name.clone(), what(&name)))).collect()
}

/// The runs, and the trials of one whose name was typed with a slash.
fn trials(current: &OsStr) -> Vec<Named> {
    trials_in(&folder(), &current.to_string_lossy())
}

fn trials_in(results: &Path, typed: &str) -> Vec<Named> {
    let Some((run, _)) = typed.split_once('/') else {
        let all = runs_in(results).into_iter();
        return all
            .flat_map(|(name, what)| [(name.clone(), what.clone()), (format!("{name}/"), what)])
            .collect();
    };
    let Ok(found) = hotplug::record::find(Path::new(run), results) else { return Vec::new() };
    let entries = std::fs::read_dir(found.join("trials")).into_iter().flatten().flatten();
    let mut all: Vec<Named> = entries
        .filter(|entry| entry.path().join("trial.json").is_file())
        .map(|entry| (format!("{run}/trials/{}", entry.file_name().to_string_lossy()), String::new()))
        .collect();
    all.sort_unstable();
    all
}

fn scenarios() -> Vec<Named> {
    let about = |name: &str| Scenario::read(name.as_ref()).map(|(one, _)| one.about).unwrap_or_default();
    BUILT_IN.iter().map(|(name, _)| ((*name).to_owned(), about(name))).collect()
}

fn entries() -> Vec<Named> {
    let names = || -> hotplug::Result<Vec<Named>> {
        let folder = tempfile::tempdir()?;
        let suite = Suite::built_in(folder.path())?;
        Ok(suite.entries().iter().map(|entry| (entry.name.clone(), entry.card.about.clone())).collect())
    };
    names().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(of: &[CompletionCandidate]) -> Vec<String> {
        of.iter().map(|one| one.get_value().to_string_lossy().into_owned()).collect()
    }

    /// A folder of results with two runs, of which the newer has a trial.
    fn results() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let run = include_str!("../../../results/reference/run.json");
        for name in ["2026-01-01T00-00-00-old", "2026-01-02T00-00-00-new"] {
            std::fs::create_dir_all(home.path().join(name).join("trials/after-000")).unwrap();
            std::fs::write(home.path().join(name).join("run.json"), run).unwrap();
        }
        std::fs::create_dir(home.path().join("no-run")).unwrap();
        let trial = home.path().join("2026-01-02T00-00-00-new/trials/after-000/trial.json");
        std::fs::write(trial, "{}").unwrap();
        home
    }

    #[test]
    fn runs_are_offered_the_newest_first() {
        let home = results();
        let names: Vec<String> = runs_in(home.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["last", "2026-01-02T00-00-00-new", "2026-01-01T00-00-00-old"]);
        assert!(runs_in(home.path())[1].1.starts_with("portfolio: "), "{:?}", runs_in(home.path()));
        assert!(runs_in(&home.path().join("none")).is_empty());
        let trial = ("last/trials/after-000".to_owned(), String::new());
        assert_eq!(trials_in(home.path(), "last/t"), [trial]);
        assert!(trials_in(home.path(), "x/").is_empty());
    }

    #[test]
    fn scenarios_and_known_bugs_are_offered_by_their_beginning() {
        let found = named(OsStr::new("dimm-"), scenarios, false);
        assert_eq!(values(&found), ["dimm-and-cpu"]);
        assert!(values(&named(OsStr::new("seed"), entries, false)).contains(&"seed".to_owned()));
        assert!(named(OsStr::new("no-such"), entries, false).is_empty());
    }

    #[test]
    fn what_an_argument_names_tells_its_completions() {
        let has = |command: &str, arg: &str| {
            let all = crate::command();
            let found = all.find_subcommand(command).unwrap();
            let arg = found.get_arguments().find(|one| one.get_id() == arg).unwrap();
            arg.get::<ArgValueCompleter>().is_some()
        };
        assert!(has("open", "result") && has("replay", "recorded") && has("compare", "scenario"));
        assert!(has("prove", "entries") && has("compare", "resume") && !has("compare", "trials"));
    }
}

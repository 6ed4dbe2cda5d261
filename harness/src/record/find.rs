//! Finds a run by its folder, by the start of its name, or by `last`.

use std::path::{Component, Path, PathBuf};

use super::unfinished;
use crate::{Error, Result};

/// The name of the newest run.
const LAST: &str = "last";

/// The maximum number of candidates that an error lists.
const NAMED: usize = 5;

/// Resolves the path `asked`. An existing path is itself. Otherwise the first part of a relative
/// path is `last`, or the start of the name of exactly one run below `results`. The rest is a path
/// below that run, such as a trial's folder.
pub fn find(asked: &Path, results: &Path) -> Result<PathBuf> {
    let mut parts = asked.components();
    let (false, Some(Component::Normal(first))) = (asked.exists(), parts.next()) else {
        return Ok(asked.to_owned());
    };
    let first = first.to_string_lossy().into_owned();
    let mut runs = names(results);
    if first == LAST {
        // The newest comparison is not shown as an older one.
        if let Some(unfinished) = unfinished::read(results)? {
            return Err(unfinished.error());
        }
    } else {
        runs.retain(|name| name.starts_with(&first));
    }
    let none = |what: String| {
        let help = "name a folder, the start of its name below results/, or `last`";
        Err(Error::user(what).help(help))
    };
    match runs.as_slice() {
        [] if first == LAST => none(format!("there is no run below {}", results.display())),
        [] => none(format!(
            "there is no {}, and no run below {} whose name begins with it",
            asked.display(),
            results.display()
        )),
        [.., newest] if first == LAST => Ok(results.join(newest).join(parts)),
        [one] => Ok(results.join(one).join(parts)),
        several => {
            let more = if several.len() > NAMED { ", ..." } else { "" };
            let named = several.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            none(format!("{} runs have names that begin with {first}: {named}{more}", several.len()))
        }
    }
}

/// The runs below `results`, oldest first, because their names begin with their start time.
fn names(results: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(results).into_iter().flatten().filter_map(std::result::Result::ok);
    let runs = entries.filter(|entry| entry.path().join("run.json").is_file());
    let mut names: Vec<String> = runs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_comparison_without_a_folder_last_is_no_older_run() {
        let home = tempfile::tempdir().unwrap();
        let results = home.path().join("results");
        let command = ["hotplug".to_owned(), "compare".to_owned(), "x.patch".to_owned()];
        unfinished::begins(&results, &command).unwrap();
        assert!(!results.exists(), "a mistake leaves nothing behind");
        std::fs::create_dir_all(results.join("2026-11-26T10-00-00-seed")).unwrap();
        std::fs::write(results.join("2026-11-26T10-00-00-seed/run.json"), "{}").unwrap();
        let last = || find(Path::new("last"), &results);
        last().unwrap();
        unfinished::begins(&results, &command).unwrap();
        assert!(last().unwrap_err().to_string().contains("it has not begun its trials, or was killed"));
        unfinished::failed(&results, &Error::user("x does not apply")).unwrap();
        let error = last().unwrap_err();
        assert!(error.to_string().contains("has no result: x does not apply"), "{error}");
        assert!(find(Path::new("2026-11-26"), &results).is_ok());
        let run = crate::record::RunFolder::create(&results, "next").unwrap();
        std::fs::write(run.path().join("run.json"), "{}").unwrap();
        assert_eq!(last().unwrap(), run.path());
        // It failed later, and has a folder.
        unfinished::failed(&results, &Error::interrupted()).unwrap();
        assert_eq!(last().unwrap(), run.path());
    }

    #[test]
    fn a_run_is_found_by_its_begin_and_the_newest_by_last() {
        let home = tempfile::tempdir().unwrap();
        let results = home.path().join("results");
        for (name, is_run) in [
            ("2026-11-26T10-00-00-seed", true),
            ("2026-11-27T10-00-00-seed", true),
            ("2026-11-27T11-00-00-same", true),
            ("2026-11-28T10-00-00-prove", false),
        ] {
            std::fs::create_dir_all(results.join(name)).unwrap();
            if is_run {
                std::fs::write(results.join(name).join("run.json"), "{}").unwrap();
            }
        }
        let of = |asked: &str| find(Path::new(asked), &results);
        assert_eq!(of("last").unwrap(), results.join("2026-11-27T11-00-00-same"));
        assert_eq!(
            of("last/trials/after-003").unwrap(),
            results.join("2026-11-27T11-00-00-same/trials/after-003")
        );
        assert_eq!(of("2026-11-26").unwrap(), results.join("2026-11-26T10-00-00-seed"));
        let folder = results.join("2026-11-28T10-00-00-prove");
        assert_eq!(find(&folder, &results).unwrap(), folder);
        let missing = home.path().join("none");
        assert_eq!(find(&missing, &results).unwrap(), missing, "the caller reports it");
        let error = of("2026-11-27").unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(
            error.to_string().starts_with("2 runs have names that begin with 2026-11-27: 2026-11-27T10"),
            "{error}"
        );
        assert!(of("2025").unwrap_err().to_string().contains("no run below"), "{error}");
        let error = find(Path::new("last"), &missing).unwrap_err();
        assert!(error.to_string().starts_with("there is no run below"), "{error}");
    }
}

//! The folder of the results, and the runs in it by name.

use std::path::{Path, PathBuf};

use clap::Args;
use hotplug::Result;
use hotplug::record::find;

/// The environment variable with the folder of the results.
pub const VARIABLE: &str = "HOTPLUG_RESULTS";

/// The default folder.
pub const DEFAULT: &str = "results";

/// The option for the folder of the results, which every command has that reads or writes runs.
#[derive(Debug, Clone, Args)]
pub struct ResultsArgs {
    /// Folder of the results
    #[arg(long, value_name = "DIR", default_value = DEFAULT, env = VARIABLE, hide_env_values = true, global = true)]
    pub results: PathBuf,
}

impl ResultsArgs {
    /// The run, or the path below it, that `asked` names: a path, the beginning of a name in the
    /// folder, or `last`.
    pub(super) fn found(&self, asked: &Path) -> Result<PathBuf> {
        find(asked, &self.results)
    }
}

/// The folder of the results in a command line that cannot be parsed.
pub(super) fn in_words(words: &[String]) -> PathBuf {
    let after = |word: &String| word.strip_prefix("--results=").map(PathBuf::from);
    let next = || words.windows(2).find(|two| two[0] == "--results").map(|two| PathBuf::from(&two[1]));
    let given = words.iter().find_map(after).or_else(next);
    given.or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from)).unwrap_or_else(|| DEFAULT.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_found_in_a_line_with_mistakes() {
        let of = |line: &str| in_words(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("hotplug compare --bogus --results x"), Path::new("x"));
        assert_eq!(of("hotplug compare --results=y --bogus"), Path::new("y"));
    }
}

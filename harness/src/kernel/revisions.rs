//! The revisions of a repository between two revisions.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::command::{Tool, capture};
use crate::{Error, Result};

/// The revisions that are reachable from `bad` and not from `good`, as git prints them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revisions {
    /// The full name of the good revision.
    pub good: String,
    /// The other revisions, parents first, one per line: the full names of the revision and of its
    /// parents.
    pub list: String,
    /// The subject lines of all revisions, beginning with the good one.
    pub subjects: Vec<String>,
}

impl Revisions {
    /// Lists the revisions with git. Fails with a user error if a name is not a revision, if there
    /// is no revision between the two, or if `good` is not an ancestor of `bad`.
    pub async fn between(repo: &Path, good: &str, bad: &str, cancel: &CancellationToken) -> Result<Self> {
        let good = resolve(repo, good, cancel).await?;
        let bad = resolve(repo, bad, cancel).await?;
        // One git process lists all revisions: a release has fifteen thousand.
        let range = ["--topo-order", "--reverse", &bad, &format!("^{good}")];
        let said = log(repo, "%H %P%x09%s", &range, cancel).await?;
        let mut subjects = vec![log(repo, "%s", &["-1", &good], cancel).await?.trim().to_owned()];
        let mut list = String::new();
        for (revision, subject) in said.lines().filter_map(|line| line.split_once('\t')) {
            list.push_str(revision.trim_end());
            list.push('\n');
            subjects.push(subject.to_owned());
        }
        if list.trim().is_empty() {
            return Err(Error::user(format!("there is no revision in {bad} that is not in {good}"))
                .help("name the good revision before the bad one: --good v6.1.191 --bad v6.1.192"));
        }
        let descends = capture(git(repo).args(["merge-base", "--is-ancestor", &good, &bad]), cancel).await?;
        if !descends.good {
            return Err(Error::user(format!("{good} is not an ancestor of {bad}"))
                .help("try the commit that both descend from: git merge-base GOOD BAD"));
        }
        Ok(Self { good, list, subjects })
    }
}

/// git with the user's configuration, because the user may have marked the repository as trusted
/// there.
fn git(repo: &Path) -> Tool {
    Tool::new("git", repo).env("GIT_OPTIONAL_LOCKS", "0")
}

/// The full name of a revision. Fails with a user error if the repository does not have it.
pub async fn resolve(repo: &Path, name: &str, cancel: &CancellationToken) -> Result<String> {
    if !repo.is_dir() {
        return Err(Error::user(format!("there is no folder {}", repo.display()))
            .help("give the kernel's git repository: --source FOLDER"));
    }
    let asked = ["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")];
    let said = capture(git(repo).args(asked), cancel).await?.ok(|_| {
        Error::user(format!("{} has no revision {name}", repo.display()))
            .help("check it with: git log --oneline -1 REVISION")
    })?;
    Ok(text(&said).trim().to_owned())
}

async fn log(repo: &Path, format: &str, which: &[&str], cancel: &CancellationToken) -> Result<String> {
    let asked = ["log", "--no-show-signature", "--no-color", &format!("--format={format}")];
    let said = capture(git(repo).args(asked).args(which), cancel).await?;
    Ok(text(&said.ok(|said| Error::infrastructure(format!("git log: {said}")))?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

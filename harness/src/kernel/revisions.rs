//! The revisions of a repository between two.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::tool::{Tool, capture};
use crate::{Error, Result};

/// What git says of the revisions that `bad` contains and `good` does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revisions {
    /// The good one's full name.
    pub good: String,
    /// The others, a line each, parents first: its full name, and those of its parents.
    pub list: String,
}

impl Revisions {
    /// Asks git. An error of the user's where a name is none, or nothing lies between.
    pub async fn between(repo: &Path, good: &str, bad: &str, cancel: &CancellationToken) -> Result<Self> {
        let good = resolve(repo, good, cancel).await?;
        let bad = resolve(repo, bad, cancel).await?;
        let asked = ["rev-list", "--topo-order", "--reverse", "--parents", &bad, &format!("^{good}")];
        let said = capture(git(repo).args(asked), cancel).await?;
        let list = text(&said.ok(|said| Error::infrastructure(format!("git rev-list: {said}")))?);
        if list.trim().is_empty() {
            return Err(Error::user(format!("there is no revision in {bad} that is not in {good}"))
                .mend("name the good revision before the bad one: --good v6.1.191 --bad v6.1.192"));
        }
        let descends = capture(git(repo).args(["merge-base", "--is-ancestor", &good, &bad]), cancel).await?;
        if !descends.good {
            return Err(Error::user(format!("{good} is no ancestor of {bad}"))
                .mend("try the commit that both descend from: git merge-base GOOD BAD"));
        }
        Ok(Self { good, list })
    }
}

/// As the user has it: a repository may be trusted by the user's own configuration only.
fn git(repo: &Path) -> Tool {
    Tool::new("git", repo).env("GIT_OPTIONAL_LOCKS", "0")
}

/// A revision's full name.
pub async fn resolve(repo: &Path, name: &str, cancel: &CancellationToken) -> Result<String> {
    let asked = ["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")];
    let said = capture(git(repo).args(asked), cancel).await?.ok(|_| {
        Error::user(format!("{} has no revision {name}", repo.display()))
            .mend("check it with: git log --oneline -1 REVISION")
    })?;
    Ok(text(&said).trim().to_owned())
}

/// The first line of a revision's message.
pub async fn subject(repo: &Path, revision: &str, cancel: &CancellationToken) -> Result<String> {
    let asked = ["log", "-1", "--no-show-signature", "--format=%s", revision];
    let said = capture(git(repo).args(asked), cancel).await?;
    Ok(text(&said.ok(|said| Error::infrastructure(format!("git log: {said}")))?).trim().to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

//! What the words of a user mean: standard input and messages of a mailing list as patches, the
//! repository in which a command was started, `A..B`, one revision alone, and changes that are not
//! committed.

use std::cell::OnceCell;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::command::{Tool, capture};
use super::patch::{self, Patch};
use super::revisions::resolve;
use super::source::{Source, check_linux};
use super::spec::PairSpec;
use super::thread::Series;
use crate::{Error, Result};

/// What a command does with two kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It compares them, so they must differ.
    Compare,
    /// It takes what it gets: one kernel is enough.
    Any,
}

/// The part of a hash that is printed, as long as git's own (`core.abbrev` in Linux).
const SHORT: usize = 12;

/// Returns `spec` with plain files and revisions only, and the folder of new files, if there are
/// some. What was chosen for the user is added to its notes. The command was started in `here`.
///
/// Fails with a user error if something cannot be found, or if there is nothing to compare.
pub async fn understood(
    spec: PairSpec,
    wish: Wish,
    here: &Path,
    cancel: &CancellationToken,
) -> Result<(PairSpec, Option<TempDir>)> {
    let asked = Asked { here, scratch: OnceCell::new(), cancel };
    let spec = asked.range(spec).await?;
    let spec = asked.files(spec).await?;
    let spec = asked.repository(spec).await;
    let spec = asked.base_commit(spec).await?;
    let spec = asked.after_alone(spec).await?;
    let spec = if wish == Wish::Compare { asked.something(spec).await? } else { spec };
    Ok((spec, asked.scratch.into_inner()))
}

struct Asked<'a> {
    here: &'a Path,
    /// Created when it is needed, because a command that is killed leaves it behind.
    scratch: OnceCell<TempDir>,
    cancel: &'a CancellationToken,
}

impl Asked<'_> {
    /// The folder for new files.
    fn scratch(&self) -> Result<&Path> {
        if self.scratch.get().is_none() {
            let folder = tempfile::Builder::new().prefix("hotplug-").tempdir()?;
            let _ = self.scratch.set(folder);
        }
        self.scratch.get().map(TempDir::path).ok_or_else(|| Error::infrastructure("no folder for files"))
    }

    async fn git(&self, repo: &Path, words: &[&str]) -> Result<std::result::Result<String, String>> {
        let tool = Tool::new("git", repo).env("GIT_OPTIONAL_LOCKS", "0").args(words);
        let said = capture(tool, self.cancel).await?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(if said.good { Ok(text) } else { Err(said.stderr.trim().to_owned()) })
    }

    /// Splits a single argument `A..B` or `A...B` that is no file.
    async fn range(&self, mut spec: PairSpec) -> Result<PairSpec> {
        let [one] = spec.patches.as_slice() else { return Ok(spec) };
        let text = one.display().to_string();
        // `../x.patch` is a path, and `origin/main..HEAD` a range.
        let is_path = one.exists() || one.components().any(|part| !matches!(part, Component::Normal(_)));
        let Some((from, to)) = text.split_once("..").filter(|_| !is_path) else { return Ok(spec) };
        if spec.before.is_some() || spec.after.is_some() {
            return Err(Error::user(format!("{text} and --after are two changes")).help("give one of them"));
        }
        let head = |name: &str| if name.is_empty() { "HEAD".to_owned() } else { name.to_owned() };
        let (common, to) = to.strip_prefix('.').map_or((false, to), |to| (true, to));
        let (from, to) = (head(from), head(to));
        spec.patches.clear();
        spec = self.repository(spec).await;
        spec.before = Some(from.clone());
        if common {
            let repo = Self::repo_of(&spec, &text)?;
            let base = self.git(&repo, &["merge-base", "--", &from, &to]).await?;
            let base = base.map_err(|said| {
                Error::user(format!("{from} and {to} have no merge base in {}", repo.display())).detail(said)
            })?;
            spec.notes.push(format!("before: {}, the merge base of {from} and {to}", short(&base)));
            spec.before = Some(base.trim().to_owned());
        }
        spec.after = Some(to);
        Ok(spec)
    }

    /// Makes files of standard input and of messages.
    async fn files(&self, mut spec: PairSpec) -> Result<PairSpec> {
        for path in spec.base_patches.iter_mut().chain(&mut spec.patches) {
            let given = path.clone();
            let text = path.display().to_string();
            if text == "-" {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_to_end(&mut bytes)?;
                *path = self.scratch()?.join("stdin.mbox");
                fs_err::write(&*path, bytes)?;
            } else if !path.exists() && is_message(&text) {
                *path = self.fetch(&text).await?;
            }
            if *path != given {
                spec.given_as.insert(path.clone(), text);
            }
        }
        Ok(spec)
    }

    /// Fetches the thread of a message with b4, which knows where the archives are.
    async fn fetch(&self, message: &str) -> Result<PathBuf> {
        let folder = tempfile::Builder::new().prefix("thread-").tempdir_in(self.scratch()?)?.keep();
        let help =
            "save the thread as a file (its page on lore.kernel.org links to mbox.gz), and give the file";
        let tool = Tool::new("b4", &folder).args(["mbox", "-o"]).arg(&folder).arg("--").arg(message);
        let said = capture(tool, self.cancel).await.map_err(|error| {
            if error.kind() == crate::ErrorKind::Interrupted {
                return error;
            }
            Error::user(format!("{message} is no file, and b4, which could fetch it, cannot be run"))
                .detail(error)
                .help(format!("apt-get install b4, or {help}"))
        })?;
        let failed = |said: &str| {
            Error::user(format!("b4 cannot fetch {message}")).detail(last_lines(said)).help(help)
        };
        let spoken = said.stderr.clone();
        said.ok(failed)?;
        let mut files = fs_err::read_dir(&folder)?;
        // b4 ends with 0 also if it found nothing.
        files.next().ok_or_else(|| failed(&spoken)).and_then(|file| Ok(file?.path()))
    }

    /// In a kernel tree, that tree is the source.
    async fn repository(&self, mut spec: PairSpec) -> PairSpec {
        let is_needed = spec.source.is_none() && spec.given().iter().any(Option::is_none);
        if !is_needed {
            return spec;
        }
        let top = self.git(self.here, &["rev-parse", "--show-toplevel"]).await;
        let top = top.ok().and_then(std::result::Result::ok).map(|top| PathBuf::from(top.trim_end()));
        let found = [top, Some(self.here.to_owned())].into_iter().flatten();
        if let Some(tree) = found.into_iter().find(|tree| check_linux(tree, "").is_ok()) {
            let name = tree.display().to_string();
            spec.notes.push(format!("source: {name}, the tree in which hotplug was started"));
            spec.source = Some(name);
        }
        spec
    }

    /// The repository of the source.
    fn repo_of(spec: &PairSpec, change: &str) -> Result<PathBuf> {
        let source = spec.source.as_deref().map(Source::parse).transpose()?;
        match source {
            Some(Source::Directory(path) | Source::Git { repo: path, .. }) => Ok(path),
            other => {
                let name = other.map_or_else(|| "the default source".to_owned(), |other| other.to_string());
                Err(Error::user(format!("{name} has no revisions, but {change} was asked for"))
                    .help("start hotplug in a kernel tree, or give one: --source PATH"))
            }
        }
    }

    /// Takes the commit that the series was made for, where the source has it.
    async fn base_commit(&self, mut spec: PairSpec) -> Result<PairSpec> {
        if spec.patches.is_empty() || spec.before.is_some() || spec.after.is_some() {
            return Ok(spec);
        }
        let Series { trailers, .. } = patch::series(&spec.patches, self.cancel).await?;
        let Some(base) = trailers.base else { return Ok(spec) };
        let note = match spec.source.as_deref().map(Source::parse).transpose()? {
            Some(Source::Directory(repo)) => match resolve(&repo, &base, self.cancel).await {
                Ok(_) => {
                    let name = format!("{}@{base}", repo.display());
                    spec.source = Some(name);
                    format!("source: {}, the base-commit of the series", short(&base))
                }
                Err(error) if error.kind() == crate::ErrorKind::Interrupted => return Err(error),
                Err(_) => format!("{} lacks the base-commit of the series, {}", repo.display(), short(&base)),
            },
            Some(Source::Git { repo, revision }) => {
                let is_it = match resolve(&repo, &base, self.cancel).await {
                    Ok(name) => resolve(&repo, &revision, self.cancel).await? == name,
                    Err(_) => false,
                };
                if is_it {
                    return Ok(spec);
                }
                format!("the base-commit of the series is {}, not {revision}", short(&base))
            }
            _ => format!("the base-commit of the series is {}; this source has no revisions", short(&base)),
        };
        spec.notes.push(note);
        let below = patch::read(&spec.base_patches, self.cancel).await?;
        let missing = self.missing(&trailers.prerequisites, &below).await?;
        if missing > 0 {
            let all = trailers.prerequisites.len();
            spec.notes.push(format!(
                "{missing} of {all} prerequisite patches of the series are not among --base-patch"
            ));
        }
        Ok(spec)
    }

    /// The number of prerequisites that are not among these patches, by their patch ids.
    async fn missing(&self, prerequisites: &[String], below: &[Patch]) -> Result<usize> {
        let mut there = Vec::new();
        for patch in below {
            let file = self.scratch()?.join("prerequisite.diff");
            fs_err::write(&file, &patch.diff)?;
            let tool = Tool::new("git", self.scratch()?).args(["patch-id", "--stable"]);
            let said = capture(tool.stdin(fs_err::File::open(&file)?.into_parts().0), self.cancel).await?;
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            there.extend(said.split_whitespace().next().map(str::to_owned));
        }
        Ok(prerequisites.iter().filter(|wanted| !there.contains(wanted)).count())
    }

    /// The before side of a single revision: what its branch forked from, or its parent.
    async fn after_alone(&self, mut spec: PairSpec) -> Result<PairSpec> {
        let (None, Some(after)) = (&spec.before, spec.after.clone()) else { return Ok(spec) };
        // The other side is an image or a package.
        if spec.given()[0].is_some() {
            return Ok(spec);
        }
        if let Some(Source::Git { repo, revision }) = spec.source.as_deref().map(Source::parse).transpose()? {
            spec.source = Some(repo.display().to_string());
            spec.before = Some(revision);
            return Ok(spec);
        }
        let repo = Self::repo_of(&spec, &format!("--after {after}"))?;
        let name = resolve(&repo, &after, self.cancel).await?;
        let upstream = format!("{after}@{{upstream}}");
        for other in [upstream.as_str(), "HEAD"] {
            let Ok(other_name) = resolve(&repo, other, self.cancel).await else { continue };
            let Ok(base) = self.git(&repo, &["merge-base", &name, &other_name]).await? else { continue };
            let base = base.trim();
            if base != name {
                spec.notes.push(format!("before: {}, the merge base of {after} and {other}", short(base)));
                spec.before = Some(base.to_owned());
                return Ok(spec);
            }
        }
        let parent = resolve(&repo, &format!("{name}^"), self.cancel).await.map_err(|_| {
            Error::user(format!("{after} has no parent to compare it with")).help("give --before REV")
        })?;
        spec.notes.push(format!("before: {}, the parent of {after}", short(&parent)));
        spec.before = Some(parent);
        Ok(spec)
    }

    /// Without any change named, the changes of the tree that are not committed are compared.
    async fn something(&self, mut spec: PairSpec) -> Result<PairSpec> {
        let is_named =
            !spec.patches.is_empty() || spec.after.is_some() || spec.given().iter().any(Option::is_some);
        if let (Some(before), Some(after)) = (&spec.before, &spec.after)
            && before == after
        {
            return Err(Error::user(format!("both sides are {after}"))
                .help("give --same to compare a kernel with itself"));
        }
        if is_named {
            return Ok(spec);
        }
        let nothing = |detail: &str| {
            Error::user(format!("there is nothing to compare: {detail}")).help(
                "name a patch, two revisions (A..B, --after REV), or two kernels; --same compares one kernel with itself",
            )
        };
        let Some(Source::Directory(repo)) = spec.source.as_deref().map(Source::parse).transpose()? else {
            return Err(nothing("no patch, revision, image or package was given"));
        };
        // The user's configuration must not change the form of the diff.
        let words = [
            "diff",
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            "--full-index",
            "--binary",
            "HEAD",
        ];
        let Ok(diff) = self.git(&repo, &words).await? else {
            return Err(nothing(&format!("no patch was given, and {} is no git repository", repo.display())));
        };
        if diff.trim().is_empty() {
            return Err(nothing(&format!(
                "no patch was given, and all changes in {} are committed",
                repo.display()
            )));
        }
        let head = resolve(&repo, "HEAD", self.cancel).await?;
        let file = self.scratch()?.join("uncommitted.patch");
        fs_err::write(&file, diff)?;
        spec.given_as.insert(file.clone(), "uncommitted changes".to_owned());
        spec.patches.push(file);
        spec.notes.push(format!("after: the changes in {} that are not committed", repo.display()));
        let untracked = self.git(&repo, &["ls-files", "--others", "--exclude-standard"]).await?;
        let untracked = untracked.unwrap_or_default().lines().count();
        if untracked > 0 {
            spec.notes
                .push(format!("{untracked} untracked files are not compared; git add -N takes them in"));
        }
        spec.source = Some(format!("{}@{head}", repo.display()));
        Ok(spec)
    }
}

fn short(name: &str) -> &str {
    name.trim().get(..SHORT).unwrap_or(name.trim())
}

/// Whether a text is a message id, or a link to an archive of a mailing list.
fn is_message(text: &str) -> bool {
    let is_link = text.starts_with("https://") || text.starts_with("http://");
    let id = text.trim_start_matches('<').trim_end_matches('>');
    let is_id = id.split_once('@').is_some_and(|(local, domain)| {
        let plain = |part: &str| !part.is_empty() && !part.contains(['/', ' ', '@']);
        plain(local) && plain(domain)
    });
    is_link || is_id
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

#[cfg(test)]
#[path = "asked_tests.rs"]
mod tests;

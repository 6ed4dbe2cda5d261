//! Locates kernel sources and names their contents.

use std::fmt;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::release::Release;
use crate::{Error, Result};

use super::cache::Cache;
use super::command;
use super::manifest::{self, Manifest};
use super::revisions::resolve;

/// The folder in which Debian and Ubuntu install `linux-source-*`.
const PACKAGES: &str = "/usr/src";

/// The version of the default source: the one with which the harness was developed.
const REFERENCE: &str = "6.1";

/// A kernel source, as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The distribution's `linux-source-VERSION`.
    Package {
        /// The version in the package's name. `None` means 6.1 if it is installed, or else the
        /// newest installed version.
        version: Option<String>,
    },
    /// A tarball, such as those of kernel.org, or a Debian package that contains one.
    Tarball(PathBuf),
    /// A folder in its current state, including uncommitted changes.
    Directory(PathBuf),
    /// A revision of a git repository.
    Git {
        /// The repository's work tree, or a bare repository.
        repo: PathBuf,
        /// Any revision expression of git.
        revision: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package { version: Some(version) } => write!(f, "linux-source-{version}"),
            Self::Package { version: None } => f.write_str("linux-source"),
            Self::Tarball(path) | Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Git { repo, revision } => write!(f, "{}@{revision}", repo.display()),
        }
    }
}

impl Source {
    /// Returns the source. For a package without a version, the installed version is filled in.
    /// Fails with a user error if no version is installed.
    pub fn with_version(self) -> Result<Self> {
        match self {
            Self::Package { version: None } => {
                let (version, _) = package(Path::new(PACKAGES), None)?;
                Ok(Self::Package { version: Some(version) })
            }
            other => Ok(other),
        }
    }

    /// Another revision of the same repository. Fails with a user error if the source is not a
    /// folder or a repository.
    pub fn at(&self, revision: &str) -> Result<Self> {
        match self {
            Self::Directory(repo) | Self::Git { repo, .. } => {
                Ok(Self::Git { repo: repo.clone(), revision: revision.to_owned() })
            }
            other => Err(Error::user(format!("{other} has no revisions: it is not a git repository"))
                .help("give a git repository: --source PATH --before REV --after REV")),
        }
    }

    /// Returns the source with names that do not change their meaning: an absolute path, a
    /// package's version, a revision's full name. Also returns the name of its contents, which does
    /// not depend on their location.
    pub async fn pinned(self, cache: &Cache, cancel: &CancellationToken) -> Result<(Self, String)> {
        let absolute = |path: &Path| {
            fs_err::canonicalize(path).map_err(|error| Error::user(format!("no such source: {error}")))
        };
        let source = match self {
            Self::Package { .. } => self.with_version()?,
            Self::Tarball(path) => Self::Tarball(absolute(&path)?),
            Self::Directory(path) => Self::Directory(absolute(&path)?),
            Self::Git { repo, revision } => {
                let revision = resolve(&repo, &revision, cancel).await?;
                Self::Git { repo: absolute(&repo)?, revision }
            }
        };
        let content = locate(&source, cache, cancel).await?.content;
        Ok((source, content))
    }

    /// Parses `linux-source-6.1`, a tarball, a package (.deb), a folder, or `repository@revision`.
    pub fn parse(text: &str) -> Result<Self> {
        // A folder of this name is `./linux-source-6.1`.
        if text == "linux-source" {
            return Ok(Self::Package { version: None });
        }
        if let Some(version) = text.strip_prefix("linux-source-").filter(|rest| is_version(rest)) {
            return Ok(Self::Package { version: Some(version.to_owned()) });
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        if path.is_file() {
            return Ok(Self::Tarball(path.to_owned()));
        }
        if let Some((repo, revision)) = text.rsplit_once('@').filter(|(repo, _)| Path::new(repo).is_dir()) {
            return Ok(Self::Git { repo: repo.into(), revision: revision.to_owned() });
        }
        Err(Error::user(format!("no kernel source called {text}"))
            .help("give linux-source-6.1, a tarball, a package (.deb), a folder, or repository@revision"))
    }
}

/// A located source, with a name for its contents.
#[derive(Debug)]
pub(crate) struct Located {
    /// The user's name for the source.
    pub(crate) name: String,
    /// The name of the harness's copy. The states of one folder share a copy, and so do the
    /// revisions of one repository.
    pub(crate) tree: String,
    /// The name of the contents: a hash of the tarball or of the folder's files, or git's hash of
    /// the tree.
    pub(crate) content: String,
    /// The place from which the contents can be copied.
    pub(crate) origin: Origin,
}

#[derive(Debug)]
pub(crate) enum Origin {
    Tarball(PathBuf),
    Directory { path: PathBuf, manifest: Manifest },
    Git { git_dir: PathBuf, tree: String },
}

/// Locates `source`. Reads it if that is needed to name its contents, and changes nothing.
pub(crate) async fn locate(source: &Source, cache: &Cache, cancel: &CancellationToken) -> Result<Located> {
    let name = source.to_string();
    match source {
        Source::Package { version } => {
            let (version, path) = package(Path::new(PACKAGES), version.as_deref())?;
            // The name has the version even if the user gave none: `linux-source-6.1`.
            tarball(Source::Package { version: Some(version) }.to_string(), path).await
        }
        Source::Tarball(path) => tarball(name, path.clone()).await,
        Source::Directory(path) => directory(name, path, cache, cancel).await,
        Source::Git { repo, revision } => git(name, repo, revision, cancel).await,
    }
}

/// Whether a text is a kernel's version, such as `6.1` or `6.12-rc3`, and not the rest of a file's
/// name.
fn is_version(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-+~".contains(c);
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(plain)
        && !text.split('.').any(|part| ["tar", "deb"].contains(&part))
}

/// The version and tarball of a package.
fn package(folder: &Path, version: Option<&str>) -> Result<(String, PathBuf)> {
    let mut found: Vec<(Release, String, PathBuf)> = Vec::new();
    for entry in fs_err::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some((has, _)) = file.strip_prefix("linux-source-").and_then(|rest| rest.split_once(".tar"))
        else {
            continue;
        };
        found.push((Release::of(has), has.to_owned(), entry.path()));
    }
    found.sort();
    let named = |wanted: &str| found.iter().find(|(_, has, _)| has == wanted);
    let choice = match version {
        Some(version) => named(version),
        None => named(REFERENCE).or_else(|| found.last()),
    };
    choice.map(|(_, has, path)| (has.clone(), path.clone())).ok_or_else(|| {
        let wanted = version.unwrap_or(REFERENCE);
        let others: Vec<_> = found.iter().map(|(_, has, _)| format!("linux-source-{has}")).collect();
        let error = Error::user(format!("linux-source-{wanted} is not installed"));
        let error =
            if others.is_empty() { error } else { error.detail(format!("installed: {}", others.join(", "))) };
        error.help(format!("apt-get install linux-source-{wanted}"))
    })
}

async fn tarball(name: String, path: PathBuf) -> Result<Located> {
    let file = path.clone();
    let hash = blocking(move || {
        let mut hasher = blake3::Hasher::new();
        let open = fs_err::File::open(&file)
            .map_err(|error| Error::user(format!("cannot read the source: {error}")))?;
        hasher.update_reader(open)?;
        Ok(hasher.finalize())
    })
    .await?;
    let content = format!("tar-{}", &hash.to_hex()[..32]);
    Ok(Located { name, tree: content.clone(), content, origin: Origin::Tarball(path) })
}

async fn directory(name: String, path: &Path, cache: &Cache, cancel: &CancellationToken) -> Result<Located> {
    let path = fs_err::canonicalize(path).map_err(|error| Error::user(format!("no such source: {error}")))?;
    check_linux(&path, &name)?;
    let tree = format!("dir-{}", short_hash(path.as_os_str().as_encoded_bytes()));
    let files = manifest::files(&path, cancel).await?;
    let known = cache.trees().join(&tree).join(manifest::FILE);
    let (folder, stop) = (path.clone(), cancel.clone());
    let manifest = blocking(move || Manifest::scan(&folder, files, &Manifest::load(&known), &stop)).await?;
    Ok(Located { name, tree, content: manifest.content(), origin: Origin::Directory { path, manifest } })
}

async fn git(name: String, repo: &Path, revision: &str, cancel: &CancellationToken) -> Result<Located> {
    let ask = |args: &[&str]| {
        command::capture(command::Tool::new("git", repo).env("GIT_OPTIONAL_LOCKS", "0").args(args), cancel)
    };
    let line = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    let no_repo =
        |said: &str| Error::user(format!("{} is not a git repository", repo.display())).detail(said);
    let git_dir = ask(&["rev-parse", "--path-format=absolute", "--git-common-dir"]).await?.ok(no_repo)?;
    let git_dir = fs_err::canonicalize(line(git_dir))?;
    let wanted = format!("{revision}^{{tree}}");
    let tree = ask(&["rev-parse", "--verify", "--end-of-options", &wanted]).await?.ok(|_| {
        Error::user(format!("{} has no revision {revision}", repo.display()))
            .help("check it with `git log --oneline` there; a new revision may have to be fetched first")
    })?;
    let tree = line(tree);
    let found = ask(&["ls-tree", "--name-only", "--full-tree", &tree, "Kconfig", "Makefile"]).await?;
    if found.stdout.split(|&byte| byte == b'\n').filter(|name| !name.is_empty()).count() != 2 {
        return Err(no_linux(&name));
    }
    let ours = format!("git-{}", short_hash(git_dir.as_os_str().as_encoded_bytes()));
    Ok(Located { name, tree: ours, content: format!("git-{tree}"), origin: Origin::Git { git_dir, tree } })
}

/// Checks that `folder` holds a kernel source. Otherwise returns a user error.
pub(crate) fn check_linux(folder: &Path, name: &str) -> Result<()> {
    let makefile = fs_err::read(folder.join("Makefile")).unwrap_or_default();
    let has = |start: &[u8]| makefile.split(|&byte| byte == b'\n').any(|line| line.starts_with(start));
    if has(b"VERSION =") && has(b"PATCHLEVEL =") && folder.join("Kconfig").is_file() {
        return Ok(());
    }
    Err(no_linux(name))
}

fn no_linux(name: &str) -> Error {
    Error::user(format!("{name} holds no Linux source: it lacks the kernel's Makefile and Kconfig"))
        .help("give the top folder of a kernel source")
}

fn short_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::infrastructure(format!("a background task failed: {error}")))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_four_forms() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display().to_string();
        let file = folder.path().join("linux.tar");
        fs_err::write(&file, "").unwrap();
        let package = |version: Option<&str>| Source::Package { version: version.map(str::to_owned) };
        assert_eq!(Source::parse("linux-source-6.1").unwrap(), package(Some("6.1")));
        assert_eq!(Source::parse("linux-source").unwrap(), package(None));
        assert_eq!(Source::parse(&dir).unwrap(), Source::Directory(folder.path().into()));
        assert_eq!(Source::parse(file.to_str().unwrap()).unwrap(), Source::Tarball(file));
        let git = Source::Git { repo: folder.path().into(), revision: "v6.1~2".into() };
        assert_eq!(Source::parse(&format!("{dir}@v6.1~2")).unwrap(), git);
        assert_eq!(git.to_string(), format!("{dir}@v6.1~2"));
        assert_eq!(Source::parse("/no/such").unwrap_err().exit_status(), 2);
        // A folder of the name of a package does not take its place.
        assert!(is_version("6.1") && is_version("7.3-rc1"));
        assert!(!is_version("6.1/x") && !is_version("6.1.tar.xz") && !is_version("newest.deb"));
        assert!(!is_version("6.12_6.12.95-1_all.deb") && !is_version("6.1@v6.1"));
    }

    #[test]
    fn takes_the_reference_then_the_newest_package() {
        let folder = tempfile::tempdir().unwrap();
        let error = package(folder.path(), None).unwrap_err().to_string();
        assert!(error.ends_with("apt-get install linux-source-6.1"), "{error}");
        for name in ["linux-source-6.9.tar.xz", "linux-source-6.12.tar.xz", "linux-config-6.1"] {
            fs_err::write(folder.path().join(name), "").unwrap();
        }
        let newest = package(folder.path(), None).unwrap();
        assert_eq!(newest, ("6.12".to_owned(), folder.path().join("linux-source-6.12.tar.xz")));
        let error = package(folder.path(), Some("6.1")).unwrap_err().to_string();
        assert!(error.contains("installed: linux-source-6.9, linux-source-6.12"), "{error}");
        fs_err::write(folder.path().join("linux-source-6.1.tar.xz"), "").unwrap();
        assert_eq!(package(folder.path(), None).unwrap().0, "6.1");
    }

    #[test]
    fn a_folder_without_linux_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = check_linux(folder.path(), "x").unwrap_err().to_string();
        assert!(error.starts_with("x holds no Linux source"), "{error}");
    }
}

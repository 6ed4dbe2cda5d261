//! Brings the harness's copy of a source to given contents. It changes as few files as possible,
//! because make recompiles the dependents of every file with a new modification time.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::files::{remove_file, remove_tree};
use crate::{Error, Result, files};

use super::apply::Contents;
use super::cache::Cache;
use super::command::{self, Tool};
use super::deb;
use super::make::{Ended, Make};
use super::manifest::{self, Kind, Manifest};
use super::progress::BuildEvent;
use super::source::{self, Located, Origin, Source, blocking, check_linux};
use super::worktree::{Tree, WORK};

/// Brings `tree`'s source to the contents of `located`.
pub(crate) async fn sync(
    tree: &Tree,
    located: &Located,
    tell: &(dyn Fn(BuildEvent) + Sync),
    cancel: &CancellationToken,
) -> Result<()> {
    let has = tree.content();
    if has.as_ref() == Some(&located.content) {
        return Ok(());
    }
    if has.is_none() {
        // A run was killed while it changed the source, so the contents are unknown.
        remove_source(tree)?;
    }
    tree.set_content(None)?;
    if let Err(error) = change(tree, located, tell, cancel).await {
        // Half a source would only take room on a disk that may be full.
        remove_source(tree)?;
        return Err(error);
    }
    tree.set_content(Some(located.content.clone()))
}

/// Removes the source, and what was unpacked of it.
fn remove_source(tree: &Tree) -> Result<()> {
    for name in ["src", "index", manifest::FILE, WORK] {
        let path = tree.dir().join(name);
        if path.is_dir() { remove_tree(&path)? } else { remove_file(&path)? }
    }
    Ok(())
}

async fn change(
    tree: &Tree,
    located: &Located,
    tell: &(dyn Fn(BuildEvent) + Sync),
    cancel: &CancellationToken,
) -> Result<()> {
    match &located.origin {
        Origin::Tarball(tarball) => {
            tell(BuildEvent::Unpacking { from: tarball.clone() });
            unpack(tree, tarball, &located.name, cancel).await?;
        }
        Origin::Directory { path, manifest } => {
            tell(BuildEvent::Syncing { from: located.name.clone() });
            copy(tree, path, manifest, cancel).await?;
        }
        Origin::Git { git_dir, tree: hash } => {
            tell(BuildEvent::Syncing { from: located.name.clone() });
            check_out(tree, git_dir, hash, cancel).await?;
        }
    }
    Ok(())
}

/// The harness's copy of a source, without patches. It does not change while this value exists.
#[derive(Debug)]
pub(crate) struct SourceCopy {
    tree: Tree,
}

impl SourceCopy {
    /// Finds or makes the copy. Waits while another run builds in it.
    pub(crate) async fn of(source: &Source, cache: &Cache, cancel: &CancellationToken) -> Result<Self> {
        let located = source::locate(source, cache, cancel).await?;
        let tree = Tree::acquire(cache, &located.tree, |_| (), cancel).await?;
        sync(&tree, &located, &|_| (), cancel).await?;
        Ok(Self { tree })
    }

    /// Its folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.tree.source()
    }
}

async fn unpack(tree: &Tree, tarball: &Path, name: &str, cancel: &CancellationToken) -> Result<()> {
    let kept;
    let tarball = match packaged(tree, tarball, cancel).await? {
        Some(inner) => {
            kept = inner;
            &kept
        }
        None => tarball,
    };
    let folder = tree.work("unpack")?;
    // Debian's tarballs consist of several blocks, which xz can unpack in parallel (xz(1),
    // --threads). tar passes its environment to xz.
    let tar = Tool::new("tar", &folder).env("XZ_DEFAULTS", "--threads=0");
    let tar = tar.args(["--no-same-owner", "-xf"]).arg(fs_err::canonicalize(tarball)?);
    command::capture(tar, cancel).await?.ok(|said| {
        Error::user(format!("{} is not a tarball that tar can read", tarball.display()))
            .detail(said.lines().take(3).collect::<Vec<_>>().join("\n"))
            .help("give a kernel source: linux-source-6.1, a tarball, a folder, or repository@revision")
    })?;
    let mut top = Vec::new();
    for entry in fs_err::read_dir(&folder)? {
        top.push(entry?.path());
    }
    // Tarballs of distributions and kernel.org have one top folder. Those of git-archive may have
    // none.
    let source = match top.as_slice() {
        [one] if one.is_dir() => one,
        _ => &folder,
    };
    check_linux(source, name)?;
    remove_tree(&tree.source())?;
    fs_err::rename(source, tree.source())?;
    Ok(())
}

/// The tarball in a package such as Debian's `linux-source-6.12`. `None` if `file` is no package.
async fn packaged(tree: &Tree, file: &Path, cancel: &CancellationToken) -> Result<Option<PathBuf>> {
    if !deb::is_package(file)? {
        return Ok(None);
    }
    let no_source = |said: &str| {
        Error::user(format!("{} is not a package with a kernel source", file.display()))
            .detail(said.lines().take(3).collect::<Vec<_>>().join("\n"))
            .help("give a package such as linux-source-6.12, not one of a built kernel")
    };
    let folder = tree.work("package")?;
    deb::unpack(file, &folder, Some("./usr/src/linux-source-*.tar.*"), &no_source, cancel).await?;
    let inner = walkdir::WalkDir::new(folder.join("usr/src")).into_iter().flatten();
    let inner = inner.map(walkdir::DirEntry::into_path).find(|path| path.is_file());
    inner.map(Some).ok_or_else(|| no_source("it has no /usr/src/linux-source-*.tar.*"))
}

async fn copy(tree: &Tree, from: &Path, wanted: &Manifest, cancel: &CancellationToken) -> Result<()> {
    let record = tree.dir().join(manifest::FILE);
    let (to, stop) = (tree.source(), cancel.clone());
    let (source, files, has) = (from.to_owned(), wanted.clone(), Manifest::load(&record));
    tree.vary(differing(&files, &has).map(str::to_owned))?;
    let changed = blocking(move || copy_files(&source, &to, &files, &has, &stop)).await?;
    // Products of a build in the user's folder were copied as if they were source. They can be
    // removed from the copy.
    if changed && manifest::was_built_in(from) {
        let mut log = fs_err::File::create(tree.work("clean")?.join("log"))?.into_parts().0;
        let source = tree.source();
        let make = Make { source: &source, objects: None, variables: &[], lock: tree.lock(), jobs: 1 };
        match make.run(&["mrproper"], &mut log, |_| (), cancel).await? {
            Ended::Finished(status) if status.success() => {}
            Ended::Finished(_) => {
                return Err(Error::user(format!(
                    "{} has build products that cannot be removed from its copy",
                    from.display()
                ))
                .help(format!("make -C {} mrproper", from.display())));
            }
            Ended::Cancelled { .. } => return Err(Error::interrupted()),
        }
    }
    files::write_json_compact(&record, wanted)
}

/// The files in which `has` and `wanted` differ. Empty if `has` is empty, because a file that is
/// copied for the first time does not count as varying.
fn differing<'a>(wanted: &'a Manifest, has: &'a Manifest) -> impl Iterator<Item = &'a str> {
    let gone = has.files.keys().filter(|path| !wanted.files.contains_key(*path));
    let other = wanted.files.iter().filter(|(path, entry)| !has.holds(path, entry)).map(|(path, _)| path);
    gone.chain(other).filter(|_| !has.files.is_empty()).map(String::as_str)
}

/// Copies the files of `wanted` that differ from `has`, and removes the files that `wanted` lacks.
/// Returns whether any file changed.
fn copy_files(
    from: &Path,
    to: &Path,
    wanted: &Manifest,
    has: &Manifest,
    cancel: &CancellationToken,
) -> Result<bool> {
    fs_err::create_dir_all(to)?;
    let mut changed = false;
    for path in has.files.keys().filter(|path| !wanted.files.contains_key(*path)) {
        remove_file(&to.join(path))?;
        // Folders that are now empty are removed too, because `wanted` may have a file in their
        // place.
        let folders = Path::new(path).ancestors().skip(1).filter(|folder| *folder != Path::new(""));
        let _ = folders.map(|folder| std::fs::remove_dir(to.join(folder))).take_while(Result::is_ok).count();
        changed = true;
    }
    for (path, entry) in &wanted.files {
        if has.holds(path, entry) {
            continue;
        }
        if cancel.is_cancelled() {
            return Err(Error::interrupted());
        }
        let (source, file) = (from.join(path), to.join(path));
        let bytes = manifest::read(&source, entry.kind)?;
        if manifest::hash(&bytes) != entry.hash {
            return Err(Error::user(format!("{} changed while it was read", source.display()))
                .help("run the command again"));
        }
        if has.files.get(path).is_some_and(|old| old.kind == Kind::Link) || entry.kind == Kind::Link {
            remove_file(&file)?;
        }
        if entry.kind == Kind::Link {
            fs_err::create_dir_all(file.parent().unwrap_or(to))?;
            symlink(std::ffi::OsStr::from_bytes(&bytes), &file)?;
        } else {
            Contents { bytes, executable: entry.kind == Kind::Executable }.write(&file)?;
        }
        changed = true;
    }
    Ok(changed)
}

/// Checks out a tree with git, which writes only the files that differ between two revisions. The
/// index is the harness's own, and the repository is only read.
async fn check_out(tree: &Tree, git_dir: &Path, hash: &str, cancel: &CancellationToken) -> Result<()> {
    let source = tree.source();
    fs_err::create_dir_all(&source)?;
    let index = tree.dir().join("index");
    let git = || {
        Tool::new("git", &source)
            .env("GIT_INDEX_FILE", &index)
            .arg(format!("--git-dir={}", git_dir.display()))
            .arg(format!("--work-tree={}", source.display()))
            // These override user settings that would run programs, write to the repository, or
            // omit files.
            .args(["-c", "core.hooksPath=/dev/null"])
            .args(["-c", "core.fsmonitor=false"])
            .args(["-c", "core.sparseCheckout=false"])
            .args(["-c", "core.splitIndex=false"])
            .args(["-c", "core.autocrlf=false"])
    };
    if index.exists() {
        // The harness's index lists the files in the copy, whether or not the repository still has
        // that revision.
        let names = ["diff-index", "--cached", "-r", "-z", "--name-only", "--no-renames", hash];
        let said = command::capture(git().args(names), cancel).await?.ok(|said| {
            Error::user(format!("git cannot compare {hash} of {}", git_dir.display())).detail(said)
        })?;
        let paths = said.split(|&byte| byte == 0).filter(|path| !path.is_empty());
        tree.vary(paths.map(|path| String::from_utf8_lossy(path).into_owned()))?;
    }
    let git = git().args(["read-tree", "--reset", "-u", hash]);
    let said = command::capture(git, cancel).await?;
    said.ok(|said| {
        Error::user(format!("git cannot check out {hash} of {}", git_dir.display())).detail(said)
    })?;
    Ok(())
}

#[cfg(test)]
#[path = "checkout_tests.rs"]
mod tests;

//! Applies a patch series to a source and lists the files that change, with their new contents. The
//! source is only read.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

use super::command;
use super::patch::{FileDiff, Hunk, Patch};

/// Number of source lines shown before and after the place of a hunk that does not apply.
const CONTEXT: usize = 3;

/// The difference between a source and the same source with a patch series applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Overlay {
    pub(crate) changes: Vec<Change>,
}

/// One file of an [`Overlay`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The path relative to the source.
    pub(crate) path: String,
    /// The new contents. `None` means that the file is deleted.
    pub(crate) now: Option<Contents>,
}

/// A file's bytes and whether it is executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) bytes: Vec<u8>,
    pub(crate) executable: bool,
}

impl Contents {
    /// Reads `file`. Returns `None` if it does not exist.
    pub(crate) fn read(file: &Path) -> Result<Option<Self>> {
        let meta = match fs_err::symlink_metadata(file) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !meta.is_file() {
            return Err(Error::user(format!(
                "the patch changes {}, which is not a regular file",
                file.display()
            )));
        }
        let executable = meta.permissions().mode() & 0o100 != 0;
        Ok(Some(Self { bytes: fs_err::read(file)?, executable }))
    }

    /// Writes the contents to `file` in place. The file's modification time becomes the current
    /// time, so that make recompiles its dependents.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs_err::create_dir_all(folder)?;
        }
        fs_err::write(file, &self.bytes)?;
        let mode = if self.executable { 0o755 } else { 0o644 };
        fs_err::set_permissions(file, std::fs::Permissions::from_mode(mode))?;
        Ok(())
    }
}

/// Applies `patches` in order to copies of the files of `source`, in the empty folder `scratch`.
pub(crate) async fn overlay(
    patches: &[Patch],
    source: &Path,
    scratch: &Path,
    cancel: &CancellationToken,
) -> Result<Overlay> {
    let work = scratch.join("work");
    fs_err::create_dir_all(&work)?;
    let mut touched: Vec<&String> = Vec::new();
    for patch in patches {
        for path in patch.files.iter().flat_map(|file| &file.paths) {
            if !touched.contains(&path) {
                touched.push(path);
                if let Some(contents) = Contents::read(&source.join(path))? {
                    contents.write(&work.join(path))?;
                }
            }
        }
        apply_one(patch, &work, scratch, cancel).await?;
    }
    let mut changes = Vec::new();
    for path in touched {
        let now = Contents::read(&work.join(path))?;
        if now != Contents::read(&source.join(path))? {
            changes.push(Change { path: path.clone(), now });
        }
    }
    Ok(Overlay { changes })
}

async fn apply_one(patch: &Patch, work: &Path, scratch: &Path, cancel: &CancellationToken) -> Result<()> {
    let file = scratch.join("diff");
    fs_err::write(&file, &patch.diff)?;
    // This is as strict as `git am`: a hunk may apply at an offset, but not with fuzz.
    let apply = command::git(work).args(["apply", "--whitespace=nowarn"]).arg(&file);
    let said = command::capture(apply, cancel).await?;
    if said.good {
        return Ok(());
    }
    if said.stderr.contains("No space left on device") {
        return Err(command::disk_full(said.stderr.trim()));
    }
    let backwards = command::git(work).args(["apply", "--check", "--reverse"]).arg(&file);
    let already = command::capture(backwards, cancel).await?.good;
    Err(does_not_apply(patch, work, &said.stderr, already).of_patch(&patch.name))
}

/// Makes the error for a patch that does not apply. git prints `error: patch failed: FILE:LINE`, or
/// the name of a missing file.
fn does_not_apply(patch: &Patch, work: &Path, said: &str, already: bool) -> Error {
    let help = if already {
        "this source already has the patch"
    } else {
        "rebase the patch onto this source, or give the source it was made for (--source)"
    };
    let failed = said.lines().find_map(|line| {
        let (file, line) = line.strip_prefix("error: patch failed: ")?.rsplit_once(':')?;
        Some((file, line.parse::<usize>().ok()?))
    });
    let hunk = failed.and_then(|(name, line)| {
        let file = patch.files.iter().find(|file| file.paths.iter().any(|known| known == name))?;
        Some((name, line, file.hunks.iter().find(|hunk| hunk.line == line)?))
    });
    if let Some((name, line, hunk)) = hunk {
        let there = std::fs::read_to_string(work.join(name)).unwrap_or_default();
        let detail = format!("{}\n\n{}", hunk.text, what_is_there(&there, hunk));
        return Error::user(format!("{} does not apply at {name}:{line}", patch.name))
            .detail(detail)
            .help(help);
    }
    let missing = |file: &&FileDiff| file.paths.first().is_some_and(|path| !work.join(path).exists());
    match patch.files.iter().find(missing).and_then(|file| file.paths.first()) {
        Some(gone) => Error::user(format!("{} does not apply: this source has no {gone}", patch.name))
            .help("is it for another version? Its paths need one leading component, as in a/mm/memory.c"),
        None => Error::user(format!("{} does not apply", patch.name)).detail(said.trim()).help(help),
    }
}

/// The source's lines at the place of the hunk. The first old line of the hunk that has more than 6
/// characters and occurs in the source gives the place. If it occurs several times, the occurrence
/// nearest to the hunk's line number counts. If no such line occurs, the hunk's line number is the
/// place.
fn what_is_there(source: &str, hunk: &Hunk) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let old = hunk.text.lines().skip(1).filter(|line| !line.starts_with(['+', '\\']));
    let old: Vec<&str> = old.map(|line| line.get(1..).unwrap_or_default()).collect();
    let named = hunk.line.saturating_sub(1);
    let nearest = |text: &str| {
        let places = lines.iter().enumerate().filter(|(_, line)| **line == text).map(|(at, _)| at);
        places.min_by_key(|at| at.abs_diff(named))
    };
    let weighty = |line: &&(usize, &str)| line.1.trim().len() > 6;
    let found = old.iter().copied().enumerate().collect::<Vec<_>>();
    let start = found
        .iter()
        .filter(weighty)
        .find_map(|(offset, text)| nearest(text).map(|at| at.saturating_sub(*offset)))
        .unwrap_or(named)
        .min(lines.len());
    let from = start.saturating_sub(CONTEXT);
    let to = (start + old.len() + CONTEXT).min(lines.len());
    let mut text = String::from("the source at this place:");
    for (index, line) in lines.iter().enumerate().take(to).skip(from) {
        let _ = write!(text, "\n{:>5}  {line}", index + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::patch;

    const SOURCE: &str = "void f(void)\n{\n\tlock_everything();\n\twork();\n\tunlock_everything();\n}\n";

    async fn run(diffs: &[&str]) -> Result<Overlay> {
        let folder = tempfile::tempdir().unwrap();
        let (source, scratch) = (folder.path().join("src"), folder.path().join("scratch"));
        fs_err::create_dir_all(source.join("mm")).unwrap();
        fs_err::create_dir_all(&scratch).unwrap();
        fs_err::write(source.join("mm/f.c"), SOURCE).unwrap();
        let parse =
            |(at, text): (usize, &&str)| patch::parse(&format!("p{at}"), None, text).unwrap().unwrap();
        let patches: Vec<_> = diffs.iter().enumerate().map(parse).collect();
        let result = overlay(&patches, &source, &scratch, &CancellationToken::new()).await;
        assert_eq!(fs_err::read_to_string(source.join("mm/f.c")).unwrap(), SOURCE);
        result
    }

    const GOOD: &str =
        "--- a/mm/f.c\n+++ b/mm/f.c\n@@ -2,3 +2,3 @@\n {\n-\tlock_everything();\n+\tlock();\n \twork();\n";
    const NEXT: &str = "--- a/mm/f.c\n+++ b/mm/f.c\n@@ -2,3 +2,2 @@\n {\n-\tlock();\n \twork();\n";
    const NEW: &str = "diff --git a/mm/n.c b/mm/n.c\nnew file mode 100755\n--- /dev/null\n+++ b/mm/n.c\n@@ -0,0 +1 @@\n+x\n";
    const GONE: &str =
        "diff --git a/mm/f.c b/mm/g.c\nsimilarity index 100%\nrename from mm/f.c\nrename to mm/g.c\n";

    #[tokio::test]
    async fn applies_a_series_in_order() {
        let overlay = run(&[GOOD, NEXT, NEW]).await.unwrap();
        let text = |at: usize| String::from_utf8(overlay.changes[at].now.clone().unwrap().bytes).unwrap();
        assert_eq!(text(0), "void f(void)\n{\n\twork();\n\tunlock_everything();\n}\n");
        assert_eq!(text(1), "x\n");
        assert!(overlay.changes[1].now.as_ref().unwrap().executable);
    }

    #[tokio::test]
    async fn follows_a_rename() {
        let overlay = run(&[GONE]).await.unwrap();
        assert_eq!(overlay.changes[0], Change { path: "mm/f.c".into(), now: None });
        assert!(overlay.changes[1].now.is_some());
    }

    #[tokio::test]
    async fn shows_the_hunk_and_what_is_there() {
        let error = run(&[GOOD, GOOD]).await.unwrap_err();
        assert_eq!(error.exit_status(), 2);
        insta::assert_snapshot!(error.to_string().replace('\t', "        "));
    }

    #[tokio::test]
    async fn names_a_missing_file_and_applies_a_revert() {
        let elsewhere = GOOD.replace("mm/f.c", "mm/none.c");
        let error = run(&[&elsewhere]).await.unwrap_err();
        assert!(error.to_string().starts_with("p0 does not apply: this source has no mm/none.c"), "{error}");
        let back = "--- a/mm/f.c\n+++ b/mm/f.c\n@@ -2,3 +2,3 @@\n {\n-\tlock();\n+\tlock_everything();\n \twork();\n";
        // Compared with the patch alone, the pair differs.
        assert_eq!(run(&[GOOD, back]).await.unwrap(), Overlay::default());
    }
}

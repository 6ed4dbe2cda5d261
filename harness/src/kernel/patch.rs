//! Reads patches from a plain diff, a mail of `git format-patch`, an mbox, or a folder of these. Each
//! file may be packed with gzip, xz or zstd.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::{Error, Result, unpack};

use super::thread::{Container, Series, choose};
use super::{mbox, odd};

/// One diff of a series, without its mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patch {
    /// The name of the patch's file, with the number of the mail if the file has several.
    pub(crate) name: String,
    /// The subject of the patch's mail.
    pub(crate) subject: Option<String>,
    /// The diff, beginning at the first line of the first file's header.
    pub(crate) diff: String,
    /// The changes to each file.
    pub(crate) files: Vec<FileDiff>,
}

/// The changes of a diff to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileDiff {
    /// The touched paths: one, or two for a rename. They are relative to the source, without `a/`
    /// and `b/`.
    pub(crate) paths: Vec<String>,
    /// The hunks, in order.
    pub(crate) hunks: Vec<Hunk>,
}

/// One hunk of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hunk {
    /// The line number in the old file that the hunk's header gives, from 1.
    pub(crate) line: usize,
    /// The hunk's text, with its header.
    pub(crate) text: String,
}

/// Reads the patches in `paths`, which are files and folders, in order.
pub(crate) async fn read(paths: &[PathBuf], cancel: &CancellationToken) -> Result<Vec<Patch>> {
    Ok(series(paths, cancel).await?.patches)
}

/// The same, with what was left out of their mails and what they say about their source.
pub(crate) async fn series(paths: &[PathBuf], cancel: &CancellationToken) -> Result<Series> {
    let mut all = Series::default();
    for path in paths {
        let mut mails = Vec::new();
        for file in files(path)? {
            mails.extend(read_file(&file, cancel).await?);
        }
        let from = if path.is_dir() { Container::Folder } else { Container::File };
        let found = choose(mails, from, &path.display().to_string())?;
        if found.patches.is_empty() {
            let error = Error::user(format!("no diff in {}", path.display()));
            let error = if found.notes.is_empty() { error } else { error.detail(found.notes.join("\n")) };
            return Err(
                error.help("give a diff, a mail from `git format-patch`, an mbox, or a folder of them")
            );
        }
        all.patches.extend(found.patches);
        all.notes.extend(found.notes);
        all.reply_to = all.reply_to.or(found.reply_to);
        all.trailers = all.trailers.or(&found.trailers);
    }
    Ok(all)
}

/// The diffs of the patches in `paths`, in order, without their mails.
pub(crate) async fn diffs(paths: &[PathBuf], cancel: &CancellationToken) -> Result<Vec<String>> {
    Ok(read(paths, cancel).await?.into_iter().map(|patch| patch.diff).collect())
}

/// The files that the patches in `paths` change, without those that no kernel is built from.
pub(crate) async fn changed_files(paths: &[PathBuf], cancel: &CancellationToken) -> Result<Vec<String>> {
    let files = read(paths, cancel).await?.into_iter().flat_map(|patch| patch.files);
    let mut all: Vec<String> =
        files.flat_map(|file| file.paths).filter(|path| !odd::is_not_built(path)).collect();
    all.sort();
    all.dedup();
    Ok(all)
}

/// One patch of a series, in its own file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single {
    /// The path of the file.
    pub file: PathBuf,
    /// The subject of the patch's mail without `[PATCH 1/3]`, or the name of the patch's original
    /// file.
    pub subject: String,
}

/// Writes each patch in `paths` (files, mboxes and folders) to its own file in `folder`. The files
/// are numbered in the order of the patches.
pub async fn split(paths: &[PathBuf], folder: &Path, cancel: &CancellationToken) -> Result<Vec<Single>> {
    let patches = read(paths, cancel).await?;
    fs_err::create_dir_all(folder)?;
    let mut all = Vec::new();
    for (index, patch) in patches.into_iter().enumerate() {
        let stem = Path::new(&patch.name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let subject = patch.subject.as_deref().map(bare).or(stem).unwrap_or_default();
        let file = folder.join(format!("{:04}-{}.patch", index + 1, file_name(&subject)));
        fs_err::write(&file, &patch.diff)?;
        all.push(Single { file, subject });
    }
    Ok(all)
}

/// A mail's subject without its leading `[PATCH]` or `[RFC]` tags.
pub(super) fn bare(subject: &str) -> String {
    let mut rest = subject.trim();
    while let Some((tag, after)) = rest.strip_prefix('[').and_then(|tag| tag.split_once(']')) {
        if !tag.contains("PATCH") && !tag.contains("RFC") {
            break;
        }
        rest = after.trim_start();
    }
    rest.to_owned()
}

/// A file name made of a subject, in the way of `git format-patch`.
fn file_name(subject: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let mut name: String = subject.chars().map(plain).collect();
    while name.contains("--") {
        name = name.replace("--", "-");
    }
    name.truncate(52);
    name.trim_matches('-').to_owned()
}

/// The patch files at `path`: the file itself, or the patches of a folder in the order of their
/// names.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let no_such = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::user(format!("no such patch: {}", path.display()))
            .help("check the path; it is relative to the folder in which hotplug was started"),
        _ => Error::user(format!("cannot read the patch {}: {error}", path.display())),
    };
    if !fs_err::metadata(path).map_err(no_such)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs_err::read_dir(path)? {
        let file = entry?.path();
        let known = file.extension().is_some_and(|end| {
            ["patch", "diff", "mbox", "mbx", "eml"].iter().any(|known| end.eq_ignore_ascii_case(known))
        });
        if known && file.is_file() {
            files.push(file);
        }
    }
    // format-patch numbers its files so that their names sort in the order of the series.
    files.sort();
    Ok(files)
}

async fn read_file(file: &Path, cancel: &CancellationToken) -> Result<Vec<mbox::Mail>> {
    let cannot =
        |error: std::io::Error| Error::user(format!("cannot read the patch {}: {error}", file.display()));
    let bytes = std::fs::read(file).and_then(|packed| unpack::unpack(&packed)).map_err(cannot)?;
    mbox::read(file, &bytes, cancel).await
}

/// Parses the structure of a diff. Returns `None` if the text has no diff, such as a cover letter.
pub(crate) fn parse(name: &str, subject: Option<String>, text: &str) -> Result<Option<Patch>> {
    let text = odd::plain(text).map_err(|binary| {
        Error::user(format!("{name} changes the binary file {binary}, but has not its content"))
            .help("create it again with `git format-patch --binary`, or remove that part")
    })?;
    let lines: Vec<&str> = text.lines().collect();
    let mut files: Vec<FileDiff> = Vec::new();
    let mut start = None;
    // Whether the last file was started by a `diff --git` line, so that the next ---/+++ lines
    // belong to it.
    let mut in_git_header = false;
    let mut at = 0;
    while let Some(&line) = lines.get(at) {
        let next = lines.get(at + 1).copied().unwrap_or_default();
        if line.starts_with("diff --git ") {
            start.get_or_insert(at);
            files.push(FileDiff { paths: Vec::new(), hunks: Vec::new() });
            in_git_header = true;
        } else if let (Some(old), Some(new)) = (line.strip_prefix("--- "), next.strip_prefix("+++ ")) {
            start.get_or_insert(at);
            if !in_git_header {
                files.push(FileDiff { paths: Vec::new(), hunks: Vec::new() });
            }
            in_git_header = false;
            if let Some(file) = files.last_mut() {
                file.touch(header_path(old));
                file.touch(header_path(new));
            }
            at += 1;
        } else if let Some(path) = extended_path(line).filter(|_| in_git_header) {
            if let Some(file) = files.last_mut() {
                file.touch(Some(path));
            }
        } else if let Some((file, (line_number, old, new))) = files.last_mut().zip(hunk_header(line)) {
            let end = hunk_end(&lines, at + 1, old, new).ok_or_else(|| cut_short(name, line))?;
            file.hunks.push(Hunk { line: line_number, text: lines[at..end].join("\n") });
            at = end;
            continue;
        }
        at += 1;
    }
    // A file with only a `diff --git` line has a new mode or is empty. Its two names are the same.
    for (file, line) in files.iter_mut().zip(lines.iter().filter(|line| line.starts_with("diff --git "))) {
        if file.paths.is_empty() {
            file.touch(line.rsplit_once(" b/").map(|(_, path)| path.to_owned()));
        }
    }
    files.retain(|file| !file.paths.is_empty());
    if let Some(path) = files.iter().flat_map(|file| &file.paths).find(|path| !stays_inside(path)) {
        return Err(Error::user(format!("{name} changes {path}, which is outside the source")));
    }
    let Some(start) = start.filter(|_| !files.is_empty()) else { return Ok(None) };
    let mut diff = lines[start..].join("\n");
    diff.push('\n');
    Ok(Some(Patch { name: name.to_owned(), subject, diff, files }))
}

impl FileDiff {
    fn touch(&mut self, path: Option<String>) {
        self.paths.extend(path.filter(|path| !self.paths.contains(path)));
    }
}

fn cut_short(name: &str, header: &str) -> Error {
    Error::user(format!("{name} is damaged: the hunk that starts with `{header}` is cut short"))
        .help("a mail program may have wrapped or trimmed it; save the raw mail, or create it again with `git format-patch`")
}

/// The path in a `---` or `+++` line. `None` for /dev/null.
fn header_path(text: &str) -> Option<String> {
    // `diff -u` writes a tab and a time after the name.
    let path = text.split('\t').next().unwrap_or(text).trim();
    if path == "/dev/null" {
        return None;
    }
    path.split_once('/').map(|(_, rest)| rest.to_owned()).or_else(|| Some(path.to_owned()))
}

fn extended_path(line: &str) -> Option<String> {
    ["rename from ", "rename to ", "copy from ", "copy to "]
        .iter()
        .find_map(|start| line.strip_prefix(start))
        .map(str::to_owned)
}

fn stays_inside(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Parses `@@ -line,old +line,new @@`. Returns the line in the old file, and the numbers of old and
/// new lines.
fn hunk_header(line: &str) -> Option<(usize, usize, usize)> {
    let (ranges, _) = line.strip_prefix("@@ -")?.split_once(" @@")?;
    let (old, new) = ranges.split_once(" +")?;
    let range = |text: &str| -> Option<(usize, usize)> {
        let (start, count) = text.split_once(',').unwrap_or((text, "1"));
        Some((start.parse().ok()?, count.parse().ok()?))
    };
    let ((start, old), (_, new)) = (range(old)?, range(new)?);
    Some((start, old, new))
}

/// Index of the line after a hunk whose body starts at `at`. `None` if the body is incomplete.
fn hunk_end(lines: &[&str], mut at: usize, mut old: usize, mut new: usize) -> Option<usize> {
    while old > 0 || new > 0 {
        match lines.get(at)?.as_bytes().first() {
            Some(b'-') => old = old.checked_sub(1)?,
            Some(b'+') => new = new.checked_sub(1)?,
            Some(b'\\') => {}
            // An empty line is a context line whose leading space was trimmed.
            Some(b' ') | None => {
                old = old.checked_sub(1)?;
                new = new.checked_sub(1)?;
            }
            Some(_) => return None,
        }
        at += 1;
    }
    if lines.get(at).is_some_and(|line| line.starts_with('\\')) {
        at += 1;
    }
    Some(at)
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;

//! Diffs of odd forms, made plain: paths without `a/` and `b/`, and binary files that no kernel is
//! built from.

use std::borrow::Cow;

/// What a kernel is not built from: documentation, and pictures wherever they are.
pub(super) fn is_not_built(path: &str) -> bool {
    let ending = path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    path.starts_with("Documentation/")
        || ["png", "jpg", "jpeg", "gif", "svg", "pdf", "ico"].contains(&&*ending)
}

/// The diff with one leading component in each path, and without binary files that no kernel is
/// built from. A binary file with its content (`GIT binary patch`) is left to git.
///
/// Fails with the path of a binary file whose content the diff does not have.
pub(super) fn plain(text: &str) -> Result<Cow<'_, str>, String> {
    let lines: Vec<&str> = text.lines().collect();
    let has_prefix = has_prefix(&lines);
    let has_binary =
        lines.iter().any(|line| line.starts_with("Binary files ") || *line == "GIT binary patch");
    if has_prefix && !has_binary {
        return Ok(Cow::Borrowed(text));
    }
    let mut out: Vec<String> = Vec::new();
    for section in sections(&lines) {
        let is_binary = |line: &&&str| line.starts_with("Binary files ") && line.ends_with(" differ");
        if section[0].starts_with("diff --git ") {
            let path = section[0].rsplit(' ').next().unwrap_or_default();
            let path = if has_prefix { path.split_once('/').map_or(path, |(_, rest)| rest) } else { path };
            let without_content = section.iter().any(|line| is_binary(&line));
            let with_content = section.contains(&"GIT binary patch");
            if (without_content || with_content) && is_not_built(path) {
                continue;
            }
            if without_content {
                return Err(path.to_owned());
            }
        }
        for (at, line) in section.iter().enumerate() {
            // In a hunk, a removed line `-- x/y` looks like a header.
            let is_header = section[at.saturating_sub(1)..].windows(3).take(2).any(|three| {
                three[0].starts_with("--- ") && three[1].starts_with("+++ ") && three[2].starts_with("@@ -")
            });
            let is_named = is_header || line.starts_with("diff --git ");
            out.push(if has_prefix || !is_named { (*line).to_owned() } else { prefixed(line) });
        }
    }
    let mut text = out.join("\n");
    text.push('\n');
    Ok(Cow::Owned(text))
}

/// Whether the paths have a leading component that is no folder of the source. In a diff without it
/// (`git diff --no-prefix`), both names of a file are the same.
fn has_prefix(lines: &[&str]) -> bool {
    let same = |old: &str, new: &str| {
        let path = |text: &str| text.split('\t').next().unwrap_or_default().trim().to_owned();
        path(old) == path(new)
    };
    let of_git = lines.iter().filter_map(|line| line.strip_prefix("diff --git "));
    let mut pairs = of_git.filter_map(|names| {
        let middle = names.len() / 2;
        // The two names are equally long, with a space between them.
        Some((names.get(..middle)?, names.get(middle + 1..)?))
    });
    if let Some((old, new)) = pairs.next() {
        return !same(old, new);
    }
    let mut headers =
        lines.windows(2).filter_map(|two| Some((two[0].strip_prefix("--- ")?, two[1].strip_prefix("+++ ")?)));
    headers.next().is_none_or(|(old, new)| !same(old, new))
}

/// The lines before the first file, and those of each file.
fn sections<'a>(lines: &'a [&'a str]) -> Vec<&'a [&'a str]> {
    let mut starts: Vec<usize> =
        (0..lines.len()).filter(|at| *at == 0 || lines[*at].starts_with("diff --git ")).collect();
    starts.push(lines.len());
    starts.windows(2).map(|two| &lines[two[0]..two[1]]).filter(|section| !section.is_empty()).collect()
}

/// A header line with `a/` and `b/`.
fn prefixed(line: &str) -> String {
    let dev_null = |path: &str| path.split('\t').next().is_some_and(|path| path.trim() == "/dev/null");
    if let Some(names) = line.strip_prefix("diff --git ") {
        let middle = names.len() / 2;
        if let (Some(old), Some(new)) = (names.get(..middle), names.get(middle + 1..)) {
            return format!("diff --git a/{old} b/{new}");
        }
    }
    for (start, prefix) in [("--- ", "a/"), ("+++ ", "b/")] {
        if let Some(path) = line.strip_prefix(start).filter(|path| !dev_null(path)) {
            return format!("{start}{prefix}{path}");
        }
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: &str = "diff --git a/mm/a.c b/mm/a.c\n--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1 +1 @@\n-a\n+b\n";

    #[test]
    fn a_usual_diff_stays_as_it_is() {
        assert!(matches!(plain(C), Ok(Cow::Borrowed(_))));
        assert!(matches!(plain("--- old/x\n+++ new/x\n@@ -1 +1 @@\n-a\n+b\n"), Ok(Cow::Borrowed(_))));
        assert!(matches!(plain("no diff\n"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn paths_get_a_leading_component() {
        let without = C.replace("a/mm", "mm").replace("b/mm", "mm");
        assert_eq!(plain(&without).unwrap(), C);
        let new =
            "diff --git mm/n.c mm/n.c\nnew file mode 100644\n--- /dev/null\n+++ mm/n.c\n@@ -0,0 +1 @@\n+x\n";
        assert!(plain(new).unwrap().contains("--- /dev/null\n+++ b/mm/n.c\n"));
        let hunk = "--- mm/a\n+++ mm/a\n@@ -1,2 +1 @@\n--- x/y\n-++ x/y\n+z\n";
        assert!(plain(hunk).unwrap().ends_with("@@ -1,2 +1 @@\n--- x/y\n-++ x/y\n+z\n"));
        let diff_u = "--- mm/a.c\t2020\n+++ mm/a.c\t2021\n@@ -1 +1 @@\n-a\n+b\n";
        assert!(plain(diff_u).unwrap().starts_with("--- a/mm/a.c\t2020\n+++ b/mm/a.c\t2021\n"));
    }

    #[test]
    fn binary_files_that_no_kernel_is_built_from_are_left_out() {
        let of = |path: &str| {
            format!(
                "diff --git a/{path} b/{path}\nindex 1..2 100644\nBinary files a/{path} and b/{path} differ\n"
            )
        };
        for path in ["Documentation/mm/x.bin", "drivers/video/logo.png"] {
            assert_eq!(plain(&format!("{}{C}", of(path))).unwrap(), C, "{path}");
        }
        assert_eq!(plain(&format!("{C}{}", of("lib/table.bin"))), Err("lib/table.bin".into()));
        let content = "diff --git a/lib/t.bin b/lib/t.bin\nindex 1..2 100644\nGIT binary patch\nliteral 1\nIcmZPo000310RR91\n\n";
        assert_eq!(plain(content).unwrap(), content, "git applies it");
    }
}

//! What is compared: the two kernels, and the diffs of the patches between them.

use std::path::Path;

use hotplug_side::Sides;
use maud::{Markup, html};

use crate::kernel::{parse_patch, patch_files};
use crate::record::KernelNote;
use crate::text::harmless;
use crate::unpack;

/// The most lines of all diffs on a page.
const LINES: usize = 3000;

/// The longest line, in characters.
const LONGEST: usize = 400;

/// The name of the folder with the patches, in a run's folder.
const FOLDER: &str = "patches";

/// A patch as it was given.
#[derive(Debug, Default)]
pub struct Diff {
    /// Its file below the run's folder.
    pub name: String,
    /// Whether its text is a diff. One in a mail may be encoded.
    pub is_readable: bool,
    /// The lines of its diff, the first ones of a long one, each with the class for its colour.
    pub lines: Vec<(&'static str, String)>,
    /// The number of its other lines.
    pub more: usize,
    /// The numbers of lines that it adds and removes.
    pub size: (usize, usize),
}

/// The patches in the run's folder. A file that cannot be read is left out: the record names all of
/// them.
pub(super) fn kept(run: &Path) -> Vec<Diff> {
    let mut all = Vec::new();
    let mut room = LINES;
    let mut paths: Vec<_> = fs_err::read_dir(run.join(FOLDER))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    for file in paths.iter().flat_map(|path| patch_files(path).unwrap_or_default()) {
        let Some(bytes) = fs_err::read(&file).ok().and_then(|packed| unpack::unpack(&packed).ok()) else {
            continue;
        };
        let place = file.strip_prefix(run).unwrap_or(&file).display().to_string();
        let diff = Diff::of(place, &String::from_utf8_lossy(&bytes), room);
        room -= diff.lines.len();
        all.push(diff);
    }
    all
}

impl Diff {
    /// Of a file with the content `text`, with at most `room` lines.
    fn of(name: String, text: &str, room: usize) -> Self {
        let parsed = parse_patch(&name, None, text).ok().flatten();
        let mut diff = Self { name, is_readable: parsed.is_some(), ..Self::default() };
        for file in parsed.into_iter().flat_map(|patch| patch.files) {
            diff.add("file", &file.paths.join(" -> "), room);
            for line in file.hunks.iter().flat_map(|hunk| hunk.text.lines()) {
                let class = match line.as_bytes().first() {
                    Some(b'+') => "added",
                    Some(b'-') => "removed",
                    Some(b'@') => "hunk",
                    _ => "",
                };
                diff.size.0 += usize::from(class == "added");
                diff.size.1 += usize::from(class == "removed");
                diff.add(class, line, room);
            }
        }
        diff
    }

    fn add(&mut self, class: &'static str, line: &str, room: usize) {
        if self.lines.len() < room {
            self.lines.push((class, indented(line)));
        } else {
            self.more += 1;
        }
    }
}

/// A line of a diff, whose tabs stay tabs.
fn indented(line: &str) -> String {
    line.split('\t').map(|part| harmless(part, LONGEST)).collect::<Vec<_>>().join("\t")
}

/// The two kernels, and the diffs.
pub(super) fn section(kernels: &Sides<KernelNote>, diffs: &[Diff]) -> Markup {
    let Sides { before, after } = kernels;
    let row = |name: &str, of: &dyn Fn(&KernelNote) -> String| {
        html! { tr { th scope="row" { (name) } td.path { (of(before)) } td.path { (of(after)) } } }
    };
    html! {
        section aria-labelledby="compared" {
            h2 id="compared" { "What is compared" }
            div.wide tabindex="0" role="region" aria-label="kernels" {
                table {
                    thead { tr { td {} th scope="col" { "before" } th scope="col" { "after" } } }
                    tbody {
                        (row("source", &|kernel| kernel.source.clone()))
                        (row("release", &|kernel| kernel.release.clone()))
                        (row("kernel", &|kernel| kernel.id.get(..12).unwrap_or(&kernel.id).to_owned()))
                        (row("image, BLAKE3", &|kernel| kernel.image_hash.get(..12).unwrap_or(&kernel.image_hash).to_owned()))
                        (row("obtained", &|kernel| kernel.built.clone()))
                    }
                }
            }
            @for diff in diffs {
                @if diff.is_readable {
                    details {
                        summary { "diff of " code { (diff.name) } ": " (diff.size.0) " lines added, " (diff.size.1) " removed" }
                        pre.diff tabindex="0" {
                            @for (class, line) in &diff.lines { span class=(class) { (line) "\n" } }
                        }
                        @if diff.more > 0 { p.soft { (diff.more) " more lines in " code { (diff.name) } } }
                    }
                } @else {
                    p.soft { "The diff of " code { (diff.name) } " is encoded, and not shown." }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = "Subject: x\n\n- a list\n---\n mm/x.c | 2 +-\n\ndiff --git a/mm/x.c b/mm/x.c\n\
        --- a/mm/x.c\n+++ b/mm/x.c\n@@ -1,2 +1,2 @@\n-\told\n+\tnew <b>\n same\n-- \n2.47.3\n";

    #[test]
    fn a_diff_begins_after_its_mail_and_its_lines_have_colours() {
        let diff = Diff::of("patches/x.patch".into(), MAIL, 100);
        assert_eq!((diff.size, diff.more, diff.lines.len()), ((1, 1), 0, 5));
        let page = section(&Sides::default(), &[diff]).into_string();
        assert!(page.contains("<span class=\"removed\">-\told\n</span>"), "{page}");
        assert!(page.contains("<span class=\"added\">+\tnew &lt;b&gt;\n</span>"), "{page}");
        assert!(page.contains("<span class=\"file\">mm/x.c\n</span>"), "{page}");
        let cut = Diff::of("patches/x.patch".into(), MAIL, 3);
        assert_eq!((cut.lines.len(), cut.more), (3, 2));
        let encoded =
            section(&Sides::default(), &[Diff::of("patches/x.mbox".into(), "PGI+", 100)]).into_string();
        assert!(encoded.contains("is encoded, and not shown"), "{encoded}");
    }

    #[test]
    fn the_patches_of_a_run_are_found_also_in_a_folder() {
        let run = tempfile::tempdir().unwrap();
        let series = run.path().join("patches/series");
        fs_err::create_dir_all(&series).unwrap();
        fs_err::write(series.join("0001-x.patch"), MAIL).unwrap();
        fs_err::write(run.path().join("patches/a.patch"), MAIL).unwrap();
        let names: Vec<_> = kept(run.path()).into_iter().map(|diff| diff.name).collect();
        assert_eq!(names, ["patches/a.patch", "patches/series/0001-x.patch"]);
        assert!(kept(&run.path().join("none")).is_empty());
    }
}

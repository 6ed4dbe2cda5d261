//! Finds the files in which the two sides of a pair differ, and puts gcov counters into them.
//!
//! Only the touched C files are compiled with gcc's counters (`-fprofile-arcs -ftest-coverage`,
//! Documentation/dev-tools/gcov.rst). The rest of the kernel is compiled as usual, and the judged
//! pair has no counters.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::Result;

use super::command;
use super::patch::Patch;
use super::source::{Located, Origin};

/// Folder beside the image of a kernel with counters. It holds [`LIST`], the source of each touched
/// file, and the `.gcno` of each counted one.
pub(super) const FOLDER: &str = "coverage";

/// Name of the list of touched files, each with its [`Counting`].
const LIST: &str = "touched.json";

/// A file in which the two sides differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// The path relative to the source.
    pub path: String,
    /// Whether this side counts its lines.
    pub counting: Counting,
}

/// Whether the lines of a touched file can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Counting {
    /// The lines are counted.
    Counted,
    /// The file is a header: its lines are counted where a counted file uses them.
    Header,
    /// The file's makefile forbids counters (`GCOV_PROFILE := n`), because the code runs where they
    /// cannot be accessed.
    Forbidden,
    /// This configuration does not build the file.
    NotBuilt,
    /// The file is neither C nor a header: assembler, a makefile, Kconfig, documentation.
    NotC,
    /// This side does not have the file.
    Absent,
}

/// The files that the patches touch and those in which the two revisions differ, sorted.
pub(super) async fn touched<'a>(
    patches: impl Iterator<Item = &'a Patch>,
    [before, after]: [&Located; 2],
    cancel: &CancellationToken,
) -> Result<Vec<String>> {
    let mut paths: Vec<String> =
        patches.flat_map(|patch| &patch.files).flat_map(|file| file.paths.clone()).collect();
    if let (Origin::Git { git_dir, tree: old }, Origin::Git { tree: new, .. }) =
        (&before.origin, &after.origin)
        && old != new
    {
        let git = command::git(git_dir).arg(format!("--git-dir={}", git_dir.display()));
        let git = git.args(["diff-tree", "-r", "-z", "--name-only", "--no-renames", old, new]);
        let said = command::capture(git, cancel).await?.ok(|said| {
            crate::Error::infrastructure("git cannot list the files in which the revisions differ")
                .detail(said)
        })?;
        let names = said.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        paths.extend(names.map(|name| String::from_utf8_lossy(name).into_owned()));
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Compiler options for the touched files. They are the kernel's own options (`CFLAGS_GCOV` of its
/// Makefile; older ones lack the atomic updates), and two that prevent inlining and folding before
/// gcc inserts its counters.
///
/// Early inlining folds a caller's constants into the copies. The function's own body is then no
/// longer called, and its counters would be zero for lines that ran. Early constant propagation
/// turns `if (x) err = -EINVAL;` into a choice of two values and leaves no line to count
/// (gcc/passes.def: `pass_all_early_optimizations` runs before `pass_ipa_tree_profile`). All the
/// early passes run again later.
pub(crate) const OPTIONS: &str = "-fprofile-arcs -ftest-coverage -fno-tree-loop-im -fprofile-update=prefer-atomic \
                                  -fno-early-inlining -fdisable-tree-early_optimizations";

/// Variables for make's command line that put counters into these files of `source` only.
///
/// kbuild evaluates `GCOV_PROFILE_<basename>.o` (scripts/Makefile.lib), and several files can have
/// one basename: `memory.o` exists in mm/ and in drivers/base/. The variable is evaluated while a
/// recipe is expanded, when `$@` is the object.
pub(super) fn variables(source: &Path, touched: &[String]) -> Vec<String> {
    let mut objects: Vec<(&str, String)> = touched
        .iter()
        .filter(|path| counting(source, path).is_none())
        .filter_map(|path| {
            let stem = path.strip_suffix(".c")?;
            Some((stem.rsplit_once('/').map_or(stem, |(_, name)| name), format!("{stem}.o")))
        })
        .collect();
    objects.sort();
    let profiled = objects.chunk_by(|a, b| a.0 == b.0).map(|same| {
        let all: Vec<&str> = same.iter().map(|(_, object)| object.as_str()).collect();
        format!("GCOV_PROFILE_{}.o=$(if $(filter {},$@),y,n)", same[0].0, all.join(" "))
    });
    let options = (!objects.is_empty()).then(|| format!("CFLAGS_GCOV={OPTIONS}"));
    options.into_iter().chain(profiled).collect()
}

/// The [`Counting`] of a file that is known before the build. `None` if the file may be counted.
fn counting(source: &Path, path: &str) -> Option<Counting> {
    let file = source.join(path);
    let end = Path::new(path).extension().and_then(|end| end.to_str()).unwrap_or_default();
    if !file.is_file() {
        return Some(Counting::Absent);
    }
    match end {
        "h" => Some(Counting::Header),
        "c" => is_forbidden(&file).then_some(Counting::Forbidden),
        _ => Some(Counting::NotC),
    }
}

/// Whether the makefile in the file's folder forbids counters for it.
fn is_forbidden(file: &Path) -> bool {
    let (Some(folder), Some(stem)) = (file.parent(), file.file_stem().and_then(|stem| stem.to_str())) else {
        return false;
    };
    let own = format!("GCOV_PROFILE_{stem}.o");
    // kbuild prefers a file `Kbuild` to `Makefile` (scripts/Makefile.build).
    let text =
        ["Kbuild", "Makefile"].into_iter().find_map(|name| std::fs::read_to_string(folder.join(name)).ok());
    text.unwrap_or_default().lines().any(|line| {
        let name_and_value = line.split_once(":=").or_else(|| line.split_once('='));
        name_and_value.is_some_and(|(name, value)| {
            let name = name.trim();
            (name == "GCOV_PROFILE" || name == own) && value.trim() == "n"
        })
    })
}

/// Copies into `folder` the files that are needed to read the counters of a finished build.
pub(super) fn keep(source: &Path, objects: &Path, touched: &[String], folder: &Path) -> Result<()> {
    let mut list = Vec::new();
    for path in touched {
        let notes = Path::new(path).with_extension("gcno");
        let counting = match counting(source, path) {
            Some(known) => known,
            None if objects.join(&notes).is_file() => Counting::Counted,
            None => Counting::NotBuilt,
        };
        let copy = |from: &Path, name: &Path| {
            let to = folder.join(name);
            if let Some(parent) = to.parent() {
                fs_err::create_dir_all(parent)?;
            }
            fs_err::copy(from.join(name), to)
        };
        if counting != Counting::Absent {
            copy(source, Path::new(path))?;
        }
        if counting == Counting::Counted {
            copy(objects, &notes)?;
        }
        list.push(Touched { path: path.clone(), counting });
    }
    fs_err::create_dir_all(folder)?;
    crate::files::write_json(&folder.join(LIST), &list)
}

/// Reads the list that [`keep`] wrote to `folder`. `None` if the kernel has no counters.
pub(super) fn read(folder: &Path) -> Option<Vec<Touched>> {
    serde_json::from_slice(&fs_err::read(folder.join(LIST)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("mm/Makefile", "obj-y := memory.o slub.o early.o\nGCOV_PROFILE_early.o := n\n"),
            ("mm/memory.c", "int a;\n"),
            ("mm/slub.c", "int b;\n"),
            ("mm/early.c", "int c;\n"),
            ("drivers/base/Makefile", "obj-y := memory.o\n"),
            ("drivers/base/memory.c", "int d;\n"),
            ("arch/x86/boot/Makefile", "KASAN_SANITIZE := n\nGCOV_PROFILE := n\n"),
            ("arch/x86/boot/main.c", "int e;\n"),
            ("include/linux/mm.h", "int f;\n"),
            ("Documentation/mm.rst", "words\n"),
        ] {
            let file = folder.path().join(path);
            fs_err::create_dir_all(file.parent().unwrap()).unwrap();
            fs_err::write(file, text).unwrap();
        }
        folder
    }

    fn all() -> Vec<String> {
        [
            "Documentation/mm.rst",
            "arch/x86/boot/main.c",
            "drivers/base/memory.c",
            "include/linux/mm.h",
            "mm/early.c",
            "mm/gone.c",
            "mm/memory.c",
            "mm/slub.c",
        ]
        .map(String::from)
        .to_vec()
    }

    #[test]
    fn only_the_touched_objects_are_counted_and_none_that_the_kernel_forbids() {
        let source = source();
        assert_eq!(
            variables(source.path(), &all()),
            [
                format!("CFLAGS_GCOV={OPTIONS}").as_str(),
                "GCOV_PROFILE_memory.o=$(if $(filter drivers/base/memory.o mm/memory.o,$@),y,n)",
                "GCOV_PROFILE_slub.o=$(if $(filter mm/slub.o,$@),y,n)",
            ]
        );
        assert!(variables(source.path(), &[]).is_empty());
    }

    #[test]
    fn what_was_built_is_kept_with_its_source() {
        let (source, objects, kept) = (source(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for notes in ["mm/memory.gcno", "drivers/base/memory.gcno"] {
            let file = objects.path().join(notes);
            fs_err::create_dir_all(file.parent().unwrap()).unwrap();
            fs_err::write(file, notes).unwrap();
        }
        assert_eq!(read(kept.path()), None);
        keep(source.path(), objects.path(), &all(), kept.path()).unwrap();
        let list: Vec<_> = read(kept.path()).unwrap().into_iter().map(|file| file.counting).collect();
        assert_eq!(
            list,
            [
                Counting::NotC,
                Counting::Forbidden,
                Counting::Counted,
                Counting::Header,
                Counting::Forbidden,
                Counting::Absent,
                Counting::Counted,
                Counting::NotBuilt,
            ]
        );
        let has = |name: &str| kept.path().join(name).is_file();
        assert!(has("mm/memory.gcno") && has("mm/memory.c") && has("include/linux/mm.h"));
        assert!(has("mm/slub.c") && !has("mm/slub.gcno"));
    }
}

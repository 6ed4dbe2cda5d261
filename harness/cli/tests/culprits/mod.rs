//! The search for a culprit, in a series and in a history, on kernels that are built one on the
//! other.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use predicates::prelude::*;
use serde_json::{Value, json};

use crate::common::{Run, default_source, patch};

/// A DIMM is plugged, comes online, and is unplugged again. These bugs need no more.
const SCENARIO: &str = r#"
about = "a DIMM comes and goes, for looking for culprits"
trials = 4

[machine]
cpus = 2
max_cpus = 2
memory = "512M"
max_memory = "1G"
slots = 1

[guest]
memory_online = "movable"

[[dimm]]
name = "dimm"
size = "128M"

[[lane]]
name = "memory"
steps = [{ plug = "dimm" }, { unplug = "dimm" }]
"#;

fn hotplug(run: &Run, words: &[&str]) -> assert_cmd::Command {
    let scenario = run.results().with_file_name("dimm.toml");
    std::fs::write(&scenario, SCENARIO).unwrap();
    let mut command = assert_cmd::Command::from_std(Command::new(env!("CARGO_BIN_EXE_hotplug")));
    command.args(words).args(["--workers", "1", "--results"]).arg(run.results());
    command.arg("--scenario").arg(scenario);
    command
}

/// A change of one file of the kernel.
struct Edit<'a> {
    file: &'a str,
    old: &'a str,
    new: &'a str,
}

const WARNS: Edit = Edit {
    file: "mm/memory_hotplug.c",
    old: "\t/*\n\t * {on,off}lining is constrained to full memory sections (or more",
    new: "\tWARN_ONCE(nr_pages, \"planted: memory comes online\");\n\n\t/*\n\t * {on,off}lining is constrained to full memory sections (or more",
};
const BREAKS: Edit = Edit {
    file: "mm/memory_hotplug.c",
    old: "\tstruct memory_notify arg;\n",
    new: "\tstruct memory_notify arg;\n\tstrcut page *nobody;\n",
};
const MENDS: Edit = Edit { file: BREAKS.file, old: BREAKS.new, new: BREAKS.old };
const SAYS: Edit = Edit {
    file: "mm/memory_hotplug.c",
    old: "int __ref online_pages(",
    new: "/* A comment. */\nint __ref online_pages(",
};
const SAYS_MORE: Edit = Edit {
    file: "mm/memory_hotplug.c",
    old: "/* A comment. */\n",
    new: "/* A comment. */\n/* Another one. */\n",
};

fn git(repo: &Path, words: &[&str]) -> String {
    let names = ["-c", "user.name=A Tester", "-c", "user.email=tester@example.org", "-c", "gc.auto=0"];
    let fast = ["-c", "core.compression=0", "-c", "core.looseCompression=0"];
    let said = Command::new("git").arg("-C").arg(repo).args(names).args(fast).args(words).output().unwrap();
    assert!(said.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

/// The kernel's source as a repository. Its path is the same in every run, so that the cached
/// objects of its kernels are used again. Each edit is a commit. Returns the folder, the names of
/// the commits, first the one without any edit, and a lock that reserves the folder.
fn history(edits: &[(&str, Edit)]) -> (PathBuf, Vec<String>, Flock<File>) {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
    let folder = cache.join("hotplug-tests/history");
    std::fs::create_dir_all(cache.join("hotplug-tests")).unwrap();
    let lock = File::create(folder.with_extension("lock")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let source = Path::new("/usr/src").join(format!("{}.tar.xz", default_source()));
    let mut tar = Command::new("tar");
    let tar = tar.args(["--strip-components=1", "-xf"]).arg(source).arg("-C").arg(&folder).status().unwrap();
    assert!(tar.success(), "the kernel's source is not there");
    git(&folder, &["init", "--quiet"]);
    git(&folder, &["add", "--all", "--force"]);
    git(&folder, &["commit", "--quiet", "-m", "the kernel as it is"]);
    let mut names = vec![git(&folder, &["rev-parse", "HEAD"])];
    for (subject, edit) in edits {
        let path = folder.join(edit.file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(edit.old), "{subject}");
        std::fs::write(&path, text.replacen(edit.old, edit.new, 1)).unwrap();
        git(&folder, &["commit", "--quiet", "--all", "-m", subject]);
        names.push(git(&folder, &["rev-parse", "HEAD"]));
    }
    (folder, names, lock)
}

fn read(run: &Run, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(run.folder().join(file)).unwrap()).unwrap()
}

/// A commit that breaks the build is avoided, and `bisect` and `bisect --step` give the same
/// answer.
#[test]
fn nightly_the_commit_that_brought_a_report_is_found_and_a_good_end_that_has_it_is_told() {
    let edits = [
        ("say what it is", SAYS),
        ("break it", BREAKS),
        ("mend it", MENDS),
        ("warn", WARNS),
        ("say more", SAYS_MORE),
    ];
    let (repo, names, _lock) = history(&edits);
    let source = repo.to_str().unwrap();
    let bisect = |run: &Run, words: &[&str]| {
        let mut command = hotplug(run, &["bisect", "--source", source]);
        command.args(words);
        command
    };

    let run = Run::new();
    bisect(&run, &["--good", &names[0], "--bad", &names[5], "--signature", "memory comes online"])
        .assert()
        .code(0)
        .stdout(predicate::str::contains(format!("found     {} warn", &names[4][..12])));
    let told = read(&run, "bisect.json");
    assert_eq!(told["suspected"]["revisions"], json!([4]), "{told:#}");
    assert!(told["suspected"]["probability"].as_f64().unwrap() >= 0.95, "{told:#}");
    let title = told["suspected"]["title"].as_str().unwrap();
    assert!(title.contains("online_pages"), "{title}");

    // The good end is bad, which its first test shows.
    let run = Run::new();
    bisect(&run, &["--good", &names[4], "--bad", &names[5], "--signature", "memory comes online"])
        .assert()
        .code(1)
        .stdout(predicate::str::contains("the good end has it itself"));

    // One revision, as `git bisect run` tries it.
    for (revision, status, said) in [(0, 0, "good: none of"), (2, 125, "cannot be tried"), (4, 1, "bad: ")] {
        git(&repo, &["checkout", "--quiet", &names[revision]]);
        let run = Run::new();
        bisect(&run, &["--step", "--signature", "memory comes online"])
            .assert()
            .code(status)
            .stdout(predicate::str::contains(said));
    }

    // An unknown revision, or two ends in the wrong order, is an error before anything is built.
    for (good, bad, said) in
        [("v0", &*names[5], "has no revision v0"), (&names[5], &names[0], "there is no revision")]
    {
        let run = Run::new();
        bisect(&run, &["--good", good, "--bad", bad, "--signature", "x"])
            .assert()
            .code(2)
            .stderr(predicate::str::contains(said));
        assert!(!run.results().exists());
    }
}

/// Three patches: one that changes nothing, the seed patch, and one that does not compile.
#[test]
fn nightly_the_patch_of_a_series_that_brings_a_report_is_named_both_ways() {
    let run = Run::new();
    let series = run.results().with_file_name("series");
    std::fs::create_dir(&series).unwrap();
    let seed = std::fs::read_dir(patch("seed")).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_some_and(|end| end == "patch").then_some(path)
    });
    std::fs::copy(patch("known-bugs/clean-renamed-static.patch"), series.join("0001-rename.patch")).unwrap();
    std::fs::copy(seed.unwrap(), series.join("0002-seed.patch")).unwrap();
    let broken = series.join("0003-broken.patch");
    let text = "--- a/mm/memory_hotplug.c\n+++ b/mm/memory_hotplug.c\n@@ -1,3 +1,4 @@\n+#error planted: it does not compile\n \
                // SPDX-License-Identifier: GPL-2.0-only\n /*\n  *  linux/mm/memory_hotplug.c\n";
    std::fs::write(&broken, text).unwrap();

    let command = |words: &[&str]| {
        let mut command = assert_cmd::Command::from_std(Command::new(env!("CARGO_BIN_EXE_hotplug")));
        command
            .arg("series")
            .args(words)
            .args(["--workers", "1", "--results"])
            .arg(run.results())
            .arg(&series);
        command
    };
    command(&["--trials", "6"])
        .assert()
        .code(1)
        .stdout(predicate::str::contains("brought   by patch 2: WARNING: lockdep_assert_cpus_held"))
        .stdout(predicate::str::contains("does not compile: mm/memory_hotplug.c:1"));
    let told = read(&run, "series.json");
    let of = |key: &str| {
        told["patches"].as_array().unwrap().iter().map(|one| one[key].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("verdict"), [json!("unchanged"), json!("regressed"), Value::Null], "{told:#}");
    assert_eq!(of("state"), ["judged", "judged", "no-kernel"], "{told:#}");
    assert_eq!(of("against"), [0, 1, 2], "{told:#}");
    // Six trials decide nothing about the lock order, but it was compared.
    assert!(told["patches"][1]["locks"]["gone"].is_u64(), "{told:#}");
    std::fs::remove_dir_all(run.folder()).unwrap();

    std::fs::remove_file(broken).unwrap();
    command(&["--trials", "6", "--bisect"])
        .assert()
        .code(1)
        .stdout(predicate::str::contains("found     patch 2: mm/memory_hotplug: "));
}

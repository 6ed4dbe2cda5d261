//! Verdicts that need no trial, or only two: a kernel that does not compile, a patch that changes no
//! code, a kernel that does not boot. And what is never told as a verdict.

use std::path::Path;

use predicates::prelude::*;
use serde_json::{Value, json};

use crate::world::{BREAKS, Edit, SAYS, Toy, WARNS};

/// The kernel panics before it is ready.
const PANICS_AT_BOOT: Edit = Edit {
    file: WARNS.file,
    old: WARNS.old,
    new: "\tHAPPENS(\"boot; 1; panic\");\n\n\treturn pfn > nr_pages;\n",
};

fn said(command: &mut assert_cmd::Command, status: i32) -> String {
    let assert = command.assert().code(status);
    let output = assert.get_output();
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_patch_that_breaks_the_build_is_a_regression_with_a_folder() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("break it", BREAKS)]);
    let reports = toy.path("reports");
    let screen = said(toy.compare(Some(&patch)).arg("--report-to").arg(&reports), 1);
    assert!(
        screen.contains("REGRESSED   the after kernel does not compile: mm/memory_hotplug.c:"),
        "{screen}"
    );
    assert!(screen.contains("\nafter: does not compile\n"), "{screen}");
    assert!(screen.contains("strcut"), "the compiler's lines: {screen}");
    let result = toy.run.result();
    assert_eq!((&result["verdict"], &result["exit_status"]), (&json!("regressed"), &json!(1)));
    let lines = &result["settled"]["does-not-compile"]["lines"];
    assert!(lines.to_string().contains("strcut"), "{result:#}");
    let log = std::fs::read_to_string(toy.run.folder().join("build-after.log")).unwrap();
    assert!(log.contains("strcut"), "{log}");
    let last =
        |form: &str| said(toy.hotplug(&["report", "last", form]).arg("--results").arg(toy.run.results()), 0);
    let junit = last("--junit");
    assert!(
        junit.contains("<testcase name=\"it builds\"") && junit.contains("errors=\"0\" failures=\"2\""),
        "{junit}"
    );
    assert!(last("--mail").contains("the kernel with it does not compile"), "{}", last("--mail"));
    assert!(last("--html").contains("strcut"));
    assert!(last("--github-annotations").contains("::error file=mm/memory_hotplug.c,line="));
    for name in ["junit.xml", "kcidb.json", "report.html", "gitlab-code-quality.json", "screen.txt"] {
        assert!(reports.join(name).is_file(), "{name}");
    }
    // A run without trials cannot be continued.
    let mut again = toy.hotplug(&["compare", "--continue"]);
    assert!(said(again.arg(toy.run.folder()), 2).contains("has no trials to continue"));
}

#[test]
fn a_patch_that_changes_no_code_is_unchanged_at_once() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("say", SAYS)]);
    // The helper of the other tests has `--anyway`.
    let mut compare = toy.hotplug(&["compare", "--source", "linux", "--scenario", "toy.toml", "--results"]);
    let screen = said(compare.arg(toy.run.results()).arg(&patch), 0);
    assert!(screen.contains("UNCHANGED   both kernels are the same, bit for bit"), "{screen}");
    assert!(screen.contains("trials    none") && !screen.contains("silence"), "{screen}");
    let result = toy.run.result();
    assert_eq!(result["settled"]["identical"]["not_built"], json!([]), "{result:#}");
    assert_eq!(result["trials"]["after"]["trials"], 0);
    // A file that no kernel is built from says nothing about a patch of it.
    let diff = "--- /dev/null\n+++ b/mm/other.c\n@@ -0,0 +1 @@\n+int other;\n";
    let other = toy.path("other.patch");
    std::fs::write(&other, diff).unwrap();
    std::fs::remove_dir_all(toy.run.results()).unwrap();
    let mut compare = toy.hotplug(&["compare", "--source", "linux", "--scenario", "toy.toml", "--results"]);
    let screen = said(compare.arg(toy.run.results()).arg(&other), 3);
    assert!(
        screen
            .contains("INCONCLUSIVE   both kernels are the same, because they are built without mm/other.c"),
        "{screen}"
    );
    std::fs::remove_dir_all(toy.run.results()).unwrap();
    said(toy.compare(Some(&patch)).args(["--trials", "1"]), 0);
    assert_eq!(toy.run.result()["trials"]["after"]["trials"], 1);
}

#[test]
fn a_kernel_that_does_not_boot_is_told_after_two_boots() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("panic", PANICS_AT_BOOT)]);
    let screen = said(toy.compare(Some(&patch)).args(["--trials", "20"]), 1);
    assert!(screen.contains("REGRESSED   the after kernel does not boot"), "{screen}");
    assert!(screen.contains("new    Kernel panic") || screen.contains("panic"), "{screen}");
    assert!(screen.contains("console   the end of a boot of the after kernel:"), "{screen}");
    let result = toy.run.result();
    assert_eq!(result["trials"]["after"]["trials"], 2, "{result:#}");
    assert!(!result["no_boot"]["console"].as_array().unwrap().is_empty(), "{result:#}");
    let junit = said(toy.hotplug(&["report", "--junit"]).arg(toy.run.folder()), 0);
    let boots = junit.split("<testcase name=\"it boots\"").nth(1).unwrap();
    assert!(boots.trim_start().contains("<failure message=\"the after kernel does not boot"), "{junit}");

    // The other way round it is no fix.
    let toy = Toy::new();
    toy.commit("panic", PANICS_AT_BOOT);
    let back = Edit { file: PANICS_AT_BOOT.file, old: PANICS_AT_BOOT.new, new: PANICS_AT_BOOT.old };
    let patch = toy.patches("patch", &[("mend it", back)]);
    let screen = said(&mut toy.compare(Some(&patch)), 3);
    assert!(screen.contains("INCONCLUSIVE   the before kernel does not boot"), "{screen}");
}

/// The newest comparison failed before it had a folder.
#[test]
fn last_is_never_an_older_run() {
    let toy = Toy::new();
    said(toy.compare(None).args(["--trials", "1"]), 0);
    let last = || {
        let mut command = toy.hotplug(&["report", "last", "--results"]);
        command.arg(toy.run.results());
        command
    };
    said(&mut last(), 0);
    let reports = toy.path("reports");
    said(toy.compare(Some(Path::new("no-such.patch"))).arg("--report-to").arg(&reports), 2);
    assert!(said(&mut last(), 2).contains("has no result: no such patch: no-such.patch"));
    let junit = std::fs::read_to_string(reports.join("junit.xml")).unwrap();
    assert!(junit.contains("<error message=\"no such patch"), "{junit}");
    // A mistake in the options, too.
    said(toy.compare(None).args(["--trials", "1"]), 0);
    said(&mut last(), 0);
    said(toy.hotplug(&["compare", "--bogus", "--results"]).arg(toy.run.results()), 2);
    assert!(said(&mut last(), 2).contains("unexpected argument '--bogus'"));
}

/// A thread as lore.kernel.org keeps it: replies with diffs, and the patches in any order.
#[test]
fn an_mbox_is_a_thread() {
    let toy = Toy::new();
    let folder = toy.patches("series", &[("say", SAYS), ("warn", WARNS)]);
    let wrong = toy.patches("wrong", &[("rather break it", BREAKS)]);
    let mail = |path: &Path, subject: &str, header: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        let (head, body) = text.split_once("\n\n").unwrap();
        let lines = head.lines().map(|line| {
            if line.starts_with("Subject: ") {
                format!("Subject: {subject}\n{header}")
            } else {
                format!("{line}\n")
            }
        });
        format!("{}\n{body}\n", lines.collect::<String>())
    };
    let file = |folder: &Path, start: &str| {
        let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start)).unwrap()
    };
    let reply = "In-Reply-To: <1@x>\n";
    let thread = [
        mail(&file(&folder, "0002"), "[PATCH v2 2/2] warn", reply),
        mail(&file(&wrong, "0001"), "Re: [PATCH v2 2/2] warn", reply),
        mail(
            &file(&folder, "0001"),
            "[PATCH v2 1/2] say",
            "Message-ID: <1@x>\nTo: linux-mm@kvack.org\nCc: A Reviewer <a@example.org>\n",
        ),
        mail(&file(&wrong, "0001"), "[PATCH 1/1] the first try", ""),
    ];
    let mbox = toy.path("thread.mbox");
    std::fs::write(&mbox, thread.concat()).unwrap();
    let screen = said(&mut toy.compare(Some(&mbox)), 1);
    assert!(screen.contains("WARNING: lockdep_assert_cpus_held"), "{screen}");
    assert!(screen.contains("patches   say\n          warn\n"), "{screen}");
    assert!(screen.contains("note      left out, a reply with a diff: Re: [PATCH v2 2/2] warn"), "{screen}");
    assert!(screen.contains("left out, version 2 is newer: [PATCH 1/1] the first try"), "{screen}");
    let run = toy.run.json("run.json");
    assert_eq!((&run["series"][1]["subject"], run["notes"].as_array().unwrap().len()), (&json!("warn"), 2));
    // The record names a copy of the thread that exists, and so does the command to repeat it.
    let copy = run["spec"]["kernels"]["patches"][0].as_str().unwrap().to_owned();
    assert!(copy.ends_with("patches/thread.mbox") && Path::new(&copy).is_file(), "{copy}");

    // The mail is a reply to the first patch, and quotes what the kernel printed.
    let mut report = toy.hotplug(&["report", "last", "--mail", "--results"]);
    let text = said(report.arg(toy.run.results()), 0);
    let header = "To: A Tester <tester@example.org>\nCc: linux-mm@kvack.org, A Reviewer <a@example.org>\n\
                  Subject: Re: [PATCH v2 1/2] say\nIn-Reply-To: <1@x>\nReferences: <1@x>\n\nI ran this";
    assert!(text.starts_with(header), "{text}");
    assert!(text.contains("\n  WARNING: CPU: ") && text.contains("\n  Call Trace:\n"), "{text}");
    assert!(!text.contains("Modules linked in") && !text.contains("<TASK>"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 75), "{text}");
    let page = std::fs::read_to_string(toy.run.folder().join("report.html")).unwrap();
    assert!(page.contains("diff of <code>patches/thread.mbox</code>"), "{page}");
    assert!(page.contains("class=\"added\">+\tHAPPENS("), "{page}");

    // From standard input, packed, and without the second patch.
    std::fs::remove_dir_all(toy.run.results()).unwrap();
    let packed = std::process::Command::new("gzip").arg("-c").arg(&mbox).output().unwrap().stdout;
    let mut command = toy.compare(Some(Path::new("-")));
    command.args(["--trials", "6"]).write_stdin(packed);
    assert!(said(&mut command, 1).contains("patches   say\n"));
    std::fs::write(&mbox, thread[1..].concat()).unwrap();
    assert!(said(&mut toy.compare(Some(&mbox)), 2).contains("thread.mbox lacks 2/2 of version 2"));
}

/// b4 fetches a message. This one stands for it, because a test has no mailing list.
#[test]
fn a_message_id_is_fetched_with_b4() {
    use std::os::unix::fs::PermissionsExt;
    let toy = Toy::new();
    let folder = toy.patches("series", &[("warn", WARNS)]);
    let bin = toy.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let b4 = bin.join("b4");
    let script = format!(
        "#!/bin/sh\n[ \"$1 $2 $4 $5\" = 'mbox -o -- 1@example.org' ] && cat {}/* > \"$3/x.mbx\"\n",
        folder.display()
    );
    std::fs::write(&b4, script).unwrap();
    std::fs::set_permissions(&b4, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let screen = said(toy.compare(Some(Path::new("1@example.org"))).env("PATH", path), 1);
    assert!(screen.contains("+ 1@example.org") && screen.contains("patches   warn"), "{screen}");
    let none = said(
        toy.compare(Some(Path::new("2@example.org")))
            .env("PATH", format!("/usr/bin:/bin:{}", env!("CARGO_TARGET_TMPDIR"))),
        2,
    );
    assert!(none.contains("b4"), "{none}");
}

/// In a kernel tree, nothing needs to be named.
#[test]
fn in_a_kernel_tree_its_changes_are_compared() {
    let toy = Toy::new();
    let compare = |words: &[&str]| {
        let mut command = toy.run.compare();
        toy.settle_in(&mut command);
        command.current_dir(toy.source().join("mm")).arg("--scenario").arg(toy.path("toy.toml"));
        command.args(["--accel", "tcg"]).args(words);
        command
    };
    assert!(
        said(&mut compare(&[]), 2)
            .contains("there is nothing to compare: no patch was given, and all changes")
    );
    assert!(!toy.run.results().exists());
    let base = toy.git(&["rev-parse", "HEAD"]);
    let file = toy.source().join(WARNS.file);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen(WARNS.old, WARNS.new, 1)).unwrap();
    let screen = said(&mut compare(&[]), 1);
    assert!(
        screen.contains("WARNING: lockdep_assert_cpus_held") && screen.contains("not committed"),
        "{screen}"
    );
    let run = toy.run.json("run.json");
    let patch = run["spec"]["kernels"]["patches"][0].as_str().unwrap();
    assert!(std::fs::read_to_string(patch).unwrap().contains("HAPPENS"), "{patch}");
    // The command of the page repeats it, also after the changes are committed.
    toy.git(&["commit", "--quiet", "--all", "-m", "warn"]);
    for words in [
        vec!["--after", "HEAD"],
        vec!["HEAD~1..HEAD"],
        vec!["--source", "..", "--before", &*base, "--after", "HEAD"],
    ] {
        std::fs::remove_dir_all(toy.run.results()).unwrap();
        let screen = said(&mut compare(&words), 1);
        assert!(screen.contains("WARNING: lockdep_assert_cpus_held"), "{words:?}: {screen}");
    }
    let result = toy.run.result();
    assert_ne!(result["run"]["kernels"]["before"]["id"], result["run"]["kernels"]["after"]["id"]);
}

/// A revert on top of its patch is no patch without effect.
#[test]
fn a_revert_is_judged() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("warn", WARNS)]).join("0001-warn.patch");
    let back = Edit { file: WARNS.file, old: WARNS.new, new: WARNS.old };
    let base = toy.git(&["rev-parse", "HEAD"]);
    toy.commit("warn", WARNS);
    let revert = toy.patches("revert", &[("revert", back)]).join("0001-revert.patch");
    toy.git(&["reset", "--quiet", "--hard", &base]);
    let screen = said(toy.compare(Some(&revert)).arg("--base-patch").arg(&patch), 0);
    assert!(screen.contains("FIXED"), "{screen}");
    let mut series = toy.hotplug(&["series", "--source", "linux", "--results", "series", "--trials", "5"]);
    series.args(["--workers", "1", "--accel", "tcg", "--scenario", "toy.toml"]).arg(&patch).arg(&revert);
    let screen = said(&mut series, 1);
    assert!(screen.contains("brought   by patch 1"), "{screen}");
    let told: Value = crate::read(&crate::only(&toy.path("series")).join("series.json"));
    assert_eq!(told["patches"][1]["verdict"], "fixed", "{told:#}");
}

/// Options of a file, and what it set in the record.
#[test]
fn a_configuration_file_sets_what_the_command_line_does_not() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("say", SAYS)]);
    std::fs::write(
        toy.path("hotplug.toml"),
        "source = \"linux\"\nscenario = [\"toy.toml\"]\nresults = \"out\"\ntrials = 7\n",
    )
    .unwrap();
    let mut compare =
        toy.hotplug(&["compare", "--accel", "tcg", "--trials", "2", "--anyway", "--workers", "1"]);
    compare.args(["--no-control", "--no-coverage", "--no-reach", "--no-latency"]).arg(&patch);
    said(&mut compare, 0);
    let run = crate::only(&toy.path("out"));
    let record = crate::read(&run.join("run.json"));
    assert_eq!((&record["scenario"], &record["trials"]), (&json!("toy"), &json!(2)));
    let set = record["settings"].to_string();
    assert!(set.contains("source = ") && set.contains("results = ") && !set.contains("trials"), "{set}");
    // Every other command finds the results, too.
    said(&mut toy.hotplug(&["report", "last"]), 0);
    toy.hotplug(&["report", "last"])
        .env("HOTPLUG_RESULTS", "nowhere")
        .assert()
        .code(2)
        .stderr(predicate::str::contains("there is no run below nowhere"));
}

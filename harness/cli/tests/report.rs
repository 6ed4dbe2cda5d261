//! `hotplug report` on a real run's result: the seed patch on Linux 6.12.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use predicates::prelude::*;

#[path = "common/kept.rs"]
mod kept;

const NAME: &str = "2026-11-27T09-22-07-seed";

/// The folder with recorded results of real runs.
fn kept_runs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/results")
}

/// A folder with that run in `results/`, as if it had been run there.
fn home() -> (tempfile::TempDir, PathBuf) {
    kept::home(&kept_runs().join("seed-6.12"), NAME)
}

fn report(home: &tempfile::TempDir, arguments: &[&str]) -> assert_cmd::assert::Assert {
    kept::hotplug(home.path(), &[&["report"], arguments].concat())
}

fn said(home: &tempfile::TempDir, arguments: &[&str]) -> String {
    kept::said(home.path(), &[&["report"], arguments].concat())
}

#[test]
fn a_mail_is_narrow_and_says_how_to_repeat_it() {
    let (home, _) = home();
    let mail = said(&home, &["last", "--mail"]);
    assert!(mail.lines().all(|line| line.chars().count() <= 75), "{mail}");
    assert_eq!(mail.matches("hotplug compare ").count(), 1, "{mail}");
    // A shell joins the lines of the command again.
    let mail = mail.replace(" \\\n   ", "");
    // The patch has only its file name, because its folder exists on this machine only.
    let patch = "0001-mm-memory_hotplug-Don-t-take-the-cpu_hotplug_lock.patch";
    assert!(mail.contains(&format!("\n  hotplug compare {patch} --source")), "{mail}");
    for part in [
        "REGRESSED: 2 new, 0 fixed, 0 common.",
        "Linux 6.12.117 (linux-source-6.12), without and with",
        "New: in 0/10 trials without the patch, in 10/10 with it (p = 0.000011)",
        "\n  WARNING: lockdep_assert_cpus_held in flush_all_cpus_locked\n",
        "\n   flush_all_cpus_locked at mm/slub.c:3406\n",
        "locks gone cpu_hotplug_lock -> mem_hotplug_lock 10/10 -> 0/10",
        "--source linux-source-6.12 --scenario dimm-and-cpu.toml --seed 17520682115816431323",
    ] {
        assert!(mail.contains(part), "{part}\n{mail}");
    }
}

/// A run whose scenario requires a race that never happened.
#[test]
fn a_race_that_never_came_is_told_in_every_form() {
    let (home, _) = kept::home(&kept_runs().join("raced-6.1"), "2026-11-28T12-40-38-seed");
    let race = "mem_hotplug_begin..mem_hotplug_done and takedown_cpu";
    for (form, said) in [
        ("--ktap", "not ok 8 all pairs that the scenario races overlapped"),
        ("--junit", "name=\"all pairs that the scenario races overlapped\""),
        ("--mail", "INCONCLUSIVE: never overlapped:"),
        ("--html", "Raced by the scenario, but never overlapped on either side"),
    ] {
        let text = kept::said(home.path(), &["report", "last", form]);
        assert!(text.contains(said) && text.contains(race), "{form} {text}");
    }
}

#[test]
fn ci_files_have_each_expectation_and_each_finding() {
    let (home, folder) = home();
    let ktap = said(&home, &["2026-11-27", "--ktap"]);
    assert!(
        ktap.starts_with("KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: dimm-and-cpu\n    1..9\n")
    );
    assert!(
        ktap.contains("\n    not ok 1 the verdict\n") && ktap.contains("\n    ok 6 planted bugs are found\n")
    );
    assert!(ktap.ends_with("\nnot ok 1 dimm-and-cpu\n"), "{ktap}");
    let junit = said(&home, &[folder.to_str().unwrap(), "--junit"]);
    assert!(
        junit.contains(
            "<testsuite name=\"dimm-and-cpu\" tests=\"9\" skipped=\"0\" errors=\"0\" failures=\"3\""
        ),
        "{junit}"
    );
    assert!(
        junit.contains("<failure message=\"before 0/10, after 10/10, p = 0.000011\">lockdep_assert"),
        "{junit}"
    );
    let summary = said(&home, &["last", "--github-summary"]);
    assert!(
        summary.starts_with("## REGRESSED: 2 new") && summary.contains("| pass | all changed lines ran |  |"),
        "{summary}"
    );
    let annotations = said(&home, &["last", "--github-annotations"]);
    assert_eq!(annotations.lines().count(), 3, "{annotations}");
    assert!(
        annotations.lines().filter(|line| line.starts_with("::error file=")).count() == 2,
        "{annotations}"
    );
    let screen = said(&home, &["last"]);
    assert!(screen.contains("REGRESSED   2 new, 0 fixed, 0 common"), "{screen}");
    let coloured = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
        let output =
            command.current_dir(home.path()).env(name, "1").args(["report", "last"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("\u{1b}[31mREGRESSED")
    };
    assert!(coloured("CLICOLOR_FORCE") && !coloured("NO_COLOR"));
}

/// The schema is the one of Jenkins, which other systems adopted. xmllint is part of libxml2.
#[test]
fn junit_is_valid() {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schemas/junit-10.xsd");
    for run in std::fs::read_dir(kept_runs()).unwrap() {
        let (home, folder) = kept::home(&run.unwrap().path(), NAME);
        let file = folder.join("junit.xml");
        std::fs::write(&file, said(&home, &["last", "--junit"])).unwrap();
        let mut xmllint = Command::new("xmllint");
        let checked = xmllint.args(["--noout", "--nonet", "--schema"]).arg(&schema).arg(&file).output();
        let checked = checked.unwrap_or_else(|error| panic!("xmllint, which `make test` installs: {error}"));
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// The published schema describes the results of this version and of earlier ones.
#[test]
fn results_are_as_the_published_schema_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/result.schema.json");
    let made = format!("{:#}\n", hotplug::record::schema());
    if std::env::var_os("HOTPLUG_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap();
    assert!(published == made, "HOTPLUG_WRITE_SCHEMA=1 cargo test --test report writes {}", path.display());
    let events = path.with_file_name("events.schema.json");
    let made = format!("{:#}\n", hotplug::present::stream::schema());
    if std::env::var_os("HOTPLUG_WRITE_SCHEMA").is_some() {
        std::fs::write(&events, &made).unwrap();
    }
    assert!(
        std::fs::read_to_string(&events).unwrap() == made,
        "HOTPLUG_WRITE_SCHEMA=1 writes {}",
        events.display()
    );
    let validator = jsonschema::validator_for(&serde_json::from_str(&published).unwrap()).unwrap();
    let mut runs = 0;
    for run in std::fs::read_dir(kept_runs()).unwrap() {
        let folder = run.unwrap().path();
        let mut result = kept::result(&folder);
        let errors: Vec<String> = validator.iter_errors(&result).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", folder.display());
        result["trials"]["before"]["clean"] = "ten".into();
        assert!(!validator.is_valid(&result));
        // The result can also be read.
        let (home, _) = kept::home(&folder, NAME);
        assert!(said(&home, &["last"]).contains("hotplug compare"));
        runs += 1;
    }
    assert!(runs >= 3, "{runs}");
}

#[test]
fn a_page_needs_nothing_else() {
    let (home, _) = home();
    let page = said(&home, &["last", "--html"]);
    for part in [
        "<span class=\"verdict bad\">REGRESSED</span> 2 new, 0 fixed, 0 common",
        "after in <strong>10/10</strong>, p = 0.000011",
        "flush_all_cpus_locked at mm/slub.c:3406",
        "<img src=\"data:image/svg+xml;base64,",
        "hotplug replay results/",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let fetches = ["http://", "https://", "<link", "url(", " src=\"h", "import"];
    assert!(fetches.iter().all(|what| !page.contains(what)), "{page}");
    assert_eq!(page.matches("<script>").count(), 1, "{page}");
}

#[test]
fn a_wrong_name_is_told_with_the_mend() {
    let (home, _) = home();
    report(&home, &["2025"])
        .code(2)
        .stderr(predicate::str::contains("no run below results whose name begins with it"));
    report(&home, &["last", "--mail", "--ktap"])
        .code(2)
        .stderr(predicate::str::contains("cannot be used with"));
}

#[test]
fn shells_and_manuals_are_served() {
    let (home, folder) = home();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
        let output = command.current_dir(home.path()).args(arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (status, text, _) = run(&["completions", "bash"]);
    assert!(status == Some(0) && text.contains("COMPLETE=\"bash\""), "{text}");
    let (status, text, _) = run(&["man", "pages"]);
    assert!(status == Some(0) && text.ends_with(" pages in pages\n"), "{text}");
    let page = std::fs::read_to_string(home.path().join("pages/man1/hotplug-compare.1")).unwrap();
    assert!(page.contains("json\\-lines"), "{page}");
    let page = std::fs::read_to_string(home.path().join("pages/man5/hotplug-scenario.5")).unwrap();
    assert!(page.contains("memhp") || page.contains("memory"), "{page}");
    let (status, _, error) = run(&["open", "last"]);
    assert!(
        status == Some(2) && error.contains("there is no results/2026-11-27T09-22-07-seed/report.html"),
        "{error}"
    );
    std::fs::write(folder.join("report.html"), "").unwrap();
    let mut open = Command::new(env!("CARGO_BIN_EXE_hotplug"));
    let open = open.current_dir(home.path()).env("PATH", "/nowhere").args(["open", "last"]);
    open.assert().code(0).stdout("results/2026-11-27T09-22-07-seed/report.html\n");
}

/// What the script of bash gets for the last of these words.
fn completed(home: &tempfile::TempDir, words: &[&str]) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
    let asked = command.current_dir(home.path()).env("COMPLETE", "bash").env("_CLAP_IFS", "\n");
    asked.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string()).arg("--").args(words);
    let output = asked.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn completions_know_runs_scenarios_and_known_bugs() {
    let (home, _) = home();
    let runs = completed(&home, &["hotplug", "open", ""]);
    assert!(runs.starts_with(&["last".to_owned(), NAME.to_owned()]), "{runs:?}");
    let elsewhere = completed(&home, &["hotplug", "open", "--results", "none", "l"]);
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    assert_eq!(completed(&home, &["hotplug", "compare", "--scenario", "dimm-"]), ["dimm-and-cpu"]);
    assert!(
        completed(&home, &["hotplug", "prove", "planted-lock"])
            .contains(&"planted-lock-inversion".to_owned())
    );
    assert!(completed(&home, &["hotplug", "compare", "--vmc"]).iter().any(|one| one.starts_with("--vmcore")));
}

#[test]
fn the_history_is_made_of_results_and_tells_of_scenarios_and_signatures() {
    let (home, folder) = home();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
        let output = command.current_dir(home.path()).arg("history").args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, _, error) = run(&[]);
    assert!(status == Some(2) && error.contains("results has no history yet"), "{error}");
    let broken = home.path().join("results/2026-11-28T00-00-00-broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("result.json"), "{").unwrap();
    for _ in 0..2 {
        let (status, text, _) = run(&["import", "results"]);
        assert!(
            status == Some(0) && text.ends_with("1 runs of results are in results/history.sqlite\n"),
            "{text}"
        );
        assert!(
            text.starts_with("skipped: cannot read results/2026-11-28T00-00-00-broken/result.json"),
            "{text}"
        );
    }
    let (_, text, _) = run(&[]);
    assert!(
        text.contains("dimm-and-cpu                                  1          1  2026-11-27"),
        "{text}"
    );
    assert!(
        text.contains("328c42f9e95e  WARNING: lockdep_assert_cpus_held in flush_all_cpus_locked"),
        "{text}"
    );
    assert!(text.contains("before 0/10 (0 % to 31 %), after 10/10 (69 % to 100 %)"), "{text}");
    let (_, text, _) = run(&["dimm-and-cpu"]);
    assert!(text.contains("2026-11-27 09:22 REGRESSED       10 + 10  0001-mm-memory_hotplug"), "{text}");
    let (_, text, _) = run(&["328c"]);
    assert!(text.contains("2026-11-27 09:22 REGRESSED        0 + 10"), "{text}");
    let (status, _, error) = run(&["nothing"]);
    assert!(status == Some(2) && error.contains("no scenario is called nothing"), "{error}");
    drop(folder);
}

/// A writer that is killed leaves a consistent history: it has a run with all its findings, or not
/// at all.
#[test]
fn a_history_survives_its_writer_killed_at_any_moment() {
    let (home, folder) = home();
    for number in 0..60 {
        let other = home.path().join(format!("results/2026-11-27T09-23-{number:02}-seed"));
        kept::copy(&folder, &other);
        let mut result = kept::result(&other);
        result["run"]["id"] = other.file_name().unwrap().to_str().unwrap().into();
        std::fs::write(other.join("result.json"), result.to_string()).unwrap();
    }
    let file = home.path().join("results/history.sqlite");
    let mut partly = 0;
    for moment in 0..25_u64 {
        let mut import = std::process::Command::new(env!("CARGO_BIN_EXE_hotplug"));
        import.current_dir(home.path()).args(["history", "import", "results"]);
        let mut import = import.stdout(std::process::Stdio::null()).spawn().unwrap();
        // The moment is the parameter of the test, so this sleep replaces no wait for an event.
        std::thread::sleep(std::time::Duration::from_millis(moment * 8));
        import.kill().unwrap();
        import.wait().unwrap();
        if file.exists() {
            let there = rusqlite::Connection::open(&file).unwrap();
            let whole: String = there.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(whole, "ok", "{moment}");
            let count = |of: &str| -> u32 {
                there.query_row(&format!("SELECT count(*) FROM {of}"), [], |row| row.get(0)).unwrap()
            };
            if count("sqlite_schema WHERE name = 'run'") == 1 {
                let runs = count("run");
                assert_eq!(count("finding"), 2 * runs, "{moment}");
                partly += u32::from((1..61).contains(&runs));
            }
        }
        // Each moment begins without a history.
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
        }
    }
    assert!(partly > 0, "no moment was one at which it wrote");
    let all = kept::said(home.path(), &["history", "import", "results"]);
    assert!(all.ends_with("61 runs of results are in results/history.sqlite\n"), "{all}");
}

//! Programs of the user, on a real kernel.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use predicates::prelude::*;
use serde_json::{Value, json};

use crate::common::{Run, SCENARIO};

/// A program that ends, fails or does not end, as its argument says.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words)
{
    const char *word = count > 1 ? words[1] : "";
    if (!strcmp(word, "fork"))
        for (;;)
            fork();
    if (!strcmp(word, "print"))
        for (;;)
            puts("without end");
    if (!strcmp(word, "crash"))
        abort();
    printf("%s %s\n", getenv("GREETING"), word);
    return atoi(word);
}
"#;

/// Builds the program, static, in `folder`.
fn built(folder: &Path) -> PathBuf {
    let (source, program) = (folder.join("program.c"), folder.join("program"));
    std::fs::write(&source, PROGRAM).unwrap();
    let done =
        Command::new("gcc").args(["-O1", "-static", "-o"]).arg(&program).arg(&source).status().unwrap();
    assert!(done.success());
    program
}

/// The default scenario with these tables of programs and these steps in a lane of their own.
fn scenario(folder: &Path, tables: &str, steps: &str) -> PathBuf {
    let text = format!("{SCENARIO}\n{tables}\n[[lane]]\nname = \"programs\"\nsteps = [{steps}]\n");
    let file = folder.join("programs.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn table(name: &str, word: &str) -> String {
    format!(
        "[[program]]\nname = \"{name}\"\nfiles = \"program\"\nrun = [\"program\", \"{word}\"]\nenv = {{ GREETING = \"hello\" }}\nlimit_s = 3\n\n"
    )
}

/// How each program ended, by its name.
fn ends(trial: &Value) -> Vec<(String, Value)> {
    let operations = trial["operations"].as_array().unwrap();
    let of = |one: &Value| Some((one["operation"]["program"].as_str()?.to_owned(), one["outcome"].clone()));
    operations.iter().filter_map(of).collect()
}

#[test]
fn programs_run_fail_and_are_ended_and_their_files_are_kept() {
    let run = Run::new();
    let own = tempfile::tempdir().unwrap();
    let folder = own.path();
    let program = built(folder);
    let names = [("good", "0"), ("bad", "3"), ("crash", "crash"), ("fork", "fork"), ("print", "print")];
    let tables: String = names.iter().map(|(name, word)| table(name, word)).collect();
    let steps = names.map(|(name, _)| {
        let expect = if name == "good" || name == "bad" { "" } else { ", expect = \"any\"" };
        format!("{{ program = \"{name}\"{expect} }}")
    });
    let file = scenario(folder, &tables, &steps.join(", "));
    run.compare().args(["--same", "--trials", "1", "--scenario"]).arg(&file).assert().code(3);
    // A program that never succeeds has tested nothing.
    let result = run.result();
    assert_eq!(result["reason"], "not tested: no program bad ever succeeded in the before trials");

    let trial = run.trial("after-000");
    let mut ended = ends(&trial);
    // Its last line is cut off wherever it was when it was killed.
    let (_, print) = ended.pop().unwrap();
    let how = print["refused-by-guest"]["how"].as_str().unwrap();
    assert!(how.starts_with("killed at its limit: w"), "{how}");
    let refused = |how: &str| json!({ "refused-by-guest": { "how": how } });
    let expected = [
        ("good", json!("done")),
        ("bad", refused("exit status 3: hello 3")),
        ("crash", refused("ended by signal 6")),
        ("fork", refused("killed at its limit")),
    ];
    assert_eq!(ended, expected.map(|(name, end)| (name.to_owned(), end)), "{trial:#}");
    // What a program left behind is gone, so the accounts are right.
    assert_eq!(trial["mismatches"], json!([]), "{trial:#}");
    let trials = run.folder().join("trials/after-000");
    assert_eq!(std::fs::read_to_string(trials.join("program-good-000.log")).unwrap(), "hello 0\n");
    let printed = std::fs::read_to_string(trials.join("program-print-000.log")).unwrap();
    assert!(printed.contains("bytes were not kept]") && printed.len() < 70_000, "{}", printed.len());
    // The step without `expect` is a finding.
    let reports = result["reports"].as_array().unwrap();
    let found: Vec<&Value> = reports.iter().filter(|report| report["kind"] == "program").collect();
    assert_eq!(found.len(), 1, "{reports:#?}");
    assert_eq!(found[0]["title"], "program bad: exit status 3: hello 3");

    // A replay takes the files of the run.
    std::fs::remove_file(program).unwrap();
    let mut replay = assert_cmd::Command::from_std(Command::new(env!("CARGO_BIN_EXE_hotplug")));
    replay.arg("replay").arg(&trials).args(["--times", "1"]).arg("--results").arg(run.results());
    replay.assert().code(predicate::in_iter([0, 1])).stdout(predicate::str::contains("program bad"));
    run.assert_nothing_left();
}

#[test]
fn a_load_tells_how_often_its_program_failed() {
    let run = Run::new();
    let own = tempfile::tempdir().unwrap();
    let folder = own.path();
    built(folder);
    let load = "[guest]\nload = [{ kind = \"program\", program = \"bad\", workers = 1, rate = 20, expect = \"done\" }]\n";
    let start = SCENARIO.find("[guest]").unwrap();
    let end = start + SCENARIO[start..].find("\n[[").unwrap();
    let text = format!("{}{load}{}\n{}", &SCENARIO[..start], &SCENARIO[end..], table("bad", "3"));
    let file = folder.join("load.toml");
    std::fs::write(&file, text).unwrap();
    run.compare().args(["--same", "--trials", "1", "--scenario"]).arg(&file).assert().code(0);
    let trial = run.trial("before-000");
    let failures = &trial["load_failures"][0];
    assert_eq!((&failures["program"], &failures["must_succeed"]), (&json!("bad"), &json!(true)));
    assert_eq!(failures["last"], "exit status 3: hello 3");
    assert!(failures["number"].as_u64().unwrap() > 0 && trial["load_loops"] == json!([0]), "{trial:#}");
    let reports = run.result()["reports"].as_array().unwrap().clone();
    assert!(
        reports.iter().any(|report| report["title"] == "program bad, in a load: exit status 3: hello 3"),
        "{reports:#?}"
    );
    run.assert_nothing_left();
}

#[test]
fn a_program_that_no_guest_can_start_is_refused_before_anything_is_built() {
    let run = Run::new();
    let own = tempfile::tempdir().unwrap();
    let folder = own.path();
    std::fs::copy("/bin/sh", folder.join("program")).unwrap();
    let file = scenario(folder, &table("own", ""), "{ program = \"own\" }");
    let said = "program own: program needs /lib64/ld-linux-x86-64.so.2, which the guest does not have";
    run.compare()
        .args(["--same", "--scenario"])
        .arg(&file)
        .assert()
        .code(2)
        .stderr(predicate::str::contains(said));
    assert!(!run.results().exists());
}

//! The guest after its kernel has ended: vmcores, a shell and gdb.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use predicates::prelude::*;
use serde_json::json;

use crate::only;
use crate::world::{Edit, Toy, WARNS};

/// The kernel panics each time that a DIMM is plugged.
const PANICS: Edit = Edit {
    file: WARNS.file,
    old: WARNS.old,
    new: "\tHAPPENS(\"plug dimm; 1; panic\");\n\n\treturn pfn > nr_pages;\n",
};

/// A toy whose after kernel panics, or warns, in the first trial.
fn run_of(edit: Edit) -> (Toy, PathBuf) {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("wrong", edit)]);
    toy.compare(Some(&patch)).args(["--trials", "1"]).assert().code(3);
    let trial = toy.run.folder().join("trials/after-000");
    (toy, trial)
}

#[test]
fn the_first_panics_leave_a_vmcore_and_the_others_a_reason() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("panic", PANICS)]);
    let screen = toy.compare(Some(&patch)).args(["--trials", "4", "--vmcore=2"]).assert();
    let screen = String::from_utf8_lossy(&screen.code(1).get_output().stdout).into_owned();
    let result = toy.run.result();
    let all = result["vmcores"].as_array().unwrap();
    let kept: Vec<_> = all.iter().filter(|one| one["vmcore"]["kept"]["bytes"] == 19).collect();
    assert_eq!((all.len(), kept.len()), (4, 2), "{all:#?}");
    for one in &kept {
        let file = toy.run.folder().join(one["trial"].as_str().unwrap()).join("vmcore");
        assert_eq!(std::fs::read(&file).unwrap(), b"KDUMP   of the fake");
        let line = format!("crash {} ", one["vmlinux"].as_str().unwrap());
        assert!(screen.contains(&line) && screen.contains("/vmcore\n"), "{screen}");
    }
    let why = "the run has as many as were asked for, 2";
    let others = all.iter().filter(|one| one["vmcore"]["not-kept"]["why"] == why);
    assert_eq!(others.count(), 2, "{all:#?}");
    assert!(screen.contains(why), "{screen}");
    // What is judged is the same as without.
    let trial = toy.run.trial("after-000");
    assert_eq!(trial["outcome"], "panicked");
    assert_eq!(trial["why"], "the kernel panicked");
    assert_eq!(toy.run.trial("before-000")["vmcore"], json!(null));
    assert_eq!(result["run"]["spec"]["kernels"]["full_debug_info"], true);
    toy.run.assert_nothing_left();
}

#[test]
fn that_no_vmcore_was_needed_is_said() {
    let toy = Toy::new();
    let screen = toy.compare(None).args(["--trials", "1", "--vmcore"]).assert();
    screen.stdout(predicate::str::contains("vmcore    none: no trial panicked or hung\n"));
    assert_eq!(toy.run.result()["vmcores"], json!([]));
}

/// Starts a replay with the trial's guest handed over, types `keys`, and returns the exit status, the
/// standard output and the standard error.
fn hand_over(toy: &Toy, words: &[&str], keys: &str) -> (Option<i32>, String, String) {
    let command = toy.hotplug(words);
    let mut plain = std::process::Command::new(command.get_program());
    plain.args(command.get_args());
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    plain.envs(set).env_remove("HOTPLUG_FAKE").current_dir(toy.path(""));
    // The fake does not run it. It only has to be a static program.
    let bin = toy.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join("busybox"), hotplug::image::AGENT).unwrap();
    std::fs::set_permissions(bin.join("busybox"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    plain.env("PATH", format!("{}:{path}", bin.display()));
    plain.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = plain.spawn().unwrap();
    child.stdin.take().unwrap().write_all(keys.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_replay_leaves_a_shell_and_what_is_typed_there_is_no_part_of_it() {
    let (toy, trial) = run_of(WARNS);
    let trial = trial.to_str().unwrap();
    let results = toy.path("replays");
    let at = ["--results", results.to_str().unwrap()];
    let words = [&["replay", trial, "--shell"][..], &at].concat();
    let (status, out, err) = hand_over(&toy, &words, "uname -a\n");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(out.starts_with("guest: uname -a\n"), "{out}{err}");
    assert!(out.contains("came again in 1 of 1"), "{out}");
    assert!(err.contains("shell     the trial is over"), "{err}");
    // The busybox goes with the run, so that its guests are the same again.
    let files = std::fs::read(only(&results).join("programs/toy.cpio")).unwrap();
    assert!(files.windows(22).any(|name| name == b"programs/shell/busybox"));
    // Ctrl-] leaves a shell that does not end.
    let (status, out, err) = hand_over(&toy, &words, "\x1d");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(out.starts_with("hotplug replay") && out.contains("came again in 1 of 1"), "{out}");
    toy.run.assert_nothing_left();
}

#[test]
fn a_panicked_guest_has_no_shell_but_a_gdbstub() {
    let (toy, trial) = run_of(PANICS);
    let trial = trial.to_str().unwrap();
    let vmlinux = toy.run.json("run.json")["kernels"]["after"]["image"].clone();
    let vmlinux = vmlinux.as_str().unwrap().replace("bzImage", "vmlinux");
    let (status, out, err) = hand_over(&toy, &["replay", trial, "--shell"], "");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(err.contains("note      the guest is not handed over: its kernel has ended"), "{err}");
    let (status, out, err) = hand_over(&toy, &["replay", trial, "--gdb"], "\n");
    assert_eq!(status, Some(0), "{out}{err}");
    let line = format!("  gdb {vmlinux} -ex 'target remote 127.0.0.1:40001'");
    assert!(err.contains(&line), "{line}\n{err}");
    assert!(out.contains("came again in 1 of 1"), "{out}");
}

#[test]
fn a_guest_cannot_be_handed_over_twice() {
    let toy = Toy::new();
    for words in [["--shell", "--gdb"], ["--shell", "--times=2"]] {
        let error = toy.hotplug(&["replay", "last"]).args(words).assert().code(2);
        error.stderr(predicate::str::contains("cannot be used with"));
    }
}

//! Shards of a plan: run in any order, and merged.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use serde_json::Value;

use crate::read;
use crate::world::{Edit, Toy, WARNS};

/// The kernel always prints one warning, and another by chance. The reports of a trial depend only
/// on its seed and its number.
const WARNS_BY_CHANCE: Edit = Edit {
    new: "\tHAPPENS(\"plug dimm; 1; report cpus-held\");\n\tHAPPENS(\"unplug dimm; 0.5; report warn-on\");\n\n\treturn pfn > nr_pages;\n",
    ..WARNS
};

/// A matrix of a patch that warns, with six trials a side in three shards.
fn matrix(toy: &Toy, name: &str) -> PathBuf {
    let folder = toy.path("matrix");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(toy.path("toy.toml"), folder.join("toy.toml")).unwrap();
    let patches = toy.patches("patches", &[("warn", WARNS_BY_CHANCE)]);
    let file = folder.join("matrix.toml");
    let (source, patches) = (toy.source().display().to_string(), patches.display().to_string());
    let text = format!(
        "name = {name:?}\ntrials = 6\nshard = 2\nseeds = [7]\nscenarios = [\"toy.toml\"]\n\n\
         [[kernel]]\nname = \"seed\"\nsource = {source:?}\npatches = [{patches:?}]\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// A command of the Kubernetes document, as a container would run it, with this test's plan and
/// cache.
fn in_a_pod(toy: &Toy, plan: &str, index: &str, number: usize) -> assert_cmd::Command {
    let document = include_str!("../../../../docs/fleet-kubernetes.yml");
    let commands = document.lines().filter_map(|line| line.split_once("exec hotplug "));
    let words: Vec<&str> = commands.map(|(_, words)| words.trim_end_matches("']")).collect();
    assert_eq!(words.len(), 3, "{words:?}");
    let script = format!("exec \"$HOTPLUG\" {}", words[number].replace("/fleet/kernels", "\"$KERNELS\""));
    let mut command = assert_cmd::Command::new("sh");
    toy.settle_in(&mut command);
    command.args(["-c", &script]).env("HOTPLUG", env!("CARGO_BIN_EXE_hotplug"));
    command.env("KERNELS", toy.path("cache/hotplug"));
    command.env("PLAN", plan).env("JOB_COMPLETION_INDEX", index);
    command
}

/// Makes the plan. Returns its folder and the ids of its shards.
fn plan(toy: &Toy, name: &str) -> (String, Vec<String>) {
    let matrix = matrix(toy, name);
    toy.hotplug(&["plan", "--out", "fleet", matrix.to_str().unwrap()]).assert().code(0);
    let folder = crate::only(&toy.path("fleet"));
    let plan = read(&folder.join("plan.json"));
    let pieces = plan["cells"][0]["pieces"].as_array().unwrap();
    let ids = pieces.iter().map(|piece| piece["id"].as_str().unwrap().to_owned()).collect();
    (folder.to_str().unwrap().to_owned(), ids)
}

fn merged(plan: &str) -> Value {
    read(&Path::new(plan).join("merged/0000/result.json"))
}

/// The part of a result that must not depend on how trials were distributed over shards.
fn told(result: &Value) -> Value {
    let mut told = serde_json::json!({ "verdict": result["verdict"], "reason": result["reason"], "trials": result["trials"] });
    let findings = result["reports"].as_array().unwrap().iter().map(|one| {
        serde_json::json!([
            one["signature"],
            one["class"],
            one["before"],
            one["after"],
            one["p"],
            one["decided"]
        ])
    });
    told["findings"] = findings.collect();
    told
}

#[test]
fn shards_in_any_order_come_to_what_one_run_comes_to() {
    let toy = Toy::new();
    let patch = toy.patches("patch", &[("warn", WARNS_BY_CHANCE)]);
    toy.compare(Some(&patch)).args(["--trials", "6", "--seed", "7"]).assert().code(1);
    let whole = toy.run.result();

    let (plan, ids) = plan(&toy, "three parts");
    toy.hotplug(&["work", &plan, "--build", "0"]).assert().code(0).stdout(predicate::str::contains("built"));
    // A shard that finds the kernels in the cache needs no source.
    let file = Path::new(&plan).join("plan.json");
    let planned = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, planned.replace(&format!("{:?}", toy.source()), "\"/no/such/source\"")).unwrap();
    toy.hotplug(&["work", &plan, "2", "--workers", "1"]).assert().code(0);
    std::fs::write(&file, planned).unwrap();
    toy.hotplug(&["work", &plan, &ids[1], "--workers", "1"])
        .assert()
        .code(0)
        .stdout(predicate::str::contains("done"));
    // The remaining shard and the merge, by the commands of docs/fleet-kubernetes.yml.
    let pod = |number: usize| in_a_pod(&toy, &plan, "0", number);
    pod(0).assert().code(0).stdout(predicate::str::contains("built"));
    pod(1).assert().code(0).stdout(predicate::str::contains("done"));
    pod(2).assert().code(1).stdout(predicate::str::contains("REGRESSED"));
    let all = merged(&plan);
    assert_eq!(told(&all), told(&whole));
    // The merged run is a run like any other: its example exists, its page shows the example, and
    // it has a mail.
    let example = all["reports"][0]["example"].as_str().unwrap();
    let merged_run = Path::new(&plan).join("merged/0000");
    assert!(merged_run.join(example).join("kmsg.log").is_file(), "{example}");
    let page = std::fs::read_to_string(merged_run.join("report.html")).unwrap();
    assert!(page.contains(&format!("id=\"{}\"", example.strip_prefix("trials/").unwrap())), "{page}");
    let mail = toy.hotplug(&["report", "--mail", merged_run.to_str().unwrap()]).assert().code(0);
    mail.stdout(predicate::str::contains("lockdep_assert_cpus_held"));
    // A shard that is done is not run again.
    toy.hotplug(&["work", &plan, "0"]).assert().code(0).stdout(predicate::str::contains("was done before"));

    // One shard is in another folder, one is of another kernel, one is torn. Then one is missing.
    let shards = Path::new(&plan).join("shards");
    let elsewhere = toy.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::rename(shards.join(&ids[0]), elsewhere.join(&ids[0])).unwrap();
    let file = |id: &str| shards.join(id).join("shard.json");
    let text = std::fs::read_to_string(file(&ids[1])).unwrap();
    let hash = whole["run"]["kernels"]["after"]["image_hash"].as_str().unwrap();
    std::fs::write(file(&ids[1]), text.replace(hash, &"0".repeat(hash.len()))).unwrap();
    let text = std::fs::read(file(&ids[2])).unwrap();
    std::fs::write(file(&ids[2]), &text[..text.len() / 2]).unwrap();
    let output =
        toy.hotplug(&["merge", &plan, elsewhere.to_str().unwrap()]).assert().get_output().stdout.clone();
    let screen = String::from_utf8(output).unwrap();
    for said in [
        &format!("{}: its kernel after is 0000000000000000", ids[1]),
        "is torn",
        "merged    1 of 3 shards",
        "PARTIAL",
    ] {
        assert!(screen.contains(said), "no \"{said}\" in\n{screen}");
    }
    let part = merged(&plan);
    assert_eq!(part["trials"]["after"]["trials"], 2);
    assert!(part["reason"].as_str().unwrap().starts_with("partial, 4 of 12 trials"), "{part:#}");
    toy.hotplug(&["merge", &plan])
        .assert()
        .code(3)
        .stdout(predicate::str::contains(format!("{}: it is missing", ids[0])));
}

#[test]
fn so_many_trials_are_asked_for_first() {
    let toy = Toy::new();
    let matrix = matrix(&toy, "a; rm -rf ~");
    let fleet = toy.path("fleet");
    let words = ["plan", "--most", "11", "--out", fleet.to_str().unwrap(), matrix.to_str().unwrap()];
    toy.hotplug(&words).assert().code(2).stderr(predicate::str::contains("makes 12 trials, more than 11"));
    assert!(!fleet.exists());
    toy.hotplug(&words).arg("--yes").assert().code(0);
    let folder = crate::only(&fleet);
    let shown = toy.hotplug(&["submit", "--slurm", "--dry-run", folder.to_str().unwrap()]).assert().code(0);
    let shown = String::from_utf8(shown.get_output().stdout.clone()).unwrap();
    assert!(!shown.contains(';') && !shown.contains("rm -rf"), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.starts_with("sbatch ")).count(), 3, "{shown}");
}

/// Slurm accepts no array of more than a thousand tasks.
#[test]
fn a_plan_of_many_shards_becomes_several_arrays() {
    let toy = Toy::new();
    let matrix = matrix(&toy, "many");
    let text = std::fs::read_to_string(&matrix).unwrap();
    std::fs::write(&matrix, text.replace("trials = 6\nshard = 2", "trials = 2500\nshard = 1")).unwrap();
    let fleet = toy.path("fleet");
    toy.hotplug(&["plan", "--out", fleet.to_str().unwrap(), matrix.to_str().unwrap()]).assert().code(0);
    let folder = crate::only(&fleet);
    let said = |more: &[&str]| {
        let mut command = toy.hotplug(&["submit", "--slurm", "--dry-run", folder.to_str().unwrap()]);
        let shown = command.args(more).assert().code(0).get_output().stdout.clone();
        String::from_utf8(shown).unwrap()
    };
    let shown = said(&[]);
    let jobs: Vec<&str> = shown.lines().filter(|line| line.starts_with("sbatch ")).collect();
    let arrays: Vec<_> =
        jobs.iter().filter_map(|job| job.split("--array=").nth(1)?.split(' ').next()).collect();
    assert_eq!(arrays, ["0-0", "0-999", "0-999", "0-499"], "{shown}");
    assert!(jobs[3].contains("--dependency=afterok:BUILD0"), "{shown}");
    assert!(jobs[4].contains("--dependency=afterany:TRIALS0:TRIALS1:TRIALS2"), "{shown}");
    assert!(shown.contains("\"$((2000 + SLURM_ARRAY_TASK_ID))\" --workers"), "{shown}");
    // The limit of forty applies to all three arrays together.
    let shown = said(&["--at-once", "40"]);
    assert!(shown.contains("--array=0-499%40"), "{shown}");
    assert!(shown.contains("--dependency=afterok:BUILD0,afterany:TRIALS1"), "{shown}");
}

#[test]
fn a_shard_that_another_works_on_is_left_alone() {
    let toy = Toy::new();
    let (plan, ids) = plan(&toy, "twice");
    let place = Path::new(&plan).join("shards").join(&ids[0]);
    std::fs::create_dir_all(&place).unwrap();
    let folder = std::fs::File::open(&place).unwrap();
    let other = nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    let said = predicate::str::contains(format!("shard {} cannot be run", ids[0]))
        .and(predicate::str::contains("in use by another hotplug process"));
    toy.hotplug(&["work", &plan, "0"]).assert().code(4).stderr(said);
    drop(other);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

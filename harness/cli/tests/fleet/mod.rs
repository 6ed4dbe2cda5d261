//! Shards of a plan: run in any order and on Slurm, and merged.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use predicates::prelude::*;
use serde_json::Value;

use crate::common::{Run, SCENARIO, default_source, patch};

/// A matrix of the seed patch, with six trials a side in three shards.
fn matrix(run: &Run, name: &str) -> PathBuf {
    let folder = run.results().with_file_name("matrix");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("dimm-and-cpu.toml"), SCENARIO).unwrap();
    let file = folder.join("matrix.toml");
    let text = format!(
        "name = {name:?}\ntrials = 6\nshard = 2\nseeds = [7]\nscenarios = [\"dimm-and-cpu.toml\"]\n\n[[kernel]]\nname = \"seed\"\nsource = {:?}\npatches = [\"{}\"]\n",
        default_source(),
        patch("seed").display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn hotplug(words: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::from_std(Command::new(env!("CARGO_BIN_EXE_hotplug")));
    command.args(words);
    command
}

/// A command of the Kubernetes document, as a container would run it, with this test's plan and
/// cache.
fn in_a_pod(plan: &str, index: &str, number: usize) -> assert_cmd::Command {
    let document = include_str!("../../../../docs/fleet-kubernetes.yml");
    let commands = document.lines().filter_map(|line| line.split_once("exec hotplug "));
    let words: Vec<&str> = commands.map(|(_, words)| words.trim_end_matches("']")).collect();
    assert_eq!(words.len(), 3, "{words:?}");
    let script = format!("exec \"$HOTPLUG\" {}", words[number].replace("/fleet/kernels", "\"$KERNELS\""));
    let mut command = assert_cmd::Command::new("sh");
    command.args(["-c", &script]).env("HOTPLUG", env!("CARGO_BIN_EXE_hotplug"));
    command.env("KERNELS", cache()).env("PLAN", plan).env("JOB_COMPLETION_INDEX", index);
    command
}

/// The kernel cache of the tests.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("hotplug")
}

/// Makes the plan. Returns its folder and the ids of its shards.
fn plan(run: &Run, name: &str) -> (String, Vec<String>) {
    let fleet = run.results().with_file_name("fleet");
    let matrix = matrix(run, name);
    hotplug(&["plan", "--out", fleet.to_str().unwrap(), matrix.to_str().unwrap()]).assert().code(0);
    let folder = std::fs::read_dir(&fleet).unwrap().next().unwrap().unwrap().path();
    let plan: Value = serde_json::from_slice(&std::fs::read(folder.join("plan.json")).unwrap()).unwrap();
    let pieces = plan["cells"][0]["pieces"].as_array().unwrap();
    let ids = pieces.iter().map(|piece| piece["id"].as_str().unwrap().to_owned()).collect();
    (folder.to_str().unwrap().to_owned(), ids)
}

fn merged(plan: &str) -> Value {
    serde_json::from_slice(&std::fs::read(Path::new(plan).join("merged/0000/result.json")).unwrap()).unwrap()
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
fn nightly_shards_in_any_order_come_to_what_one_run_comes_to() {
    let run = Run::new();
    run.compare_default().arg(patch("seed")).args(["--trials", "6", "--seed", "7"]).assert().code(1);
    let whole = run.result();

    let (plan, ids) = plan(&run, "three parts");
    hotplug(&["work", &plan, "--build", "0"]).assert().code(0).stdout(predicate::str::contains("built"));
    // A shard that finds the kernels in the cache needs no source.
    let file = Path::new(&plan).join("plan.json");
    let planned = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, planned.replace(&format!("{:?}", default_source()), "\"/no/such/source\""))
        .unwrap();
    hotplug(&["work", &plan, "2", "--workers", "1"]).assert().code(0);
    std::fs::write(&file, planned).unwrap();
    hotplug(&["work", &plan, &ids[1], "--workers", "1"])
        .assert()
        .code(0)
        .stdout(predicate::str::contains("done"));
    // The remaining shard and the merge, by the commands of docs/fleet-kubernetes.yml.
    let pod = |number: usize| in_a_pod(&plan, "0", number);
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
    let mail = hotplug(&["report", "--mail", merged_run.to_str().unwrap()]).assert().code(0);
    mail.stdout(predicate::str::contains("lockdep_assert_cpus_held"));
    // A shard that is done is not run again.
    hotplug(&["work", &plan, "0"]).assert().code(0).stdout(predicate::str::contains("was done before"));

    // One shard is in another folder, one is of another kernel, one is torn. Then one is missing.
    let shards = Path::new(&plan).join("shards");
    let elsewhere = run.results().with_file_name("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::rename(shards.join(&ids[0]), elsewhere.join(&ids[0])).unwrap();
    let file = |id: &str| shards.join(id).join("shard.json");
    let text = std::fs::read_to_string(file(&ids[1])).unwrap();
    let hash = whole["run"]["kernels"]["after"]["image_hash"].as_str().unwrap();
    std::fs::write(file(&ids[1]), text.replace(hash, &"0".repeat(hash.len()))).unwrap();
    let text = std::fs::read(file(&ids[2])).unwrap();
    std::fs::write(file(&ids[2]), &text[..text.len() / 2]).unwrap();
    let output = hotplug(&["merge", &plan, elsewhere.to_str().unwrap()]).assert().get_output().stdout.clone();
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
    hotplug(&["merge", &plan])
        .assert()
        .code(3)
        .stdout(predicate::str::contains(format!("{}: it is missing", ids[0])));
}

/// A Slurm with one node, in a folder and on ports of its own. It ends with the test.
struct Slurm {
    conf: PathBuf,
    daemons: Vec<Child>,
}

impl Slurm {
    fn start(folder: &Path) -> Self {
        let host = String::from_utf8(Command::new("hostname").arg("-s").output().unwrap().stdout).unwrap();
        let (host, here) = (host.trim(), folder.display());
        for name in ["state", "spool", "munge"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let conf = folder.join("slurm.conf");
        let text = format!(
            "ClusterName=hotplug\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n\
             AuthType=auth/munge\nAuthInfo=socket={here}/munge/socket\nSlurmctldPort={}\nSlurmdPort={}\n\
             StateSaveLocation={here}/state\nSlurmdSpoolDir={here}/spool\nSlurmctldPidFile={here}/slurmctld.pid\n\
             SlurmdPidFile={here}/slurmd.pid\nSlurmctldLogFile={here}/slurmctld.log\nSlurmdLogFile={here}/slurmd.log\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n\
             SelectTypeParameters=CR_Core\nMpiDefault=none\nReturnToService=2\n\
             NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN\n\
             PartitionName=all Nodes={host} Default=YES State=UP MaxTime=INFINITE\n",
            free(),
            free()
        );
        std::fs::write(&conf, text).unwrap();
        // munged refuses to run as root, and refuses a key that other users can read.
        let start = format!(
            "cd '{here}/munge' && head -c 1024 /dev/urandom > key && chown -R munge: . && chmod 755 . && chmod 400 key && \
             exec setpriv --reuid=munge --regid=munge --clear-groups munged --foreground --socket='{here}/munge/socket' \
             --key-file='{here}/munge/key' --pid-file='{here}/munge/pid' --log-file='{here}/munge/log' \
             --seed-file='{here}/munge/seed'"
        );
        let quiet = |command: &mut Command| {
            command.env("SLURM_CONF", &conf).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut daemons = vec![quiet(Command::new("sh").args(["-c", &start]))];
        let socket = folder.join("munge/socket");
        wait("munged", 30, || socket.exists());
        daemons.push(quiet(Command::new("slurmctld").args(["-D", "-c"])));
        daemons.push(quiet(Command::new("slurmd").arg("-D")));
        let slurm = Self { conf, daemons };
        wait("the node", 60, || slurm.say("sinfo", &["--noheader", "--format=%T"]).contains("idle"));
        slurm
    }

    fn say(&self, program: &str, words: &[&str]) -> String {
        let said = Command::new(program).env("SLURM_CONF", &self.conf).args(words).output().unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        self.say("scancel", &["--user=root"]);
        while let Some(mut daemon) = self.daemons.pop() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = daemon.wait();
        }
    }
}

fn wait(what: &str, seconds: u64, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while !is() {
        assert!(Instant::now() < until, "{what} does not come");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// On a real Slurm a task is killed and requeued, and the verdict is still right.
#[test]
fn nightly_slurm_runs_a_plan_and_a_task_that_is_requeued_goes_on() {
    let run = Run::new();
    let folder = run.results().with_file_name("slurm");
    std::fs::create_dir(&folder).unwrap();
    let slurm = Slurm::start(&folder);
    let (plan, ids) = plan(&run, "on slurm");
    let said = hotplug(&["submit", "--slurm", "--cpus", "1", "--memory", "1500", &plan])
        .env("SLURM_CONF", &slurm.conf)
        .arg("--cache")
        .arg(cache())
        .assert()
        .code(0);
    let said = String::from_utf8(said.get_output().stdout.clone()).unwrap();
    let number = |what: &str| {
        let line = said.lines().find(|line| line.starts_with(what)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    // The first task is requeued in the middle of its trials.
    let task = format!("{}_0", number("trials"));
    let trials = |id: &str| {
        let runs = std::fs::read_dir(Path::new(&plan).join("shards").join(id)).ok()?;
        let run = runs.filter_map(Result::ok).find(|entry| entry.path().join("trials").is_dir())?;
        Some(std::fs::read_dir(run.path().join("trials")).unwrap().count())
    };
    wait("a first trial", 900, || trials(&ids[0]).is_some_and(|count| count > 0));
    slurm.say("scontrol", &["requeue", &task]);
    wait("the task in the queue", 60, || {
        slurm.say("squeue", &["--noheader", "--format=%T", &format!("--jobs={task}")]).contains("PENDING")
    });
    // Slurm delays a requeued task by two minutes.
    slurm.say("scontrol", &["update", &format!("jobid={task}"), "starttime=now"]);
    wait("the end of all jobs", 900, || {
        slurm.say("squeue", &["--noheader", "--format=%i %T"]).trim().is_empty()
    });
    let log =
        |name: &str| std::fs::read_to_string(Path::new(&plan).join("logs").join(name)).unwrap_or_default();
    let restarts = slurm.say("scontrol", &["show", "job", &task]);
    assert!(restarts.contains("Restarts=1"), "{restarts}\n{}", log("shard-0.log"));
    let merged_log = log("merge.log");
    assert!(merged_log.contains("merged    3 of 3 shards"), "{merged_log}\n{}", log("shard-0.log"));
    let all = merged(&plan);
    assert_eq!(all["verdict"], "regressed", "{all:#}");
    assert_eq!(all["trials"]["after"]["trials"], 6, "{all:#}");
    assert_eq!(all["reports"][0]["after"], serde_json::json!({ "seen": 6, "trials": 6 }), "{all:#}");
}

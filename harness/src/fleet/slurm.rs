//! A plan as Slurm's job arrays. Scheduling is Slurm's.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::Plan;
use crate::kernel::{Tool, capture};
use crate::qemu::shell_word;
use crate::{Error, Result};

/// A plan for Slurm.
#[derive(Debug, Clone)]
pub struct SlurmSpec {
    /// The plan's folder, as all nodes see it.
    pub plan: PathBuf,
    /// The commands are only told.
    pub dry_run: bool,
    /// Processors of each shard, which are its guests at once.
    pub cpus: u32,
    /// Memory of each shard, MiB.
    pub memory: u64,
    /// Shards at once. None: as many as there is room for.
    pub at_once: Option<u32>,
    /// Kernel cache, as all nodes see it. None: `kernels/` in the plan's folder.
    pub cache: Option<PathBuf>,
    /// More options of sbatch for each job.
    pub sbatch: Vec<String>,
}

/// Tasks of one array: the most that Slurm takes unless its `MaxArraySize` (slurm.conf(5)) says otherwise.
const ARRAY: usize = 1000;

/// What a scheduler is given at a time.
struct Stage {
    what: &'static str,
    /// What it waits for of the stage before.
    after: &'static str,
    jobs: Vec<Job>,
}

/// A command of sbatch's: its options, and the script that it is given.
struct Job {
    options: Vec<String>,
    script: String,
}

/// Hands over three stages, each after the one before: kernels, shards, the merge. `hotplug` is the binary that the jobs
/// run. `tell` receives what is printed.
pub async fn submit_to_slurm(
    args: &SlurmSpec,
    hotplug: &Path,
    cancel: &CancellationToken,
    mut tell: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    let (plan, folder) = Plan::read(&args.plan)?;
    let folder = fs_err::canonicalize(folder)?;
    if !args.dry_run {
        fs_err::create_dir_all(folder.join("logs"))?;
    }
    let mut before: Vec<String> = Vec::new();
    for Stage { what, after, jobs } in stages(args, &plan, &folder, hotplug) {
        let mut ids: Vec<String> = Vec::new();
        for (number, Job { mut options, script }) in jobs.into_iter().enumerate() {
            let mut waits = Vec::new();
            if !before.is_empty() {
                waits.push(format!("{after}:{}", before.join(":")));
            }
            // So many at once are so many of all arrays together.
            if let Some(last) = ids.last().filter(|_| args.at_once.is_some()) {
                waits.push(format!("afterany:{last}"));
            }
            if !waits.is_empty() {
                options.push(format!("--dependency={}", waits.join(",")));
            }
            ids.push(if args.dry_run {
                let words: Vec<String> = options.iter().map(|word| shell_word(word)).collect();
                tell(format!("sbatch {} <<'end'\n{script}end\n\n", words.join(" ")))?;
                format!("{}{number}", what.to_uppercase())
            } else {
                let id = submit(&folder, &options, &script, &format!("{what}-{number}"), cancel).await?;
                tell(format!("{what:<9} job {id}\n"))?;
                id
            });
        }
        before = ids;
    }
    if !args.dry_run {
        tell(format!("result    {}/merged, when all have ended\n", folder.display()))?;
    }
    Ok(())
}

/// The stages in their order, without who waits for whom.
fn stages(args: &SlurmSpec, plan: &Plan, folder: &Path, hotplug: &Path) -> Vec<Stage> {
    let cache = args.cache.clone().unwrap_or_else(|| folder.join("kernels"));
    // A path is one word of the script, whatever is in it.
    let word = |path: &Path| shell_word(&path.display().to_string());
    let (hotplug, cache, here) = (word(hotplug), word(&cache), word(folder));
    let common = |what: &str| {
        let mut all = vec![
            "--parsable".to_owned(),
            format!("--job-name=hotplug-{}-{what}", plan.id),
            format!("--chdir={}", folder.display()),
            // A node that fails is no failure of the shard's: it goes on elsewhere.
            "--requeue".to_owned(),
            "--open-mode=append".to_owned(),
        ];
        all.extend(args.sbatch.iter().cloned());
        all
    };
    let limit = args.at_once.map_or_else(String::new, |most| format!("%{most}"));
    // Arrays of as many tasks in all; `task` says what one does whose number is given.
    let arrays = |what: &str, tasks: usize, limit: &str, more: &[String], task: &dyn Fn(&str) -> String| {
        let one = |first: usize| {
            let last = ARRAY.min(tasks - first) - 1;
            let (number, log) = match first {
                0 => ("\"$SLURM_ARRAY_TASK_ID\"".to_owned(), format!("{what}-%a")),
                _ => (format!("\"$(({first} + SLURM_ARRAY_TASK_ID))\""), format!("{what}-{first}+%a")),
            };
            let mut options = common(what);
            options.push(format!("--array=0-{last}{limit}"));
            options.push(format!("--cpus-per-task={}", args.cpus));
            options.push(format!("--output=logs/{log}.log"));
            options.extend(more.iter().cloned());
            let script = format!("#!/bin/sh\nexec {hotplug} work {here} {}\n", task(&number));
            Job { options, script }
        };
        (0..tasks).step_by(ARRAY).map(one).collect()
    };
    let merge = {
        let mut options = common("merge");
        options.push("--output=logs/merge.log".to_owned());
        Job { options, script: format!("#!/bin/sh\nexec {hotplug} merge {here}\n") }
    };
    let memory = [format!("--mem={}M", args.memory)];
    let build = |number: &str| format!("--build {number} --cache {cache}");
    let shard = |number: &str| format!("{number} --workers {} --cache {cache}", args.cpus);
    // Kernels have to be there; the merge comes however the shards end.
    vec![
        Stage { what: "build", after: "", jobs: arrays("build", plan.kernels().len(), "", &[], &build) },
        Stage {
            what: "trials",
            after: "afterok",
            jobs: arrays("shard", plan.pieces().count(), &limit, &memory, &shard),
        },
        Stage { what: "merge", after: "afterany", jobs: vec![merge] },
    ]
}

/// Gives Slurm one job; its number.
async fn submit(
    folder: &Path,
    options: &[String],
    script: &str,
    what: &str,
    cancel: &CancellationToken,
) -> Result<String> {
    let file = folder.join("logs").join(format!("{what}.sh"));
    fs_err::write(&file, script)?;
    let tool = Tool::new("sbatch", folder).args(options).arg(&file);
    let said = capture(tool, cancel).await.map_err(|error| match error.kind() {
        crate::ErrorKind::Interrupted => error,
        _ => Error::user(format!("sbatch cannot be run: {error}")).help("apt-get install slurm-client"),
    })?;
    let said = said.ok(|said| {
        Error::infrastructure(format!("Slurm does not take the {what} job: {said}"))
            .help("see what it says; jobs that were given before it wait for nothing: scancel them")
    })?;
    let text = String::from_utf8_lossy(&said).trim().to_owned();
    // Of a cluster among several it is `number;cluster`.
    Ok(text.split(';').next().unwrap_or_default().to_owned())
}

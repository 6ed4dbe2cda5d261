//! Submits a plan as job arrays of Slurm, which schedules them.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::Plan;
use crate::kernel::{Tool, capture};
use crate::vmm::shell_word;
use crate::{Error, Result};

/// A plan for Slurm.
#[derive(Debug, Clone)]
pub struct SlurmSpec {
    /// The plan's folder, at a path that is valid on all nodes.
    pub plan: PathBuf,
    /// Only print the commands.
    pub dry_run: bool,
    /// Processors of each shard, which is also its number of guests at once.
    pub cpus: u32,
    /// Memory of each shard, MiB.
    pub memory: u64,
    /// Shards at once. None: as many as Slurm has resources for.
    pub at_once: Option<u32>,
    /// The kernel cache, at a path that is valid on all nodes. None: `kernels/` in the plan's
    /// folder.
    pub cache: Option<PathBuf>,
    /// Further options of sbatch for each job.
    pub sbatch: Vec<String>,
}

/// Tasks of one array: the most that Slurm accepts with the default `MaxArraySize` (slurm.conf(5)).
const ARRAY: usize = 1000;

/// A stage: jobs that the scheduler gets together.
struct Stage {
    what: &'static str,
    /// The condition on the jobs of the stage before, in Slurm's words.
    after: &'static str,
    jobs: Vec<Job>,
}

/// A call of sbatch: its options, and the script to submit.
struct Job {
    options: Vec<String>,
    script: String,
}

/// Submits three stages, each after the one before: kernels, shards, the merge. `hotplug` is the
/// binary that the jobs run. `tell` receives what is printed.
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
            // The limit applies to all arrays together, so each array waits for the one before it.
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
        tell(format!("result    {}/merged, when all jobs have ended\n", folder.display()))?;
    }
    Ok(())
}

/// The stages in their order, without the dependencies between their jobs.
fn stages(args: &SlurmSpec, plan: &Plan, folder: &Path, hotplug: &Path) -> Vec<Stage> {
    let cache = args.cache.clone().unwrap_or_else(|| folder.join("kernels"));
    // A path is quoted as one word of the script.
    let word = |path: &Path| shell_word(&path.display().to_string());
    let (hotplug, cache, here) = (word(hotplug), word(&cache), word(folder));
    let common = |what: &str| {
        let mut all = vec![
            "--parsable".to_owned(),
            format!("--job-name=hotplug-{}-{what}", plan.id),
            format!("--chdir={}", folder.display()),
            // If a node fails, the shard has not failed: it continues on another node.
            "--requeue".to_owned(),
            "--open-mode=append".to_owned(),
        ];
        all.extend(args.sbatch.iter().cloned());
        all
    };
    let limit = args.at_once.map_or_else(String::new, |most| format!("%{most}"));
    // Arrays of `tasks` tasks in all. `task` gives the arguments of the task with a number.
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
    // The shards need the kernels. The merge runs however the shards end.
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

/// Submits one job to Slurm, and returns its number.
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
        Error::infrastructure(format!("Slurm refused the {what} job: {said}"))
            .help("see its message; the jobs submitted before it remain: cancel them with scancel")
    })?;
    let text = String::from_utf8_lossy(&said).trim().to_owned();
    // With several clusters the answer is `number;cluster`.
    Ok(text.split(';').next().unwrap_or_default().to_owned())
}

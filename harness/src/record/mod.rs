//! Results on disk: one folder a run, readable at every moment.
//!
//! ```text
//! results/<run>/run.json          what is about to be done, before it is done
//! results/<run>/result.json       the verdict, written last
//! results/<run>/scenario.toml     as it was read
//! results/<run>/patches/          as they were given
//! results/<run>/known.toml         the file of known issues, if there is one
//! results/<run>/initramfs.cpio.gz  the guest's, for who boots without the harness
//! results/<run>/checkpoints/       what the boots said that trials were restored from, one folder a side
//! results/<run>/coverage/          the trials of kernels that count which changed lines run: coverage.json in each
//! results/<run>/trials/<trial>/   schedule.json, qemu.cmd, events.jsonl, qmp.log, serial.log, kmsg.log,
//!                                 qemu.stderr, lock-order.json, trial.json
//! ```

mod find;
mod folder;
mod locks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use find::find;
pub use folder::{RunFolder, plain_name};
pub use locks::{add_locks, further_boot, read_locks};

use hotplug_side::Sides;

use crate::compare::{Control, Coverage, Finding, Judgement, LockOrderDiff, Recurrence, Tally, Verdict};
use crate::kernel::PairSpec;
use crate::latency::Latency;
use crate::overlap::Overlap;
use crate::rendezvous::Race;
use crate::scenario::{Clock, Seed, Sweep};
use crate::spec::ComparisonSpec;
use crate::trial::Repeated;
use crate::{Error, Result, files};

/// Version of `result.json` and `run.json`. Raised when a field changes its meaning or goes.
pub const SCHEMA: u32 = 2;

/// What a run is: known before its first trial.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the harness.
    pub hotplug: String,
    /// The run's name, which is its folder's.
    pub id: String,
    /// When it began, in UTC.
    #[schemars(with = "String")]
    pub started: jiff::Timestamp,
    /// The command, as it was given.
    pub command: Vec<String>,
    /// The machine it ran on.
    pub host: Host,
    /// The kernels.
    pub kernels: Sides<KernelNote>,
    /// The patches that make the difference, as they were named.
    pub patches: Vec<String>,
    /// The scenario's name.
    pub scenario: String,
    /// BLAKE3 of the scenario's text.
    pub scenario_hash: String,
    /// BLAKE3 of the agent's initramfs.
    pub initramfs_hash: String,
    /// What all schedules are drawn from.
    pub seed: Seed,
    /// Trials planned, a side; null where time or a report ends the run.
    pub trials: Option<u32>,
    /// What else was asked for: with the files beside it, all that a continued run goes by.
    pub plan: Plan,
    /// What was asked for, its paths absolute. Of a run by an older version, only the kernels.
    #[serde(default, alias = "pair", deserialize_with = "spec_or_words")]
    pub spec: ComparisonSpec,
    /// How the trials start; null until that is settled.
    pub start: Option<Start>,
    /// When it was continued, in UTC.
    #[schemars(with = "Vec<String>")]
    pub continued: Vec<jiff::Timestamp>,
    /// The run whose trials it replays, by the path that was given.
    pub replays: Option<PathBuf>,
}

/// Version 1 had the words of the command line that name the pair.
fn spec_or_words<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ComparisonSpec, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Kept {
        Words(Vec<String>),
        Spec(Box<ComparisonSpec>),
    }
    Ok(match Kept::deserialize(from)? {
        Kept::Words(words) => {
            ComparisonSpec { kernels: PairSpec::of_words(words), ..ComparisonSpec::default() }
        }
        Kept::Spec(spec) => *spec,
    })
}

/// What ends a run beside the number of its trials, and how they are run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// Number of the first trial: of a run that is a part of a larger one.
    #[serde(default)]
    pub first: u32,
    /// No trial begins after so many seconds of trials.
    pub seconds: Option<f64>,
    /// No trial begins after the first finding that is not known.
    pub until_report: bool,
    /// No trial begins after a finding that is called so: by how its signature begins, or a part of its title or key.
    #[serde(default)]
    pub until_seen: Option<String>,
    /// No trial begins once the verdict cannot change.
    pub until_decided: bool,
    /// Each trial boots.
    pub cold: bool,
    /// Guests at once.
    pub workers: usize,
    /// The clock that latency is told by.
    #[serde(default)]
    pub clock: Clock,
    /// Boots of each kernel that are timed; null where the scenario, or the clock, says.
    #[serde(default)]
    pub boots: Option<u32>,
    /// Pairs of places that were raced though the scenario does not say so: of `hotplug race`.
    #[serde(default)]
    pub sweep: Option<Sweep>,
}

/// The machine a run ran on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// QEMU's version.
    pub qemu: String,
    /// How guest code was run.
    pub accelerator: String,
    /// How that was found out.
    pub accelerator_reason: String,
    /// Processors the harness may use.
    pub cores: usize,
    /// Their model.
    pub cpu: String,
    /// `uname -r` of the host.
    pub kernel: String,
}

impl Host {
    /// What of the machine times depend on, in words.
    pub fn machine(&self) -> String {
        format!("{} with {} processors, Linux {}", self.cpu, self.cores, self.kernel)
    }
}

/// One kernel of the pair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelNote {
    /// Its content address.
    pub id: String,
    /// `uname -r`.
    pub release: String,
    /// What it was made from, in words.
    pub source: String,
    /// Where it came from: built in how many seconds, cached, or given.
    pub built: String,
    /// BLAKE3 of the bzImage.
    pub image_hash: String,
    /// The bzImage.
    pub image: PathBuf,
}

/// How the trials of a run started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Each from its side's checkpoint.
    Restored,
    /// Each booted.
    Cold {
        /// It was asked for, or a side has no checkpoint.
        why: String,
    },
}

/// `result.json`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RunResult {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The verdict; null where infrastructure failed.
    pub verdict: Option<Verdict>,
    /// Why, in one sentence.
    pub reason: String,
    /// The exit status that goes with it.
    pub exit_status: u8,
    /// Everything that was seen.
    pub reports: Vec<Finding>,
    /// What is to be said of the file of known issues: entries that have expired or that matched nothing.
    pub remarks: Vec<String>,
    /// How the trials ended.
    pub trials: Sides<Tally>,
    /// Trials that were tried again and do not count: infrastructure failed, or the guest hung before it was ready.
    pub repeated: Vec<Repeated>,
    /// Seconds from the first trial's start to the last one's end.
    pub trials_seconds: f64,
    /// Whether planted bugs were seen; null in a control itself, and in a comparison of `hotplug prove`.
    #[serde(default)]
    pub control: Option<Control>,
    /// What differs in the lock order; null where nobody asked: in a control, and in a comparison of `hotplug prove`.
    #[serde(default)]
    pub lock_order: Option<LockOrderDiff>,
    /// What of the change ran; null where nobody asked, and where both sides are one kernel.
    #[serde(default)]
    pub coverage: Option<Coverage>,
    /// What takes longer or shorter; null where nobody asked.
    #[serde(default)]
    pub latency: Option<Latency>,
    /// What ran at the same time; null where nobody asked.
    #[serde(default)]
    pub overlap: Option<Overlap>,
    /// What came of the vCPUs that were held; null where none was to be.
    #[serde(default)]
    pub race: Option<Race>,
    /// What was run.
    pub run: Run,
}

/// The JSON Schema of `result.json`, which is published as `docs/result.schema.json`. `run.json` is its `Run`.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(RunResult).to_value()
}

/// What a comparison asks beside its judged trials.
#[derive(Debug, Default)]
pub struct Beside {
    /// Whether planted bugs were seen.
    pub control: Option<Control>,
    /// What differs in the lock order.
    pub lock_order: Option<LockOrderDiff>,
    /// What of the change ran.
    pub coverage: Option<Coverage>,
    /// What takes longer or shorter.
    pub latency: Option<Latency>,
    /// What ran at the same time.
    pub overlap: Option<Overlap>,
}

impl RunResult {
    /// Puts a judgement, weighed by what was asked beside, and its run together.
    pub fn new(
        run: Run,
        mut judgement: Judgement,
        repeated: Vec<Repeated>,
        trials_seconds: f64,
        beside: Beside,
    ) -> Self {
        let Beside { control, lock_order, coverage, latency, overlap } = beside;
        let weights = [
            control.as_ref().map(Control::weight),
            coverage.as_ref().map(Coverage::weight),
            overlap.as_ref().map(|overlap| overlap.weight(judgement.race.as_ref())),
            latency.as_ref().map(Latency::weight),
        ];
        weights.into_iter().flatten().for_each(|weight| judgement.weigh(weight));
        let exit_status = judgement.exit_status();
        let Judgement { verdict, reason, findings, tally, remarks, race } = judgement;
        Self {
            schema: SCHEMA,
            verdict,
            reason,
            exit_status,
            reports: findings,
            remarks,
            trials: tally,
            repeated,
            trials_seconds,
            control,
            lock_order,
            coverage,
            latency,
            overlap,
            race,
            run,
        }
    }
}

/// `replay.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplayResult {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The exit status that goes with it.
    pub exit_status: u8,
    /// What the recorded trials showed, and what else came, by recorded trial.
    pub findings: Vec<Recurrence>,
    /// For each recorded trial, the folder of a replay that was not clean.
    pub examples: BTreeMap<String, String>,
    /// Trials that were tried again and do not count.
    pub repeated: Vec<Repeated>,
    /// Seconds from the first trial's start to the last one's end.
    pub trials_seconds: f64,
    /// What was run.
    pub run: Run,
}

/// What the result of many runs begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the harness.
    pub hotplug: String,
    /// When it began, in UTC.
    pub started: jiff::Timestamp,
    /// The command, as it was given.
    pub command: Vec<String>,
    /// The machine it ran on.
    pub host: Host,
}

impl Head {
    /// Of this process.
    pub fn new(started: jiff::Timestamp, command: &[String], host: Host) -> Self {
        Self {
            schema: SCHEMA,
            hotplug: env!("CARGO_PKG_VERSION").into(),
            started,
            command: command.to_vec(),
            host,
        }
    }
}

/// Reads the `run.json` of the run in `folder`.
pub fn read_run(folder: &Path) -> Result<Run> {
    let path = folder.join("run.json");
    let text = fs_err::read(&path).map_err(|error| {
        Error::user(format!("{} is no run's folder: {error}", folder.display())).help(
            "name a folder below results/; one without run.json ended before its first trial: start it anew",
        )
    })?;
    files::parse_json(&path, &text)
}

/// Reads the `result.json` of the run in `folder`.
pub fn read_result(folder: &Path) -> Result<RunResult> {
    let path = folder.join("result.json");
    let text = fs_err::read(&path).map_err(|error| {
        Error::user(format!("{} is no ended run's folder: {error}", folder.display())).help(
            "name a folder below results/; a run that was cut off goes on with hotplug compare --continue",
        )
    })?;
    files::parse_json(&path, &text)
}

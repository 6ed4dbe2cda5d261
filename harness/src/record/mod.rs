//! Results on disk: one folder for each run, readable at every moment.
//!
//! ```text
//! results/<run>/run.json          the plan, written before the first trial
//! results/<run>/result.json       the verdict, written last
//! results/<run>/scenario.toml     the scenario, as it was read
//! results/<run>/scenarios/        the scenarios, if there are several
//! results/<run>/patches/          the patches, as they were given
//! results/<run>/configs/          config fragments, and a whole configuration
//! results/<run>/build-after.log   the output of make, if the after kernel does not compile
//! results/unfinished.json         the newest comparison, if it has no folder
//! results/<run>/known.toml        the file of known issues, if there is one
//! results/<run>/initramfs.cpio.gz the guest's initramfs, to boot it without the harness
//! results/<run>/programs/         the files of the user's programs, by their scenario
//! results/<run>/checkpoints/      logs of the boots that trials start from, one folder a side
//! results/<run>/coverage/         the trials that count executed lines: coverage.json in each
//! results/<run>/trials/<trial>/   schedule.json, qemu.cmd, events.jsonl, qmp.log, serial.log,
//!                                 kmsg.log, qemu.stderr, lock-order.json, vmcore, trial.json
//! ```

mod find;
mod folder;
mod locks;
mod read;
mod settled;
mod unfinished;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use find::find;
pub use folder::{RunFolder, plain_name};
pub use locks::{add_locks, each_boot, each_trial, further_boot, read_locks};
pub use read::{read_result, read_run};
pub use settled::Settled;
pub use unfinished::{begins, failed};

use hotplug_side::Sides;

use crate::Result;
use crate::arch::Architecture;
use crate::compare::{Finding, Judgement, NoBoot, Recurrence, ScenarioTally, Tally, Verdict};
use crate::conclusion::{Conclusion, Conclusions, analyses};
use crate::kernel::{Basis, PairSpec, PatchRecord, ReplyTo};
use crate::scenario::{Clock, Seed, Sweep};
use crate::spec::ComparisonSpec;
use crate::trial::{Repeated, TrialStart, VmcoreNote};

/// Version of `result.json` and `run.json`. It is raised when a field changes its meaning or is
/// removed.
pub const SCHEMA: u32 = 2;

/// The parameters of a run, known before its first trial.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the harness.
    pub hotplug: String,
    /// The name of the run, which is also that of its folder.
    pub id: String,
    /// The start, in UTC.
    #[schemars(with = "String")]
    pub started: jiff::Timestamp,
    /// The command line, as it was given.
    pub command: Vec<String>,
    /// The options that a configuration file set, each with its value and the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<String>,
    /// The machine it ran on.
    pub host: HostRecord,
    /// The kernels.
    pub kernels: Sides<KernelNote>,
    /// The patches that make the difference, as they were given on the command line.
    pub patches: Vec<String>,
    /// The patches that were applied, in order, by their subjects. Older versions lack this list.
    #[serde(default)]
    pub series: Vec<PatchRecord>,
    /// What was left out of the given files, and what the harness chose.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The mail that the patches came in, which the run's mail answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<ReplyTo>,
    /// The scenario's name. With several scenarios: the name of their choice, such as `portfolio`,
    /// or their names, joined by `+`.
    pub scenario: String,
    /// BLAKE3 of the scenario's text, or of the hashes of all of them.
    pub scenario_hash: String,
    /// The scenarios, in the order in which they take turns. Runs of older versions have one, and
    /// lack this list.
    #[serde(default)]
    pub scenarios: Vec<ScenarioNote>,
    /// BLAKE3 of the agent's initramfs.
    pub initramfs_hash: String,
    /// The seed of all schedules.
    pub seed: Seed,
    /// The planned number of trials a side, of all scenarios together; null if a time limit or a
    /// report ends the run.
    pub trials: Option<u32>,
    /// The other options. Together with the files in the folder, they determine a continued run.
    pub plan: RunPlan,
    /// The request, with absolute paths. Runs of an older version have only the kernels.
    #[serde(default, alias = "pair", deserialize_with = "spec_or_words")]
    pub spec: ComparisonSpec,
    /// How the trials start, if all scenarios start alike; null until that is determined.
    pub start: Option<StartMethod>,
    /// The times at which it was continued, in UTC.
    #[schemars(with = "Vec<String>")]
    pub continued: Vec<jiff::Timestamp>,
    /// The run whose trials it replays, as the path that was given.
    pub replays: Option<PathBuf>,
}

impl Run {
    /// The scenarios. A run of an older version has one.
    pub fn scenarios(&self) -> Vec<ScenarioNote> {
        if !self.scenarios.is_empty() {
            return self.scenarios.clone();
        }
        vec![ScenarioNote {
            name: self.scenario.clone(),
            hash: self.scenario_hash.clone(),
            trials: self.trials,
            start: self.start.clone(),
            left_out: None,
        }]
    }

    /// Records how the trials of a scenario start.
    pub(crate) fn set_start(&mut self, scenario: &str, start: StartMethod) {
        self.scenarios = self.scenarios();
        if let Some(note) = self.scenarios.iter_mut().find(|note| note.name == scenario) {
            note.start = Some(start);
        }
        let mut all = self.scenarios.iter().filter_map(|note| note.start.as_ref());
        let first = all.next().cloned();
        self.start = first.filter(|first| all.all(|start| start == first));
    }

    /// The copy of a scenario in the run's folder.
    pub fn scenario_file(&self, name: &str) -> PathBuf {
        if self.scenarios.len() > 1 {
            Path::new("scenarios").join(format!("{name}.toml"))
        } else {
            "scenario.toml".into()
        }
    }
}

/// One scenario of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScenarioNote {
    /// Its name.
    pub name: String,
    /// BLAKE3 of its text.
    pub hash: String,
    /// The planned number of trials a side; null if a time limit or a report ends the run.
    pub trials: Option<u32>,
    /// How its trials start; null until that is determined.
    pub start: Option<StartMethod>,
    /// Why it has no trials: this machine, QEMU or a kernel cannot run it. Null if it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// Version 1 stored the words of the command line that name the pair.
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

/// The conditions that end a run, apart from the number of trials, and how trials are run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunPlan {
    /// The number of the first trial, which is not 0 if the run is a part of a larger one.
    #[serde(default)]
    pub first: u32,
    /// No trial begins after this many seconds of trials.
    pub seconds: Option<f64>,
    /// No trial begins after the first finding that is not a known issue.
    pub until_report: bool,
    /// No trial begins after a finding that matches this: the start of its signature, or a part of
    /// its title or key.
    #[serde(default)]
    pub until_seen: Option<String>,
    /// No trial begins once a regression is decided.
    pub until_decided: bool,
    /// The number of times that the findings may be judged: scenarios with an undecided finding get
    /// more trials after the first.
    #[serde(default)]
    pub looks: u32,
    /// Whether each trial boots.
    pub cold: bool,
    /// The number of guests at once.
    pub workers: usize,
    /// The most trials that a guest takes, if the user gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u32>,
    /// The clock of the latency analysis.
    #[serde(default)]
    pub clock: Clock,
    /// The number of timed boots of each kernel; null if the scenario or the clock determines it.
    #[serde(default)]
    pub boots: Option<u32>,
    /// The pairs of places that `hotplug race` adds to the scenario.
    #[serde(default)]
    pub sweep: Option<Sweep>,
}

/// The machine that a run ran on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostRecord {
    /// QEMU's version.
    pub qemu: String,
    /// How guest code was executed.
    pub accelerator: String,
    /// How the accelerator was determined.
    pub accelerator_reason: String,
    /// The number of processors that the harness may use.
    pub cores: usize,
    /// The processor model.
    pub cpu: String,
    /// `uname -r` of the host.
    pub kernel: String,
}

impl HostRecord {
    /// The properties of the machine that affect times, in words.
    pub fn machine(&self) -> String {
        format!("{} with {} processors, Linux {}", self.cpu, self.cores, self.kernel)
    }
}

/// One kernel of the pair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelNote {
    /// Its content address.
    pub id: String,
    /// Its architecture.
    #[serde(default, skip_serializing_if = "Architecture::is_default")]
    pub arch: Architecture,
    /// `uname -r`.
    pub release: String,
    /// The origin of its source, in words.
    pub source: String,
    /// How it was obtained: built in how many seconds, cached, or given.
    pub built: String,
    /// BLAKE3 of the bzImage.
    pub image_hash: String,
    /// The bzImage.
    pub image: PathBuf,
    /// The options of the config fragments that its source does not define, by name without
    /// `CONFIG_`. The kernel was built without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What became of a configuration that is not the harness's own (`--defconfig`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// The options that would print reports and that it does not have, by name without `CONFIG_`.
    /// What they would have seen is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
}

/// How the trials of a run were started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StartMethod {
    /// Each trial was restored from the checkpoint of its side.
    Restored,
    /// Each trial booted.
    Cold {
        /// The reason: it was requested, or a side has no checkpoint.
        why: String,
    },
}

impl StartMethod {
    /// The method of trials that start like this.
    pub fn of(start: &TrialStart) -> Self {
        match start {
            TrialStart::Cold { why } => Self::Cold { why: why.clone() },
            TrialStart::Restored(_) => Self::Restored,
        }
    }
}

/// Defines `result.json`, with one field for each analysis.
macro_rules! run_result {
    ($($(#[$doc:meta])* $name:ident: $_analysis:ident => $type:ty,)*) => {
        /// `result.json`.
        #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
        pub struct RunResult {
            /// [`SCHEMA`].
            pub schema: u32,
            /// The verdict; null if infrastructure failed.
            pub verdict: Option<Verdict>,
            /// The reason for the verdict, in one sentence.
            pub reason: String,
            /// The exit status for the verdict.
            pub exit_status: u8,
            /// Why no trial was needed. Null if trials ran.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub settled: Option<Settled>,
            /// A kernel that does not boot. Null if both boot.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub no_boot: Option<NoBoot>,
            /// Every finding.
            pub reports: Vec<Finding>,
            /// Remarks, such as entries of the file of known issues that have expired or that
            /// matched nothing.
            pub remarks: Vec<String>,
            /// How the trials ended.
            pub trials: Sides<Tally>,
            /// How the trials of each scenario ended, and which of them are no evidence. Results of
            /// older versions lack it.
            #[serde(default)]
            pub scenarios: Vec<ScenarioTally>,
            /// Trials that were repeated and do not count: infrastructure failed, or the guest hung
            /// before it was ready.
            pub repeated: Vec<Repeated>,
            /// The vmcores of trials that panicked or hung, and why those that are missing were not
            /// kept. Null if none were asked for.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub vmcores: Option<Vec<VmcoreNote>>,
            /// Seconds from the first trial's start to the last one's end.
            pub trials_seconds: f64,
            $($(#[$doc])* #[serde(default)] pub $name: Option<$type>,)*
            /// The run.
            pub run: Run,
        }

        impl RunResult {
            /// The result of a run, with the weight of every conclusion applied to its judgement.
            pub fn new(
                run: Run,
                judgement: Judgement,
                repeated: Vec<Repeated>,
                trials_seconds: f64,
                conclusions: Conclusions,
            ) -> Self {
                let judgement = conclusions.weigh_in(judgement);
                let exit_status = judgement.exit_status();
                let Judgement { verdict, reason, findings, tally, scenarios, remarks, race: _, no_boot } = judgement;
                let Conclusions { $($name,)* } = conclusions;
                Self {
                    schema: SCHEMA,
                    verdict,
                    reason,
                    exit_status,
                    settled: None,
                    no_boot,
                    reports: findings,
                    remarks,
                    trials: tally,
                    scenarios,
                    repeated,
                    vmcores: None,
                    trials_seconds,
                    $($name,)*
                    run,
                }
            }

            /// Whether the run has several scenarios, so that each finding names its own.
            pub fn has_several_scenarios(&self) -> bool {
                self.scenarios.len() > 1
            }

            /// The scenarios whose silence is no evidence, each with the reason. Empty if the run
            /// has one scenario, because the verdict then has the reason.
            pub fn untested(&self) -> impl Iterator<Item = (&str, &str)> {
                let several = self.scenarios.iter().filter(|_| self.has_several_scenarios());
                several.filter_map(|one| Some((one.scenario.as_str(), one.untested.as_deref()?)))
            }

            /// The armed trials of the side and the scenario with the fewest, of those whose
            /// silence is evidence.
            pub fn least_evidence(&self) -> u32 {
                let of = |trials: &Sides<Tally>| trials.before.evidence().min(trials.after.evidence());
                let tested = self.scenarios.iter().filter(|one| one.untested.is_none());
                tested.map(|one| of(&one.trials)).min().unwrap_or_else(|| of(&self.trials))
            }

            /// The guests of the side and the scenario with the fewest, of those whose silence is
            /// evidence. None if each trial had its own guest.
            pub fn least_guests(&self) -> Option<u32> {
                let shares = |trials: &Sides<Tally>| trials.before.shares_guests() || trials.after.shares_guests();
                let of = |trials: &Sides<Tally>| trials.before.guests.min(trials.after.guests);
                let tested = self.scenarios.iter().filter(|one| one.untested.is_none() && shares(&one.trials));
                tested.map(|one| of(&one.trials)).min()
            }

            /// The available conclusions, in the order of the analyses.
            pub fn conclusions(&self) -> impl Iterator<Item = &dyn Conclusion> {
                [$(self.$name.as_ref().map(|conclusion| conclusion as &dyn Conclusion),)*].into_iter().flatten()
            }
        }
    };
}
analyses!(run_result);

/// The JSON Schema of `result.json`, which is published as `docs/result.schema.json`. The schema of
/// `run.json` is its `Run`.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(RunResult).to_value()
}

/// `replay.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplayResult {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The exit status.
    pub exit_status: u8,
    /// The findings of the recorded trials and of their replays, by recorded trial.
    pub findings: Vec<Recurrence>,
    /// For each recorded trial, the folder of a replay that was not clean.
    pub examples: BTreeMap<String, String>,
    /// Trials that were repeated and do not count.
    pub repeated: Vec<Repeated>,
    /// The vmcores, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmcores: Option<Vec<VmcoreNote>>,
    /// Seconds from the first trial's start to the last one's end.
    pub trials_seconds: f64,
    /// The run.
    pub run: Run,
}

/// The common first fields of a result of many runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Head {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the harness.
    pub hotplug: String,
    /// The start, in UTC.
    pub started: jiff::Timestamp,
    /// The command line, as it was given.
    pub command: Vec<String>,
    /// The machine it ran on.
    pub host: HostRecord,
}

impl Head {
    /// The head of a result of this process.
    pub fn new(started: jiff::Timestamp, command: &[String], host: HostRecord) -> Self {
        Self {
            schema: SCHEMA,
            hotplug: env!("CARGO_PKG_VERSION").into(),
            started,
            command: command.to_vec(),
            host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_recorded_for_its_scenario_and_for_the_run_if_all_start_alike() {
        let mut run: Run = serde_json::from_str(include_str!("../../../results/reference/run.json")).unwrap();
        assert!(run.scenarios.len() > 2 && run.start == Some(StartMethod::Restored));
        let cold = StartMethod::Cold { why: "--cold".into() };
        run.set_start("memoryless-node", cold.clone());
        let starts = |run: &Run| {
            let of = |note: &ScenarioNote| (note.start == Some(cold.clone())).then(|| note.name.clone());
            run.scenarios.iter().filter_map(of).collect::<Vec<_>>()
        };
        assert_eq!((starts(&run), run.start.clone()), (vec!["memoryless-node".to_owned()], None));
        for note in run.scenarios() {
            run.set_start(&note.name, cold.clone());
        }
        assert_eq!(run.start, Some(cold.clone()));
    }
}

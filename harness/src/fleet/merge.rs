//! Merges shards to the result that one large run of the same trials would have.

use hotplug_kreport::KnownIssues;
use hotplug_side::Side;

use super::plan::{Combination, Plan};
use super::shard::Shard;
use crate::compare::Judge;
use crate::conclusion::Conclusions;
use crate::record::{Run, RunResult};
use crate::trial::Repeated;

/// A shard that does not count, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The shard's id.
    pub id: String,
    /// The reason.
    pub why: String,
}

/// The merged result of a combination.
#[derive(Debug)]
pub struct MergedCell {
    /// The combination's name.
    pub name: String,
    /// The number of shards that count, and of all shards.
    pub shards: (usize, usize),
    /// The result of all their trials. None if no shard counts.
    pub result: Option<RunResult>,
}

/// Merges the shards of one combination, which are added in the order of their trials.
#[derive(Debug)]
pub struct Merger<'a> {
    plan: &'a Plan,
    cell: &'a Combination,
    /// The properties that all shards must have.
    like: Vec<(String, String)>,
    judge: Judge,
    run: Option<Run>,
    repeated: Vec<Repeated>,
    seconds: f64,
    count: usize,
}

impl<'a> Merger<'a> {
    /// A merger without shards. Findings that `known` names are listed and do not count. The
    /// reference is the most common likeness among `runs`. It is not that of the first run, because
    /// the first may be the one that differs from the others.
    pub fn new<'r>(
        plan: &'a Plan,
        cell: &'a Combination,
        known: KnownIssues,
        runs: impl Iterator<Item = &'r Run>,
    ) -> Self {
        let mut kinds: Vec<(Vec<(String, String)>, usize)> = Vec::new();
        for run in runs {
            let kind = likeness(run);
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, count)) => *count += 1,
                None => kinds.push((kind, 1)),
            }
        }
        // Of equally common ones, the first.
        let most = kinds.into_iter().rev().max_by_key(|(_, count)| *count);
        Self {
            plan,
            cell,
            like: most.map(|(kind, _)| kind).unwrap_or_default(),
            judge: Judge::new(known),
            run: None,
            repeated: Vec::new(),
            seconds: 0.0,
            count: 0,
        }
    }

    /// Adds a shard, which must be of this combination. The error is the reason why the shard does
    /// not count.
    pub fn add(&mut self, shard: Shard) -> Result<(), String> {
        if shard.plan != self.plan.id {
            return Err(format!("it belongs to another plan, {}", shard.plan));
        }
        if !self.cell.pieces.iter().any(|piece| piece.id == shard.id) {
            return Err("it belongs to another combination".to_owned());
        }
        for ((what, theirs), (_, most)) in likeness(&shard.run).iter().zip(&self.like) {
            if theirs != most {
                return Err(format!("its {what} is {theirs}, most others' {most}"));
            }
        }
        // Each shard has trial numbers of its own, so the folders have the same names as in one
        // large run.
        self.repeated.extend(shard.repeated);
        self.judge.merge(shard.judge);
        self.run.get_or_insert(shard.run);
        self.seconds += shard.seconds;
        self.count += 1;
        Ok(())
    }

    /// The result of all shards together.
    pub fn finish(self) -> MergedCell {
        let Self { plan, cell, judge, run, repeated, seconds, count, like: _ } = self;
        let shards = (count, cell.pieces.len());
        let result = run.map(|run| {
            let mut judgement = judge.judgement();
            if count < cell.pieces.len() {
                let seen = judgement.tally.before.all() + judgement.tally.after.all();
                judgement.reason =
                    format!("partial, {seen} of {} trials: {}", cell.trials * 2, judgement.reason);
                // Silence of a part of the trials is no evidence about all of them.
                judgement.without_silence(str::to_owned);
            }
            let run = Run {
                id: format!("{}-{}", plan.name, plan.id),
                trials: Some(cell.trials),
                plan: crate::record::RunPlan { first: 0, ..run.plan },
                ..run
            };
            let conclusions = Conclusions::of_trials(&judgement);
            RunResult::new(run, judgement, repeated, seconds, conclusions)
        });
        MergedCell { name: cell.name.clone(), shards, result }
    }
}

/// The properties that trials must share to be counted together, with their values in this run.
fn likeness(run: &Run) -> Vec<(String, String)> {
    let kernels = Side::BOTH.map(|side| {
        let kernel = run.kernels.of(side);
        (format!("kernel {side}"), format!("{} ({})", short(&kernel.image_hash), kernel.release))
    });
    let others = [
        ("QEMU", run.host.qemu.as_str()),
        ("accelerator", run.host.accelerator.as_str()),
        ("version of hotplug", run.hotplug.as_str()),
        ("guest agent", short(&run.initramfs_hash)),
        ("scenario", short(&run.scenario_hash)),
    ];
    let others = others.map(|(what, how)| (what.to_owned(), how.to_owned()));
    let seed = ("seed".to_owned(), run.seed.0.to_string());
    kernels.into_iter().chain(others).chain([seed]).collect()
}

/// Enough digits of a hash to distinguish two.
fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

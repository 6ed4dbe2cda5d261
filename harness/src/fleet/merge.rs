//! Shards joined: what one big run of the same trials would have said.

use hotplug_kreport::KnownIssues;
use hotplug_side::Side;

use super::plan::{Cell, Plan};
use super::shard::Shard;
use crate::compare::{Judge, Verdict};
use crate::record::{Beside, Run, RunResult};
use crate::trial::Repeated;

/// A shard that does not count, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its id.
    pub id: String,
    /// Why.
    pub why: String,
}

/// What a combination came to.
#[derive(Debug)]
pub struct MergedCell {
    /// Its name.
    pub name: String,
    /// Shards that count, of so many.
    pub shards: (usize, usize),
    /// The result of all their trials; none where there is none.
    pub result: Option<RunResult>,
}

/// Joins the shards of one combination, taken in in the order of their trials.
#[derive(Debug)]
pub struct Merger<'a> {
    plan: &'a Plan,
    cell: &'a Cell,
    /// What all shards have to be like.
    like: Vec<(String, String)>,
    judge: Judge,
    run: Option<Run>,
    repeated: Vec<Repeated>,
    seconds: f64,
    count: usize,
}

impl<'a> Merger<'a> {
    /// Nothing is taken in. What `known` names is listed and has no say. Of the runs that shards are of, all count that are
    /// like most of `runs` are, not like whichever comes first: that may be the one that is not like the others.
    pub fn new<'r>(
        plan: &'a Plan,
        cell: &'a Cell,
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
        // Of equals the first.
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

    /// Takes in a shard, which has to be of this combination; an error says why it does not count.
    pub fn add(&mut self, shard: Shard) -> Result<(), String> {
        if shard.plan != self.plan.id {
            return Err(format!("it is of another plan, {}", shard.plan));
        }
        if !self.cell.pieces.iter().any(|piece| piece.id == shard.id) {
            return Err("it is of other trials".to_owned());
        }
        for ((what, theirs), (_, most)) in likeness(&shard.run).iter().zip(&self.like) {
            if theirs != most {
                return Err(format!("its {what} is {theirs}, most others' {most}"));
            }
        }
        // Trials have numbers of their own in each shard, so that their folders are called as in one big run.
        self.repeated.extend(shard.repeated);
        self.judge.merge(shard.judge);
        self.run.get_or_insert(shard.run);
        self.seconds += shard.seconds;
        self.count += 1;
        Ok(())
    }

    /// What all of them came to.
    pub fn finish(self) -> MergedCell {
        let Self { plan, cell, judge, run, repeated, seconds, count, like: _ } = self;
        let shards = (count, cell.pieces.len());
        let result = run.map(|run| {
            let mut judgement = judge.judgement();
            if count < cell.pieces.len() {
                let seen = judgement.tally.before.all() + judgement.tally.after.all();
                let reason = format!("partial, {seen} of {} trials: {}", cell.trials * 2, judgement.reason);
                // Silence of a part is none of the whole.
                if let Some(Verdict::Unchanged | Verdict::Fixed) = judgement.verdict {
                    judgement.verdict = Some(Verdict::Inconclusive);
                }
                judgement.reason = reason;
            }
            let run = Run {
                id: format!("{}-{}", plan.name, plan.id),
                trials: Some(cell.trials),
                plan: crate::record::Plan { first: 0, ..run.plan },
                ..run
            };
            RunResult::new(run, judgement, repeated, seconds, Beside::default())
        });
        MergedCell { name: cell.name.clone(), shards, result }
    }
}

/// In what trials have to be alike so that they can be counted together, and how they are in it.
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

/// Enough of a hash to tell two apart.
fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

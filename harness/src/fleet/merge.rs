//! Shards joined: what one big run of the same trials would have said.

use super::plan::{Cell, Plan};
use super::shard::Shard;
use crate::compare::{Judge, Verdict};
use crate::record::{Beside, Run, RunResult};
use crate::side::Side;
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
    judge: Judge,
    /// The first one's: what all others have to be like.
    run: Option<Run>,
    repeated: Vec<Repeated>,
    seconds: f64,
    count: usize,
}

impl<'a> Merger<'a> {
    /// Nothing is taken in.
    pub fn new(plan: &'a Plan, cell: &'a Cell) -> Self {
        Self { plan, cell, judge: Judge::default(), run: None, repeated: Vec::new(), seconds: 0.0, count: 0 }
    }

    /// Takes in a shard, which has to be of this combination; an error says why it does not count.
    pub fn add(&mut self, shard: Shard) -> Result<(), String> {
        if shard.plan != self.plan.id {
            return Err(format!("it is of another plan, {}", shard.plan));
        }
        if !self.cell.pieces.iter().any(|piece| piece.id == shard.id) {
            return Err("it is of other trials".to_owned());
        }
        if let Some(first) = &self.run {
            alike(first, &shard.run)?;
        }
        for repeated in &shard.repeated {
            let folder = format!("{}/{}", shard.id, repeated.folder);
            self.repeated.push(Repeated { folder, ..repeated.clone() });
        }
        let mut judge = shard.judge;
        judge.relocate(&format!("../../shards/{}/{}", shard.id, shard.run.id));
        if self.run.is_none() {
            self.judge = judge;
            self.run = Some(shard.run);
        } else {
            self.judge.merge(judge);
        }
        self.seconds += shard.seconds;
        self.count += 1;
        Ok(())
    }

    /// What all of them came to.
    pub fn finish(self) -> MergedCell {
        let Self { plan, cell, judge, run, repeated, seconds, count } = self;
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
            RunResult::new(run, judgement, repeated, seconds, None, Beside::default())
        });
        MergedCell { name: cell.name.clone(), shards, result }
    }
}

/// Whether trials of two shards are alike; an error says in what they are not.
fn alike(one: &Run, other: &Run) -> Result<(), String> {
    for side in Side::BOTH {
        let (mine, theirs) = (one.kernels.of(side), other.kernels.of(side));
        if mine.image_hash != theirs.image_hash {
            return Err(format!(
                "its kernel {side} is another one: {} ({}), not {} ({})",
                short(&theirs.image_hash),
                theirs.release,
                short(&mine.image_hash),
                mine.release
            ));
        }
    }
    let all = [
        ("QEMU", &one.host.qemu, &other.host.qemu),
        ("accelerator", &one.host.accelerator, &other.host.accelerator),
        ("version of hotplug", &one.hotplug, &other.hotplug),
        ("guest agent", &one.initramfs_hash, &other.initramfs_hash),
        ("scenario", &one.scenario_hash, &other.scenario_hash),
    ];
    for (what, mine, theirs) in all {
        if mine != theirs {
            return Err(format!("its {what} is {}, the others' {}", short(theirs), short(mine)));
        }
    }
    if one.seed != other.seed {
        return Err(format!("its seed is {}, the others' {}", other.seed.0, one.seed.0));
    }
    Ok(())
}

fn short(text: &str) -> &str {
    text.get(..16).unwrap_or(text)
}

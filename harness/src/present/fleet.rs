//! The screens of plans, shards and merged results.

use std::fmt::Write;
use std::path::Path;

use super::duration;
use crate::fleet::{Left, MergedCell, Plan, Shard};
use crate::text::harmless;

/// Width of the column with a combination's name, in characters.
const NAME: usize = 56;

/// The maximum number of combinations, and of shards that do not count, on a screen.
const SHOWN: usize = 40;

/// The screen of a new plan.
pub fn plan(plan: &Plan, folder: &Path) -> String {
    let mut out = format!("{:<NAME$}  {:>7}  {:>6}\n", "combination", "trials", "shards");
    for cell in plan.cells.iter().take(SHOWN) {
        let name = harmless(&cell.name, NAME);
        let _ = writeln!(out, "{name:<NAME$}  {:>7}  {:>6}", u64::from(cell.trials) * 2, cell.pieces.len());
    }
    if plan.cells.len() > SHOWN {
        let _ = writeln!(out, "and {} more", plan.cells.len() - SHOWN);
    }
    let trials: u64 = plan.cells.iter().map(|cell| u64::from(cell.trials) * 2).sum();
    let _ = writeln!(
        out,
        "\nplan      {}: {trials} trials in {} shards, {}",
        plan.id,
        plan.pieces().count(),
        match plan.kernels().len() {
            1 => "1 pair of kernels".to_owned(),
            pairs => format!("{pairs} pairs of kernels"),
        }
    );
    let _ =
        writeln!(out, "next      hotplug work {0} 0, and so on; then hotplug merge {0}", folder.display());
    out
}

/// The line of a shard that ended.
pub fn shard(cell: &str, shard: &Shard, how: &str) -> String {
    let tally = shard.judge.tally();
    format!(
        "shard     {} {how}: {}, {} + {} trials in {}\n",
        shard.id,
        harmless(cell, NAME),
        tally.before.trials,
        tally.after.trials,
        duration(shard.seconds)
    )
}

/// The screen of all combinations, and of the shards that were left out. `folder` is the plan's
/// folder.
pub fn merged(plan: &Plan, cells: &[MergedCell], left: &[Left], folder: &Path) -> String {
    let mut out = format!("{:<NAME$}  {:>11}  {:>9}\n", "combination", "trials", "shards");
    for (number, cell) in cells.iter().enumerate() {
        let name = harmless(&cell.name, NAME);
        let shards = format!("{}/{}", cell.shards.0, cell.shards.1);
        let Some(result) = &cell.result else {
            let _ = writeln!(out, "{name:<NAME$}  {:>11}  {shards:>9}  nothing", "-");
            continue;
        };
        let trials = format!("{} + {}", result.trials.before.trials, result.trials.after.trials);
        let verdict = result.verdict.map_or_else(|| "NO VERDICT".to_owned(), |verdict| verdict.to_string());
        let _ = writeln!(out, "{name:<NAME$}  {trials:>11}  {shards:>9}  {verdict:<13} merged/{number:04}");
        let _ = writeln!(out, "    {}", harmless(&result.reason, 110));
        for finding in result.reports.iter().filter(|finding| finding.known.is_none()).take(3) {
            let title = harmless(&finding.title, 70);
            let _ = writeln!(out, "    {title}   {} -> {}", finding.before, finding.after);
        }
    }
    out.push('\n');
    for one in left.iter().take(SHOWN) {
        let _ = writeln!(out, "left out  {}: {}", harmless(&one.id, 20), harmless(&one.why, 150));
    }
    if left.len() > SHOWN {
        let _ = writeln!(out, "          and {} more", left.len() - SHOWN);
    }
    let count: usize = cells.iter().map(|cell| cell.shards.0).sum();
    let _ = writeln!(
        out,
        "merged    {count} of {} shards of plan {}{}",
        plan.pieces().count(),
        plan.id,
        if count < plan.pieces().count() { ": PARTIAL" } else { "" }
    );
    let _ = writeln!(out, "result    {}/merged", folder.display());
    out
}

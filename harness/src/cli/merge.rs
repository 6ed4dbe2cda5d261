//! `hotplug merge`: shards joined to the verdict of all their trials.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::compare::{Verdict, worst_exit_status};
use crate::fleet::{Left, MergedCell, Merger, Plan, Shard};
use crate::present::fleet as screen;
use crate::record::write_json;
use crate::{Error, Result};

/// Options of `hotplug merge`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug merge fleet/nightly-3fa9c1d2e8b4
  hotplug merge fleet/nightly-3fa9c1d2e8b4 downloads/shards-1 downloads/shards-2

Exit status: the worst of all combinations': 1 regressed; 4 nothing to judge; 3 inconclusive, or shards are missing; 0 unchanged or fixed.")]
pub struct MergeArgs {
    /// The plan's folder
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// More folders that shards are in, each in a folder called by its id
    #[arg(value_name = "SHARDS")]
    pub shards: Vec<PathBuf>,
}

/// Joins what is there, says what is not, writes a result for each combination.
pub fn run(args: &MergeArgs, out: &mut impl Write) -> Result<u8> {
    let (plan, folder) = Plan::read(&args.plan)?;
    let mut places = vec![folder.join("shards")];
    places.extend(args.shards.iter().cloned());
    for place in &args.shards {
        if !place.is_dir() {
            return Err(Error::user(format!("there is no folder {}", place.display())).mend("check the path"));
        }
    }
    let (mut cells, mut left) = (Vec::new(), Vec::new());
    for cell in &plan.cells {
        let mut merger = Merger::new(&plan, cell);
        for piece in &cell.pieces {
            match find(&places, &piece.id) {
                Ok(shard) => {
                    if let Err(why) = merger.add(shard) {
                        left.push(Left { id: piece.id.clone(), why });
                    }
                }
                Err(why) => left.push(Left { id: piece.id.clone(), why }),
            }
        }
        cells.push(merger.finish());
    }
    for (place, id) in strangers(&plan, &places)? {
        left.push(Left { id, why: format!("in {}: it is of no trials of this plan", place.display()) });
    }
    for (number, cell) in cells.iter().enumerate() {
        let Some(result) = &cell.result else { continue };
        let merged = folder.join("merged").join(format!("{number:04}"));
        fs_err::create_dir_all(&merged)?;
        write_json(&merged.join("result.json"), result)?;
    }
    out.write_all(screen::merged(&plan, &cells, &left, &folder).as_bytes())?;
    Ok(exit_status(&cells))
}

/// The first whole shard of that id; else why there is none.
fn find(places: &[PathBuf], id: &str) -> Result<Shard, String> {
    let mut why = "it is missing".to_owned();
    for place in places {
        match Shard::read(&place.join(id)) {
            Ok(Some(shard)) if shard.id == id => return Ok(shard),
            Ok(Some(shard)) => why = format!("it says of itself that it is {}", shard.id),
            Ok(None) => {}
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Folders of shards that the plan does not know.
fn strangers(plan: &Plan, places: &[PathBuf]) -> Result<Vec<(PathBuf, String)>> {
    let mut all = Vec::new();
    for place in places.iter().filter(|place| place.is_dir()) {
        for entry in fs_err::read_dir(place)? {
            let entry = entry?;
            let id = entry.file_name().to_string_lossy().into_owned();
            let known = plan.pieces().any(|(_, piece)| piece.id == id);
            if !known && Shard::file(&entry.path()).is_file() {
                all.push((place.clone(), id));
            }
        }
    }
    all.sort();
    Ok(all)
}

fn exit_status(cells: &[MergedCell]) -> u8 {
    let of = |cell: &MergedCell| match &cell.result {
        None => 3,
        Some(result) => result.verdict.map_or(4, Verdict::exit_status),
    };
    let partial = cells.iter().any(|cell| cell.shards.0 < cell.shards.1);
    let worst = worst_exit_status(cells.iter().map(of));
    if worst == 0 && partial { 3 } else { worst }
}

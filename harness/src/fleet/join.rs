//! Joins the shards of a plan to a result for each combination.

use std::path::{Path, PathBuf};

use super::{Left, MergedCell, Merger, Plan, Shard};
use crate::comparison::known_issues;
use crate::files::write_json;
use crate::program_files;
use crate::record::{Run, RunResult};
use crate::trial::OnDisk;
use crate::{Error, Result};

/// A plan with its joined shards.
#[derive(Debug)]
pub struct Joined {
    /// The plan.
    pub plan: Plan,
    /// The plan's folder.
    pub folder: PathBuf,
    /// The results of the combinations, each with the folder of its result.
    pub cells: Vec<(PathBuf, MergedCell)>,
    /// Shards that do not count, each with the reason.
    pub left: Vec<Left>,
}

/// Joins the shards in the plan's folder and below `more`, and writes a result for each
/// combination.
pub fn join(plan: &Path, more: &[PathBuf]) -> Result<Joined> {
    let (plan, folder) = Plan::read(plan)?;
    let mut places = vec![folder.join("shards")];
    places.extend(more.iter().cloned());
    for place in more {
        if !place.is_dir() {
            return Err(Error::user(format!("there is no folder {}", place.display())).help("check the path"));
        }
    }
    let (mut cells, mut left) = (Vec::new(), Vec::new());
    for cell in &plan.cells {
        let known = known_issues(plan.known.as_ref().map(|file| folder.join(file)).as_deref())?;
        let runs: Vec<Run> = cell.pieces.iter().filter_map(|piece| run_of(&places, &piece.id)).collect();
        let mut merger = Merger::new(&plan, cell, known, runs.iter());
        let mut counted = Vec::new();
        for piece in &cell.pieces {
            let added = find(&places, &piece.id).and_then(|(place, shard)| {
                let run = place.join(&shard.run.id);
                merger.add(shard).map(|()| run)
            });
            match added {
                Ok(run) => counted.push(run),
                Err(why) => left.push(Left { id: piece.id.clone(), why }),
            }
        }
        let done = merger.finish();
        let to = folder.join("merged").join(format!("{:04}", cells.len()));
        if to.exists() {
            fs_err::remove_dir_all(&to)?;
        }
        if let Some(result) = &done.result {
            write(&to, result, &folder.join(&cell.scenario), &counted)?;
        }
        cells.push((to, done));
    }
    for (place, id) in strangers(&plan, &places)? {
        left.push(Left { id, why: format!("in {}: its trials are not in this plan", place.display()) });
    }
    Ok(Joined { plan, folder, cells, left })
}

/// Writes the folder of a run like any other. Its trials are links to those that the runs of the
/// shards kept.
fn write(to: &Path, result: &RunResult, scenario: &Path, runs: &[PathBuf]) -> Result<()> {
    let trials = to.join("trials");
    fs_err::create_dir_all(&trials)?;
    fs_err::copy(scenario, to.join("scenario.toml"))?;
    // The initramfs is the same in all runs. A shard that was copied from another machine may be
    // without it.
    let initramfs = runs.iter().map(|run| run.join(OnDisk::INITRAMFS)).find(|file| file.is_file());
    if let Some(initramfs) = initramfs {
        link(&initramfs, &to.join(OnDisk::INITRAMFS))?;
    }
    let programs = runs.iter().map(|run| run.join(program_files::FOLDER)).find(|folder| folder.is_dir());
    if let Some(programs) = programs {
        link(&programs, &to.join(program_files::FOLDER))?;
    }
    for run in runs {
        for trial in fs_err::read_dir(run.join("trials")).into_iter().flatten() {
            let trial = trial?;
            link(&trial.path(), &trials.join(trial.file_name()))?;
        }
    }
    write_json(&to.join("run.json"), &result.run)?;
    write_json(&to.join("result.json"), result)
}

/// Creates a relative link at `to`, which stays valid if a plan's folder is moved as a whole.
fn link(from: &Path, to: &Path) -> Result<()> {
    let from = fs_err::canonicalize(from)?;
    let folder = fs_err::canonicalize(to.parent().unwrap_or(to))?;
    let relative = pathdiff::diff_paths(&from, &folder).unwrap_or(from);
    Ok(fs_err::os::unix::fs::symlink(relative, to)?)
}

/// The run of the first complete shard with that id.
fn run_of(places: &[PathBuf], id: &str) -> Option<Run> {
    places.iter().find_map(|place| Shard::run(&place.join(id)))
}

/// The first complete shard with that id, and its folder, or the reason why there is none.
fn find(places: &[PathBuf], id: &str) -> Result<(PathBuf, Shard), String> {
    let mut why = "it is missing".to_owned();
    for place in places.iter().map(|place| place.join(id)) {
        match Shard::read(&place) {
            Ok(Some(shard)) if shard.id == id => return Ok((place, shard)),
            Ok(Some(shard)) => why = format!("its shard.json has the id {}", shard.id),
            Ok(None) => {}
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Folders of shards that are not in the plan.
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

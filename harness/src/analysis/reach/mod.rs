//! The reach analysis: which callbacks of hotplug the after kernel has, which of them ran, and
//! which its source has beside them. One further trial of each scenario records it, so that the
//! judged trials run without a trace.

mod section;

pub use section::full;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use hotplug_side::{Side, Sides};

use super::{Analysis, Kernels, Prepared};
use crate::compare::Judgement;
use crate::conclusion::Conclusions;
use crate::environment::{self, Env};
use crate::files::read_json_if_there;
use crate::kernel::{self, Kernel, SourceCopy, Tool, Wanted};
use crate::reach::{self, CallbackLayout, LockingChange, Reach, TrialCallbacks};
use crate::scenario::Start;
use crate::trial::{Instruments, ScenarioOfTrial, TrialPlan, TrialSetup, plan_of};
use crate::unavailable::Unavailable;
use crate::{Error, Result};

pub(crate) struct ReachAnalysis;

impl Analysis for ReachAnalysis {
    type Conclusion = Reach;

    const NAME: &'static str = "reach";

    fn kernels(prepared: &Prepared) -> Vec<Kernels> {
        if prepared.kernels.after.vmlinux.is_some() { vec![Kernels::Judged] } else { Vec::new() }
    }

    async fn conclude(
        prepared: &Prepared,
        _: &mut Judgement,
        so_far: &Conclusions,
        env: &Env<'_>,
    ) -> Result<Option<Reach>> {
        let kernel = &prepared.kernels.after;
        let mut reach = match layout(prepared, kernel) {
            Ok(layout) => watched(prepared, layout, env).await?,
            Err(why) => Reach::none(why),
        };
        reach.change = change(prepared, so_far, env).await?;
        match registering(prepared, kernel, env).await {
            Ok((absent, built)) => {
                reach.absent = Some(absent);
                reach.count_files(&built);
            }
            Err(error) if error.kind() == crate::ErrorKind::Interrupted => return Err(error),
            Err(error) => reach.unsearched = Some(error.to_string()),
        }
        Ok(Some(reach))
    }

    fn unavailable(_: &Prepared, why: Unavailable) -> Option<Reach> {
        Some(Reach::none(why))
    }
}

/// Where the after kernel keeps its callbacks.
fn layout(prepared: &Prepared, kernel: &Kernel) -> Result<Arc<CallbackLayout>, Unavailable> {
    let vmlinux = kernel.vmlinux.as_ref();
    let vmlinux = vmlinux.ok_or_else(|| Unavailable::because("its kernel was given without a vmlinux"))?;
    let symbols = prepared.context().lock_layouts.after.clone()?;
    CallbackLayout::of(vmlinux, symbols).map(Arc::new)
}

/// Runs one trial of each scenario with the after kernel, or as many as make all of its failures on
/// purpose, and reads what they recorded.
async fn watched(prepared: &Prepared, layout: Arc<CallbackLayout>, env: &Env<'_>) -> Result<Reach> {
    let instruments = Instruments {
        callbacks: Some(Sides { before: layout.clone(), after: layout }),
        ..Instruments::default()
    };
    let folder = prepared.folder.path().join("reach");
    let trials = folder.join("trials");
    fs_err::create_dir_all(&trials)?;
    env.note("reach", "further trials of each scenario, with a trace of the callbacks");
    let (mut unwatched, mut watched) = (BTreeMap::new(), Vec::new());
    // A continued run has some of them already.
    let found = find(&trials)?;
    for part in &prepared.parts {
        let scenario = &part.context.scenario;
        if scenario.start == Start::Boot {
            let why = "its operations run while the guest boots, before a trace can begin";
            unwatched.insert(scenario.name.clone(), why.to_owned());
        } else if prepared.judge.always_hangs(&scenario.name) {
            unwatched.insert(scenario.name.clone(), "its judged trials hung".to_owned());
        } else if !found.contains_key(&scenario.name) {
            let context = part.context.with_scenario(scenario.clone().unheld());
            let evidence = part.of_trial.below(folder.join("checkpoints"));
            let start = environment::start(prepared.run.plan.cold, &context, &evidence, env).await?;
            let of_trial = ScenarioOfTrial { place: watched.len(), ..part.of_trial.clone() };
            watched.push((context, start, of_trial));
        }
    }
    let setups = watched.iter().map(|(context, start, _)| TrialSetup {
        context,
        start,
        instruments: &instruments,
        rounds: 1,
    });
    let setups: Vec<_> = setups.collect();
    let plans = watched.iter().flat_map(|(context, _, of_trial)| {
        plan_of(of_trial.clone(), 0..context.scenario.parts(), prepared.run.seed)
    });
    let plans: Vec<TrialPlan> = plans.filter(|plan| plan.side == Side::After).collect();
    if !plans.is_empty() {
        prepared.run_further(&setups, plans, prepared.run.plan.workers, &trials, env).await?;
    }

    let mut reach = Reach { unwatched, ..Reach::default() };
    let mut found = find(&trials)?;
    for part in &prepared.parts {
        let name = &part.context.scenario.name;
        if reach.unwatched.contains_key(name) {
            continue;
        }
        match found.remove(name) {
            Some(trials) => trials.iter().for_each(|trial| reach.add(trial)),
            None => {
                reach.unwatched.insert(name.clone(), "its trial gave no result".to_owned());
            }
        }
    }
    Ok(reach)
}

/// The recorded callbacks of each scenario's trials, from whichever of their attempts have them.
fn find(trials: &Path) -> Result<BTreeMap<String, Vec<TrialCallbacks>>> {
    let mut all: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for entry in fs_err::read_dir(trials)? {
        if let Some(found) = read_json_if_there::<TrialCallbacks>(&entry?.path().join(reach::FILE))? {
            all.entry(found.scenario.clone()).or_default().push(found);
        }
    }
    Ok(all)
}

/// The sections whose locks the patch changes, by its text and by the lock order.
async fn change(prepared: &Prepared, so_far: &Conclusions, env: &Env<'_>) -> Result<LockingChange> {
    let spec = &prepared.run.spec.kernels;
    let mut change = match diff(prepared, env).await {
        Ok(Some(diff)) => LockingChange::of_diff(&diff),
        Ok(None) if prepared.kernels.before.id == prepared.kernels.after.id => LockingChange::default(),
        Ok(None) => LockingChange {
            unread: Some(format!(
                "{} has no source here",
                spec.given().into_iter().flatten().next_back().unwrap_or(Path::new("a side")).display()
            )),
            ..LockingChange::default()
        },
        Err(error) if error.kind() == crate::ErrorKind::Interrupted => return Err(error),
        Err(error) => LockingChange { unread: Some(error.to_string()), ..LockingChange::default() },
    };
    if let Some(order) = &so_far.lock_order {
        let differing = order.gone.iter().chain(&order.new);
        change.add_dependencies(differing.map(|edge| (edge.from.as_str(), edge.to.as_str())));
    }
    Ok(change)
}

/// The difference between the two sources. None if there is no text of it.
async fn diff(prepared: &Prepared, env: &Env<'_>) -> Result<Option<String>> {
    let spec = &prepared.run.spec.kernels;
    if !spec.patches.is_empty() {
        return Ok(Some(kernel::diffs(&spec.patches, env.cancel).await?.concat()));
    }
    let (Some(repo), Some(before), Some(after)) = (&spec.source, &spec.before, &spec.after) else {
        return Ok(None);
    };
    let git = Tool::new("git", Path::new(repo)).args(["diff", "--no-color", "--no-ext-diff", before, after]);
    let text = kernel::capture(git, env.cancel).await?.ok(|said| {
        Error::infrastructure("git cannot show the difference between the revisions").detail(said)
    })?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// The files of the after kernel's source that register callbacks: those that are not in the
/// kernel, and the others.
async fn registering(
    prepared: &Prepared,
    kernel: &Kernel,
    env: &Env<'_>,
) -> Result<(Vec<reach::Absent>, BTreeSet<String>)> {
    let request = prepared.run.spec.kernels.request()?;
    let (Wanted::Build { source, .. }, Some(vmlinux)) = (&request.after, kernel.vmlinux.clone()) else {
        return Err(Error::user("the kernel was given without a source"));
    };
    let arch = kernel.arch.table();
    let copy = SourceCopy::of(source, env.cache, env.cancel).await?;
    let folder = copy.path();
    kernel::blocking(move || {
        let bytes = fs_err::read(&vmlinux)?;
        let file = object::File::parse(&*bytes).map_err(Error::infrastructure)?;
        let names = hotplug_vmlinux::sources(&file).map_err(Error::infrastructure)?;
        let built: BTreeSet<String> = names.iter().filter_map(|name| reach::in_source(name)).collect();
        Ok(reach::absent(&folder, arch.kernel, &built))
    })
    .await
}

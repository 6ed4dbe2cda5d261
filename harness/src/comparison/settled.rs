//! Verdicts that need no trial: both kernels are the same, or the after kernel does not compile.

use std::path::Path;

use hotplug_side::{Side, Sides};

use super::prepare::{Checked, RunParts, change_name, record};
use super::run::Finished;
use crate::compare::{Judge, Judgement, Verdict};
use crate::conclusion::Conclusions;
use crate::environment::{self, Env};
use crate::events::RunEvent;
use crate::kernel::{Kernel, KernelPair, PairRequest, PairSpec, changed_files};
use crate::record::{KernelNote, RunFolder, RunResult, ScenarioNote, Settled};
use crate::spec::ComparisonSpec;
use crate::{Error, Result};

/// The name of the copy of the build's log.
const LOG: &str = "build-after.log";

/// The result of a comparison whose kernels are the same, bit for bit.
pub(super) async fn identical(
    spec: &ComparisonSpec,
    checked: &Checked,
    named: PairSpec,
    pair: KernelPair,
    env: &Env<'_>,
) -> Result<Finished> {
    let kernels = Sides { before: environment::note(&pair.before), after: environment::note(&pair.after) };
    let not_built = not_built(&named, &pair, env).await?;
    let kind = Settled::Identical { not_built };
    let folder = RunFolder::create(&spec.running.results, &name(spec, "same"))?;
    finish(spec, checked, named, (kernels, vec![pair.before, pair.after]), kind, folder, env)
}

/// The changed files that the kernels are not built from. The debug information of a kernel names
/// each file that it is built from.
async fn not_built(named: &PairSpec, pair: &KernelPair, env: &Env<'_>) -> Result<Vec<String>> {
    let record = |kernel: &Kernel| kernel.record.as_ref().map(|record| record.content.clone());
    let sides = (&pair.before, &pair.after);
    // Images and packages are what the user wants to know about.
    if !sides.0.is_built() || !sides.1.is_built() {
        return Ok(Vec::new());
    }
    if record(sides.0) != record(sides.1) {
        return Ok(vec!["what differs between the two sources".to_owned()]);
    }
    let Some(vmlinux) = &sides.0.vmlinux else { return Ok(Vec::new()) };
    let bytes = fs_err::read(vmlinux)?;
    // A header is named by its folder and its file apart.
    let is_built = |path: &String| {
        let is_header = Path::new(path).extension().is_some_and(|ending| ending == "h");
        let name = if is_header { path.rsplit('/').next().unwrap_or(path) } else { path };
        memchr::memmem::find(&bytes, name.as_bytes()).is_some()
    };
    let changed = changed_files(&named.patches, env.cancel).await?;
    Ok(changed.into_iter().filter(|path| !is_built(path)).collect())
}

/// The result of a comparison whose after kernel does not compile, where the before kernel does.
/// Any other error is returned as it is.
pub(super) async fn does_not_compile(
    spec: &ComparisonSpec,
    checked: &Checked,
    error: Error,
    env: &Env<'_>,
) -> Result<Finished> {
    let Some(failed) = error.failed_build().filter(|failed| failed.side == Side::After).cloned() else {
        return Err(error);
    };
    let named = checked.masks.under(spec.kernels.clone().with_source_named()?);
    let request = named.request()?;
    // It was built first, and comes from the cache.
    let both = PairRequest { after: request.before.clone(), ..request };
    let before = env.build(&both).await?.before;
    // The failure of a source that was never built without the change says nothing about the change.
    if !before.is_built() {
        return Err(error);
    }
    let before_note = environment::note(&before);
    let after = KernelNote {
        source: named.after.clone().unwrap_or_else(|| before_note.source.clone()),
        built: "does not compile".into(),
        ..KernelNote::default()
    };
    let folder = RunFolder::create(&spec.running.results, &name(spec, "patched"))?;
    fs_err::copy(&failed.log, folder.path().join(LOG))?;
    let kind = Settled::DoesNotCompile { first: failed.first, lines: failed.lines, log: LOG.into() };
    let kernels = Sides { before: before_note, after };
    finish(spec, checked, named, (kernels, vec![before]), kind, folder, env)
}

fn name(spec: &ComparisonSpec, otherwise: &str) -> String {
    change_name(&spec.kernels).unwrap_or_else(|| otherwise.to_owned())
}

fn finish(
    spec: &ComparisonSpec,
    checked: &Checked,
    named: PairSpec,
    (kernels, held): (Sides<KernelNote>, Vec<Kernel>),
    settled: Settled,
    folder: RunFolder,
    env: &Env<'_>,
) -> Result<Finished> {
    let note = |one: &super::scenarios::Chosen| ScenarioNote {
        name: one.scenario.name.clone(),
        hash: blake3::hash(one.text.as_bytes()).to_hex().to_string(),
        left_out: Some(format!("no trial ran: {settled}")),
        ..ScenarioNote::default()
    };
    let parts = RunParts {
        initramfs: checked.host.initramfs()?,
        host: checked.host.note_without_guests(),
        kernels,
        scenarios: checked.chosen.iter().map(note).collect(),
        series: checked.series.clone(),
        looks: 1,
        workers: 0,
    };
    let run = record(spec, named, parts, &checked.chosen, &folder, env)?;
    env.events.event(&RunEvent::Began(&run));
    let verdict = match settled {
        Settled::Identical { ref not_built } if not_built.is_empty() => Verdict::Unchanged,
        Settled::Identical { .. } => Verdict::Inconclusive,
        Settled::DoesNotCompile { .. } => Verdict::Regressed,
    };
    let judgement = Judgement { verdict: Some(verdict), reason: settled.to_string(), ..Judgement::default() };
    let result = RunResult::new(run, judgement, Vec::new(), 0.0, Conclusions::default());
    let result = RunResult { settled: Some(settled), ..result };
    folder.write("result.json", &result)?;
    Ok(Finished { folder, result, judge: Judge::default(), kernels: held, start_seconds: 0.0, stopped: None })
}

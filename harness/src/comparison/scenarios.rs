//! The scenarios of a comparison: which were chosen, their names and hashes in the record of the
//! run, and the contexts of their trials.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotplug_side::{Side, Sides};

use crate::environment::{self, HostEnv};
use crate::host::{Accelerator, AcceleratorRequest, Choice};
use crate::kernel::{Kernel, KernelPair, PairSpec};
use crate::program_files;
use crate::record::{Run, ScenarioNote};
use crate::rendezvous::Places;
use crate::scenario::{RACE, Scenario};
use crate::spec::{ComparisonSpec, RunningSpec, ScenarioChoice};
use crate::trial::{ScenarioOfTrial, TrialContext};
use crate::{Error, Result};

/// A scenario, and its text as it was read.
pub(super) struct Chosen {
    pub(super) scenario: Scenario,
    pub(super) text: String,
}

impl Chosen {
    /// Reads the files of the scenario's programs.
    fn new(mut scenario: Scenario, text: String) -> Result<Self> {
        scenario.files = program_files::read(&scenario)?.map(Arc::new);
        Ok(Self { scenario, text })
    }
}

/// The same specification, with an architecture: its own, or that of the first scenario that it names.
pub(super) fn with_architecture(spec: &ComparisonSpec) -> Result<ComparisonSpec> {
    let arch = match (spec.kernels.arch, &spec.scenarios) {
        (None, ScenarioChoice::Named(paths)) if !paths.is_empty() => {
            Scenario::read(&paths[0])?.0.machine.kind.arch().id
        }
        (asked, _) => asked.unwrap_or_default(),
    };
    Ok(ComparisonSpec { kernels: PairSpec { arch: Some(arch), ..spec.kernels.clone() }, ..spec.clone() })
}

/// Checks that the guests of a scenario are of the specification's architecture. Fails with a user
/// error if they are not.
fn of_the_architecture(scenario: &Scenario, spec: &PairSpec) -> Result<()> {
    let (own, wanted) = (scenario.machine.kind.arch().id, spec.arch.unwrap_or_default());
    if own == wanted {
        return Ok(());
    }
    Err(Error::user(format!("scenario {} is for guests of {own}, not of {wanted}", scenario.name))
        .help("hotplug scenario list shows the scenarios of each architecture"))
}

/// Checks that the kernels are of the scenarios' architecture. Fails with a user error if one is not.
pub(super) fn of_one_architecture(kernels: &KernelPair, spec: &PairSpec) -> Result<()> {
    let wanted = spec.arch.unwrap_or_default();
    for (side, kernel) in [(Side::Before, &kernels.before), (Side::After, &kernels.after)] {
        if kernel.arch != wanted {
            let what = format!("the {side} kernel is one of {}, and the guests are of {wanted}", kernel.arch);
            return Err(Error::user(what).help(format!("give --arch {}, or other kernels", kernel.arch)));
        }
    }
    Ok(())
}

/// The requested scenarios.
pub(super) fn chosen(spec: &ComparisonSpec) -> Result<Vec<Chosen>> {
    let Some(sweep) = &spec.sweep else {
        let mut all: Vec<Chosen> = Vec::new();
        for path in spec.scenarios.paths(spec.kernels.arch.unwrap_or_default()) {
            let (scenario, text) = Scenario::read(&path)?;
            of_the_architecture(&scenario, &spec.kernels)?;
            if all.iter().any(|one| one.scenario.name == scenario.name) {
                return Err(Error::user(format!("two scenarios have the name {}", scenario.name))
                    .help("give each scenario once, and name their files differently"));
            }
            all.push(Chosen::new(scenario, text)?);
        }
        return Ok(all);
    };
    let path = match &spec.scenarios {
        ScenarioChoice::Portfolio => PathBuf::from(RACE),
        ScenarioChoice::Named(paths) if paths.len() == 1 => paths[0].clone(),
        _ => return Err(Error::user("a sweep needs one scenario").help("give --scenario once")),
    };
    let (scenario, mut text) = Scenario::read(&path)?;
    of_the_architecture(&scenario, &spec.kernels)?;
    let file = format!("{}.toml", scenario.name);
    if !scenario.holds.is_empty() {
        return Err(Error::user(format!("{file} defines holds of its own"))
            .help("run it with `hotplug compare`, or remove its [sweep], [[rendezvous]] and delays"));
    }
    let table = toml::to_string(sweep).map_err(Error::infrastructure)?;
    text.push_str("\n[sweep]\n");
    text.push_str(&table);
    let swept = Scenario::parse(&file, &text)?.with_paths_from(path.parent().unwrap_or(Path::new("")));
    Ok(vec![Chosen::new(swept, text)?])
}

/// The number of trials a side of each scenario of the portfolio before the first look at the
/// findings. With 3, no finding of one scenario is decided, because its p is at least 0.1.
const FIRST_LOOK: u32 = 3;

/// The scenarios of a new run.
pub(super) struct Fitting {
    /// Those that run, with the addresses of the places that they name.
    pub(super) parts: Placed,
    /// The record of each, also of those that are left out.
    pub(super) notes: Vec<ScenarioNote>,
    /// The number of times that the findings may be judged.
    pub(super) looks: u32,
}

/// Checks which scenarios this machine, its QEMU and the kernels can run, and plans their trials. A
/// scenario that the user did not name is left out if it cannot run.
///
/// Fails with a user error if a named one cannot run, or none.
pub(super) fn fit(
    spec: &ComparisonSpec,
    chosen: &[Chosen],
    host: &HostEnv,
    accelerator: Accelerator,
    kernels: &Sides<Kernel>,
) -> Result<Fitting> {
    let trials = &spec.trials;
    let open_ended = trials.seconds.is_some() || trials.until_report;
    let is_named = spec.scenarios.name().is_none();
    // Breadth comes first: a few trials of each scenario, and more where they find something.
    let in_looks = !is_named && chosen.len() > 1 && trials.end.is_none() && !open_ended;
    let usual = |trials: u32| if in_looks { trials.min(FIRST_LOOK) } else { trials };
    let mut all = Fitting { parts: Vec::new(), notes: Vec::new(), looks: if in_looks { 2 } else { 1 } };
    let mut refused = Vec::new();
    for Chosen { scenario, text } in chosen {
        let fits = host.fits(scenario, accelerator);
        let fits = fits.and_then(|()| environment::has_options(kernels, scenario));
        let left_out = match fits.and_then(|()| environment::places(kernels, scenario)) {
            Ok(places) => {
                all.parts.push((scenario.clone(), places));
                None
            }
            Err(error) if is_named => return Err(error),
            Err(error) => {
                let line = error.in_one_line();
                refused.push((&scenario.name, error));
                Some(line)
            }
        };
        all.notes.push(ScenarioNote {
            name: scenario.name.clone(),
            hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
            trials: trials.end.or_else(|| (!open_ended).then(|| usual(scenario.trials))),
            start: None,
            left_out,
        });
    }
    if all.parts.is_empty() {
        // With nothing left to run, the remedies count as well.
        let reasons = refused.iter().map(|(name, error)| format!("{name}: {error}"));
        let reasons = reasons.collect::<Vec<_>>().join("\n");
        return Err(Error::user("no scenario can run here").detail(reasons));
    }
    Ok(all)
}

/// The accelerator that the user and all scenarios ask for. A scenario that holds tasks asks for TCG,
/// unless the user asks for KVM: holds have never worked there (docs/races.md). Fails with a user error
/// if they contradict each other.
pub(crate) fn asked<'a>(
    running: &RunningSpec,
    scenarios: impl Iterator<Item = &'a Scenario>,
) -> Result<AcceleratorRequest> {
    let mut asked = running.accelerator_request();
    let mut holds = false;
    for scenario in scenarios {
        asked = asked.and(scenario.machine.accelerator)?;
        holds |= !scenario.holds.is_empty();
    }
    if holds && asked.choice == Choice::Auto { asked.and(Some(Accelerator::Tcg)) } else { Ok(asked) }
}

/// Scenarios that run, with the addresses of the places that they name.
type Placed = Vec<(Scenario, Option<Sides<Arc<Places>>>)>;

/// The addresses of the places that each scenario names. Fails with a user error if a kernel lacks
/// one.
pub(crate) fn with_places(
    scenarios: impl IntoIterator<Item = Scenario>,
    kernels: &Sides<Kernel>,
) -> Result<Placed> {
    let of = |scenario: Scenario| {
        let places = environment::places(kernels, &scenario)?;
        Ok((scenario, places))
    };
    scenarios.into_iter().map(of).collect()
}

/// The contexts of all scenarios, in their order. A run of several scenarios names its trials by
/// them.
pub(crate) async fn contexts(
    host: &HostEnv,
    parts: Placed,
    accelerator: Accelerator,
    kernels: &Sides<Kernel>,
    run: &Run,
    initramfs: &[u8],
) -> Result<Vec<(TrialContext, ScenarioOfTrial)>> {
    let several = run.scenarios().len() > 1;
    let mut all: Vec<(TrialContext, ScenarioOfTrial)> = Vec::new();
    for (place, (scenario, places)) in parts.into_iter().enumerate() {
        let of_trial = ScenarioOfTrial::new(place, &scenario.name, several);
        let context = match all.first() {
            // All but the scenario and its places is the same for all.
            Some((first, _)) => {
                host.fits(&scenario, accelerator)?;
                let initrd = match (&scenario.files, &first.scenario.files) {
                    (None, None) => first.initrd.clone(),
                    _ => environment::initrds(initramfs, kernels, &scenario)?,
                };
                TrialContext { initrd, places, ..first.with_scenario(scenario) }
            }
            None => host.context(scenario, accelerator, kernels, run, initramfs, places).await?,
        };
        all.push((context, of_trial));
    }
    Ok(all)
}

/// The number of guests at once that every scenario allows.
pub(crate) fn workers<'a>(
    host: &HostEnv,
    asked: Option<u32>,
    scenarios: impl Iterator<Item = &'a Scenario>,
) -> usize {
    scenarios.map(|scenario| host.workers(asked, scenario)).min().unwrap_or(1)
}

/// The name of the scenario, or of the choice of several.
pub(super) fn run_name(spec: &ComparisonSpec, notes: &[ScenarioNote]) -> String {
    match (spec.scenarios.name(), notes) {
        (_, [one]) => one.name.clone(),
        (Some(name), _) => name.to_owned(),
        (None, many) => many.iter().map(|note| note.name.as_str()).collect::<Vec<_>>().join("+"),
    }
}

/// The hash of the scenario, or of the hashes of several.
pub(super) fn run_hash(notes: &[ScenarioNote]) -> String {
    match notes {
        [one] => one.hash.clone(),
        many => {
            let all: String = many.iter().map(|note| note.hash.as_str()).collect();
            blake3::hash(all.as_bytes()).to_hex().to_string()
        }
    }
}

/// The planned number of trials a side, of all scenarios that run. None without an end.
pub(super) fn planned(notes: &[ScenarioNote], first: u32) -> Option<u32> {
    let run = notes.iter().filter(|note| note.left_out.is_none());
    match notes {
        // The number after the last trial, of a run that may be a part of a larger one.
        [one] => one.trials,
        _ => run.map(|note| note.trials.map(|end| end.saturating_sub(first))).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_that_holds_tasks_asks_for_tcg() {
        let text = include_str!("../../../scenarios/race.toml");
        let plain = Scenario::parse("race", text).unwrap();
        let sweep = "\n[sweep]\nfunctions = [\"offline_pages\"]\nagainst = [\"_cpu_up\"]\n";
        let held = Scenario::parse("race", &format!("{text}{sweep}")).unwrap();
        let asked = |accelerator, scenarios: &[&Scenario]| {
            let running = RunningSpec { accelerator, ..RunningSpec::default() };
            super::asked(&running, scenarios.iter().copied()).unwrap().choice
        };
        assert_eq!(asked(None, &[&plain]), Choice::Auto);
        assert_eq!(asked(None, &[&plain, &held]), Choice::Tcg);
        assert_eq!(asked(Some(Choice::Kvm), &[&held]), Choice::Kvm);
    }
}

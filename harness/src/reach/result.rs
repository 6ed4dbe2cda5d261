//! What was reached, and what it means for silence.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::absent::Absent;
use super::callbacks::{Callbacks, CpuState};
use super::change::LockingChange;
use super::layout::Chain;
use super::trace::Runs;
use crate::unavailable::Unavailable;

/// The name of the file in a trial's folder.
pub const FILE: &str = "callbacks.json";

/// The callbacks of one trial: the content of [`FILE`] in its folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TrialCallbacks {
    /// The scenario.
    pub scenario: String,
    /// Why the trial says nothing about what ran; null if it was watched.
    pub odd: Option<String>,
    /// The callbacks that were registered at its end.
    pub callbacks: Callbacks,
    /// The callbacks that ran.
    pub runs: Runs,
}

/// A notifier, and whether it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallbackReach {
    /// Its chain.
    pub chain: Chain,
    /// Its function.
    pub function: String,
    /// The number of its calls in all trials; null if the kernel cannot trace them, or if several
    /// chains have the function.
    pub calls: Option<u64>,
    /// The scenarios whose trials called it.
    pub scenarios: Vec<String>,
}

/// A state of CPU hotplug, and how often its callbacks ran in all trials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StateReach {
    /// The state.
    #[serde(flatten)]
    pub state: CpuState,
    /// Calls of `startup`.
    pub startups: u64,
    /// Calls of `teardown`.
    pub teardowns: u64,
    /// Calls of either on the way back after a callback had failed.
    pub rollbacks: u64,
    /// Calls that failed.
    pub failures: u64,
}

impl StateReach {
    /// Its callbacks that could run and never did.
    fn never(&self) -> impl Iterator<Item = &str> {
        let has = self.could_be_seen();
        let of = |function: &'_ Option<String>, calls: u64| has && function.is_some() && calls == 0;
        let startup = of(&self.state.startup, self.startups).then_some(self.state.startup.as_deref());
        let teardown = of(&self.state.teardown, self.teardowns).then_some(self.state.teardown.as_deref());
        startup.into_iter().chain(teardown).flatten()
    }

    /// Whether its callbacks can run, and leave a trace.
    fn could_be_seen(&self) -> bool {
        self.state.has_instance != Some(false) && !self.state.is_atomic
    }

    /// The number of its callbacks that can run and leave a trace.
    fn all(&self) -> usize {
        let has = self.could_be_seen();
        usize::from(has && self.state.startup.is_some()) + usize::from(has && self.state.teardown.is_some())
    }
}

/// The reach of a comparison: what the silence of its after kernel stands on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reach {
    /// Why nothing is known, if that is so.
    pub none: Option<Unavailable>,
    /// The number of trials that were watched.
    pub trials: u32,
    /// Scenarios whose trials were not watched, with the reasons.
    pub unwatched: BTreeMap<String, String>,
    /// The notifiers.
    pub notifiers: Vec<CallbackReach>,
    /// The states of CPU hotplug that have callbacks.
    pub states: Vec<StateReach>,
    /// The sections whose locks the patch changes.
    pub change: LockingChange,
    /// Files of the source that register callbacks and are not in the kernel; null if the source
    /// was not searched.
    pub absent: Option<Vec<Absent>>,
    /// Why the source was not searched.
    pub unsearched: Option<String>,
    /// The number of files that register callbacks and are in the kernel.
    pub built: u32,
}

impl Reach {
    /// A reach of which nothing is known.
    pub fn none(why: Unavailable) -> Self {
        Self { none: Some(why), ..Self::default() }
    }

    /// Adds a trial.
    pub fn add(&mut self, trial: &TrialCallbacks) {
        if let Some(odd) = &trial.odd {
            self.unwatched.entry(trial.scenario.clone()).or_insert_with(|| odd.clone());
            return;
        }
        self.trials += 1;
        for (chain, functions) in &trial.callbacks.chains {
            for function in functions {
                let place =
                    self.notifiers.iter().position(|one| (one.chain, &one.function) == (*chain, function));
                let place = place.unwrap_or_else(|| {
                    let (function, scenarios) = (function.clone(), Vec::new());
                    self.notifiers.push(CallbackReach { chain: *chain, function, calls: None, scenarios });
                    self.notifiers.len() - 1
                });
                // The trace names the function. If several chains have it, the chain is not known.
                let others = || trial.callbacks.chains.iter().filter(|(other, _)| *other != chain);
                if others().any(|(_, functions)| functions.contains(function)) {
                    continue;
                }
                let Some(runs) = &trial.runs.notifiers else { continue };
                let calls = runs.get(function).copied().unwrap_or(0);
                let one = &mut self.notifiers[place];
                *one.calls.get_or_insert(0) += calls;
                if calls > 0 && !one.scenarios.contains(&trial.scenario) {
                    one.scenarios.push(trial.scenario.clone());
                }
            }
        }
        for state in &trial.callbacks.states {
            let place = self.states.iter().position(|one| one.state.step == state.step);
            let place = place.unwrap_or_else(|| {
                self.states.push(StateReach { state: state.clone(), ..StateReach::default() });
                self.states.len() - 1
            });
            let one = &mut self.states[place];
            one.state.has_instance = one.state.has_instance.max(state.has_instance);
            let Some(step) = trial.runs.steps.get(&state.step) else { continue };
            let of = |function: &Option<String>| {
                function.as_ref().and_then(|function| step.calls.get(function)).copied().unwrap_or(0)
            };
            one.startups += of(&state.startup);
            one.teardowns += of(&state.teardown);
            one.rollbacks += step.rollbacks.values().sum::<u64>();
            one.failures += step.failures;
        }
        self.notifiers.sort_by(|a, b| (a.chain, &a.function).cmp(&(b.chain, &b.function)));
        self.states.sort_by_key(|one| one.state.step);
    }

    /// The notifiers of memory hotplug.
    pub fn of_memory(&self) -> impl Iterator<Item = &CallbackReach> {
        self.notifiers.iter().filter(|one| matches!(one.chain, Chain::Memory | Chain::Node))
    }

    /// The notifiers that never ran.
    pub fn never(&self) -> impl Iterator<Item = &CallbackReach> {
        self.notifiers.iter().filter(|one| one.calls == Some(0))
    }

    /// The callbacks of CPU hotplug that could run and never did, with the names of their states.
    pub fn never_of_cpus(&self) -> impl Iterator<Item = (&str, &str)> {
        self.states.iter().flat_map(|one| one.never().map(|function| (function, one.state.name.as_str())))
    }

    /// The number of callbacks of CPU hotplug that could run.
    pub fn all_of_cpus(&self) -> usize {
        self.states.iter().map(StateReach::all).sum()
    }

    /// The callbacks under a changed lock that never ran.
    pub fn not_reached(&self) -> Vec<&CallbackReach> {
        self.never().filter(|one| self.change.affects(one.chain)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Weight;
    use crate::reach::{StepRuns, runs};

    fn trial(scenario: &str, trace: &str) -> TrialCallbacks {
        let chains = BTreeMap::from([
            (Chain::Memory, vec!["page_ext_callback".to_owned()]),
            (Chain::Node, vec!["slab_memory_callback".to_owned()]),
        ]);
        let state = |step: u32, has_instance| CpuState {
            step,
            name: format!("state{step}"),
            startup: Some(format!("up{step}")),
            teardown: Some(format!("down{step}")),
            is_atomic: false,
            has_instance,
        };
        TrialCallbacks {
            scenario: scenario.into(),
            odd: None,
            callbacks: Callbacks { chains, states: vec![state(1, None), state(2, Some(false))] },
            runs: runs(trace, true),
        }
    }

    const BLOCKS: &str = "a-1 [000] ..... 1.0: notifier_run: page_ext_callback\n\
                          a-1 [000] ..... 1.0: cpuhp_enter: cpu: 0001 target: 238 step: 1 (up1)\n";

    #[test]
    fn silence_about_a_changed_lock_needs_every_callback_under_it() {
        let mut reach = Reach::default();
        reach.add(&trial("blocks", BLOCKS));
        assert_eq!(
            reach.never().map(|one| one.function.as_str()).collect::<Vec<_>>(),
            ["slab_memory_callback"]
        );
        assert_eq!(reach.never_of_cpus().collect::<Vec<_>>(), [("down1", "state1")]);
        assert_eq!(reach.all_of_cpus(), 2);
        // Nothing is known of a changed lock.
        assert_eq!(reach.weight(), Weight::Nothing);
        reach.change.memory.push("mm/memory_hotplug.c: cpus_read_lock()".into());
        assert_eq!(
            reach.weight(),
            Weight::Unproven(
                "not reached: under the changed lock, slab_memory_callback never ran; \
                 --scenario memoryless-node calls them"
                    .into()
            )
        );
        reach.add(&trial("nodes", "a-1 [000] ..... 1.0: notifier_run: slab_memory_callback\n"));
        assert_eq!(reach.weight(), Weight::Nothing);
        assert_eq!(reach.notifiers[1].scenarios, ["nodes"]);
    }

    #[test]
    fn a_function_of_several_chains_is_not_told_apart() {
        let mut both = trial("blocks", BLOCKS);
        both.callbacks.chains.insert(Chain::Suspend, vec!["page_ext_callback".to_owned()]);
        let mut reach = Reach::default();
        reach.add(&both);
        let known: Vec<_> = reach.notifiers.iter().map(|one| (one.chain, one.calls)).collect();
        assert_eq!(known, [(Chain::Memory, None), (Chain::Node, Some(0)), (Chain::Suspend, None)]);
    }

    #[test]
    fn a_kernel_that_cannot_trace_notifiers_has_not_missed_them() {
        let mut reach = Reach::default();
        let mut blind = trial("blocks", "");
        blind.runs = Runs { notifiers: None, steps: BTreeMap::from([(1, StepRuns::default())]) };
        reach.add(&blind);
        reach.change.memory.push("x".into());
        assert_eq!((reach.never().count(), reach.notifiers[0].calls), (0, None));
        assert_eq!(reach.weight(), Weight::Nothing);
        reach.add(&TrialCallbacks { odd: Some("the trace lost events".into()), ..trial("other", "") });
        assert_eq!((reach.trials, reach.unwatched["other"].as_str()), (1, "the trace lost events"));
    }
}

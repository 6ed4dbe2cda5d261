//! What was reached, and what it means for silence.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::absent::Absent;
use super::callbacks::{Callbacks, CpuState, Notifier};
use super::change::LockingChange;
use super::layout::Chain;
use super::trace::{NotifierRuns, Runs};
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
    /// The names of the transitions of each chain, by their numbers.
    #[serde(default)]
    pub transitions: BTreeMap<Chain, BTreeMap<u64, String>>,
    /// The callbacks that ran.
    pub runs: Runs,
}

impl TrialCallbacks {
    /// The number of calls of a notifier for each transition, if the trial can tell. A transition
    /// that is not told apart has an empty name.
    fn calls(&self, chain: Chain, notifier: &Notifier) -> Option<BTreeMap<String, u64>> {
        match &self.runs.notifiers {
            NotifierRuns::Untraced => None,
            NotifierRuns::Functions(calls) => {
                // The trace names the function. If several chains have it, the chain is not known.
                let mut others = self.callbacks.chains.iter().filter(|(other, _)| **other != chain);
                if others.any(|(_, all)| all.iter().any(|other| other.function == notifier.function)) {
                    return None;
                }
                let calls = calls.get(&notifier.function).map(|calls| (String::new(), *calls));
                Some(calls.into_iter().collect())
            }
            NotifierRuns::Blocks { probed, calls } => {
                if !probed.contains(&notifier.address) {
                    return None;
                }
                let names = self.transitions.get(&chain);
                let name = |number: &u64| {
                    let name = names.and_then(|names| names.get(number));
                    name.cloned().unwrap_or_else(|| format!("transition {number}"))
                };
                let calls = calls.get(&notifier.block).into_iter().flatten();
                Some(calls.map(|(number, calls)| (name(number), *calls)).collect())
            }
        }
    }
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
    /// The number of calls for each transition; empty if the kernel cannot tell them apart.
    #[serde(default)]
    pub transitions: BTreeMap<String, u64>,
    /// Its source file, if the debug information has it.
    #[serde(default)]
    pub file: Option<String>,
    /// The scenarios whose trials called it.
    pub scenarios: Vec<String>,
}

impl CallbackReach {
    /// Adds its calls in a trial, if the trial can tell.
    fn add(&mut self, scenario: &str, calls: Option<BTreeMap<String, u64>>) {
        let Some(calls) = calls else { return };
        let sum: u64 = calls.values().sum();
        *self.calls.get_or_insert(0) += sum;
        if sum > 0 && !self.scenarios.iter().any(|known| known == scenario) {
            self.scenarios.push(scenario.to_owned());
        }
        for (name, calls) in calls.into_iter().filter(|(name, _)| !name.is_empty()) {
            *self.transitions.entry(name).or_default() += calls;
        }
    }
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
    /// Whether kprobes counted the calls, because its functions run on a CPU that is not online.
    #[serde(default)]
    pub is_probed: bool,
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
        self.state.has_instance != Some(false) && (!self.state.is_atomic || self.is_probed)
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
    /// How often the notifiers of each chain were called for each transition that they could tell.
    /// Transitions that undo another one are also listed if they never came.
    #[serde(default)]
    pub transitions: BTreeMap<Chain, BTreeMap<String, u64>>,
    /// The sections whose locks the patch changes.
    pub change: LockingChange,
    /// Files of the source that register callbacks and are not in the kernel; null if the source
    /// was not searched.
    pub absent: Option<Vec<Absent>>,
    /// Why the source was not searched.
    pub unsearched: Option<String>,
    /// The number of files that register callbacks and are in the kernel.
    pub built: u32,
    /// Of these, the number of files with a callback that ran.
    #[serde(default)]
    pub ran: u32,
    /// The other built ones: files none of whose callbacks ran.
    #[serde(default)]
    pub silent: Vec<String>,
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
        for (chain, notifiers) in &trial.callbacks.chains {
            // A chain is told of a transition as often as its most called notifier. Two notifiers
            // with one name count as one callback.
            let mut of_chain: BTreeMap<String, u64> = BTreeMap::new();
            for notifier in notifiers {
                let calls = trial.calls(*chain, notifier);
                for (name, calls) in calls.iter().flatten().filter(|(name, _)| !name.is_empty()) {
                    let most = of_chain.entry(name.clone()).or_default();
                    *most = (*calls).max(*most);
                }
                self.callback(*chain, notifier).add(&trial.scenario, calls);
            }
            if let NotifierRuns::Blocks { .. } = trial.runs.notifiers {
                let names = trial.transitions.get(chain).into_iter().flatten().map(|(_, name)| name);
                for name in names.filter(|name| name.contains("CANCEL")) {
                    of_chain.entry(name.clone()).or_default();
                }
                let all = self.transitions.entry(*chain).or_default();
                for (name, calls) in of_chain {
                    *all.entry(name).or_default() += calls;
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
            let step = trial.runs.steps.get(&state.step);
            let mut of = |function: &Option<String>| {
                let Some(function) = function else { return 0 };
                let probed = trial.runs.functions.get(function).filter(|_| state.is_atomic);
                one.is_probed |= probed.is_some();
                let traced = step.and_then(|step| step.calls.get(function));
                probed.or(traced).copied().unwrap_or(0)
            };
            let (startups, teardowns) = (of(&state.startup), of(&state.teardown));
            one.startups += startups;
            one.teardowns += teardowns;
            if let Some(step) = step {
                one.rollbacks += step.rollbacks.values().sum::<u64>();
                one.failures += step.failures;
            }
        }
        self.notifiers.sort_by(|a, b| (a.chain, &a.function).cmp(&(b.chain, &b.function)));
        self.states.sort_by_key(|one| one.state.step);
    }

    /// The entry of a notifier.
    fn callback(&mut self, chain: Chain, notifier: &Notifier) -> &mut CallbackReach {
        let is_it = |one: &CallbackReach| (one.chain, &one.function) == (chain, &notifier.function);
        let place = self.notifiers.iter().position(is_it).unwrap_or_else(|| {
            self.notifiers.push(CallbackReach {
                chain,
                function: notifier.function.clone(),
                calls: None,
                transitions: BTreeMap::new(),
                file: notifier.file.clone(),
                scenarios: Vec::new(),
            });
            self.notifiers.len() - 1
        });
        &mut self.notifiers[place]
    }

    /// Counts the files that register callbacks and are in the kernel, and those of them with a
    /// callback that ran. Keeps the names of the others.
    pub fn count_files(&mut self, built: &BTreeSet<String>) {
        let notifiers = self.notifiers.iter().filter(|one| one.calls.is_some_and(|calls| calls > 0));
        let states = self.states.iter().filter(|one| one.startups + one.teardowns > 0);
        let files: BTreeSet<&String> = notifiers
            .filter_map(|one| one.file.as_ref())
            .chain(states.flat_map(|one| &one.state.files))
            .filter(|file| built.contains(*file))
            .collect();
        let count = |files: usize| u32::try_from(files).unwrap_or(u32::MAX);
        (self.built, self.ran) = (count(built.len()), count(files.len()));
        self.silent = built.iter().filter(|file| !files.contains(file)).cloned().collect();
    }

    /// Transitions that undo another one, and that no notifier was called for, by chain.
    pub fn rollbacks_never_seen(&self) -> impl Iterator<Item = &str> {
        let all = self.transitions.iter().filter(|(chain, _)| chain.is_of_memory());
        // Others are listed only if they came.
        let never = all.flat_map(|(_, all)| all).filter(|(_, calls)| **calls == 0);
        never.map(|(name, _)| name.as_str())
    }

    /// The notifiers of memory hotplug.
    pub fn of_memory(&self) -> impl Iterator<Item = &CallbackReach> {
        self.notifiers.iter().filter(|one| one.chain.is_of_memory())
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

    /// The notifiers under a changed lock that never ran.
    pub fn not_reached(&self) -> Vec<&CallbackReach> {
        self.never().filter(|one| self.change.affects(one.chain)).collect()
    }

    /// The callbacks of CPUs that never ran, with the names of their states, if the patch changes
    /// the locks that are held while they run.
    pub fn cpus_not_reached(&self) -> impl Iterator<Item = (&str, &str)> {
        self.never_of_cpus().filter(|_| !self.change.cpu.is_empty())
    }

    /// Why it is not known whether the callbacks under a changed lock ran, if that is so.
    pub fn not_known(&self) -> Option<String> {
        if self.change.memory.is_empty() && self.change.cpu.is_empty() {
            return None;
        }
        let known = "which callbacks ran under the changed lock is not known";
        if let Some(why) = &self.none {
            return Some(format!("{known}: {why}"));
        }
        if self.trials == 0 {
            return Some(format!("{known}: no trial was watched"));
        }
        let untraced = |one: &&CallbackReach| {
            // A notifier that fails on purpose takes no lock. It is in several chains.
            let is_real = one.file.as_deref() != Some("lib/notifier-error-inject.c");
            one.calls.is_none() && is_real && self.change.affects(one.chain)
        };
        let function = &self.of_memory().find(untraced)?.function;
        Some(format!(
            "whether {function} ran under the changed lock is not known: this kernel cannot trace it; \
             wide ones trace more (--wide)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Weight;
    use crate::reach::{StepRuns, TraceSetup, runs};

    fn trial(scenario: &str, trace: &str) -> TrialCallbacks {
        let chains = BTreeMap::from([
            (Chain::Memory, vec![notifier("page_ext_callback", 1)]),
            (Chain::Node, vec![notifier("slab_memory_callback", 2)]),
        ]);
        let state = |step: u32, has_instance| CpuState {
            step,
            name: format!("state{step}"),
            startup: Some(format!("up{step}")),
            teardown: Some(format!("down{step}")),
            files: BTreeSet::from([format!("kernel/{step}.c")]),
            has_instance,
            ..CpuState::default()
        };
        TrialCallbacks {
            scenario: scenario.into(),
            odd: None,
            callbacks: Callbacks { chains, states: vec![state(1, None), state(2, Some(false))] },
            transitions: BTreeMap::new(),
            runs: runs(trace, TraceSetup { notifier_event: true, ..TraceSetup::default() }),
        }
    }

    fn notifier(function: &str, block: u64) -> Notifier {
        let file = Some(format!("mm/{function}.c"));
        Notifier { function: function.to_owned(), address: block << 8, block, file }
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
        both.callbacks.chains.insert(Chain::Suspend, vec![notifier("page_ext_callback", 3)]);
        let mut reach = Reach::default();
        reach.add(&both);
        let known: Vec<_> = reach.notifiers.iter().map(|one| (one.chain, one.calls)).collect();
        assert_eq!(known, [(Chain::Memory, None), (Chain::Node, Some(0)), (Chain::Suspend, None)]);
    }

    #[test]
    fn a_kernel_that_cannot_trace_notifiers_has_neither_missed_nor_reached_them() {
        let mut reach = Reach::default();
        let mut blind = trial("blocks", "");
        let steps = BTreeMap::from([(1, StepRuns::default())]);
        blind.runs = Runs { steps, ..Runs::default() };
        reach.add(&blind);
        reach.change.memory.push("x".into());
        assert_eq!((reach.never().count(), reach.notifiers[0].calls), (0, None));
        assert_eq!(
            reach.weight(),
            Weight::Unproven(
                "whether page_ext_callback ran under the changed lock is not known: this kernel cannot \
                 trace it; wide ones trace more (--wide)"
                    .into()
            )
        );
        reach.add(&TrialCallbacks { odd: Some("the trace lost events".into()), ..trial("other", "") });
        assert_eq!((reach.trials, reach.unwatched["other"].as_str()), (1, "the trace lost events"));
    }

    #[test]
    fn kprobes_tell_chains_and_transitions_apart() {
        let mut one = trial("blocks", "");
        let both = notifier("notifier_err_inject_callback", 7);
        one.callbacks.chains.get_mut(&Chain::Memory).unwrap().push(both.clone());
        one.callbacks.chains.insert(Chain::Suspend, vec![Notifier { block: 8, ..both }]);
        let names = [(1, "MEM_GOING_OFFLINE"), (5, "MEM_CANCEL_OFFLINE"), (4, "MEM_CANCEL_ONLINE")];
        let names = names.map(|(number, name)| (number, name.to_owned()));
        one.transitions = BTreeMap::from([(Chain::Memory, names.into())]);
        let calls = |all: &[(u64, u64)]| all.iter().copied().collect::<BTreeMap<_, _>>();
        one.runs.notifiers = NotifierRuns::Blocks {
            // The function of the node's notifier has no kprobe.
            probed: BTreeSet::from([1 << 8, 7 << 8]),
            calls: BTreeMap::from([(1, calls(&[(1, 3)])), (7, calls(&[(1, 3), (5, 2), (9, 1)]))]),
        };
        let mut reach = Reach::default();
        reach.add(&one);
        let known: Vec<_> = reach.notifiers.iter().map(|one| (one.chain, one.calls)).collect();
        let memory = [(Chain::Memory, Some(6)), (Chain::Memory, Some(3))];
        assert_eq!(known, [memory[0], memory[1], (Chain::Node, None), (Chain::Suspend, Some(0))]);
        let told = &reach.transitions[&Chain::Memory];
        assert_eq!((told["MEM_GOING_OFFLINE"], told["MEM_CANCEL_OFFLINE"]), (3, 2));
        assert_eq!(told["transition 9"], 1);
        assert_eq!(reach.rollbacks_never_seen().collect::<Vec<_>>(), ["MEM_CANCEL_ONLINE"]);
        // Whether the node's notifier ran is not known.
        reach.change.memory.push("x".into());
        assert!(matches!(reach.weight(), Weight::Unproven(why) if why.contains("slab_memory_callback ran")));
    }

    #[test]
    fn callbacks_of_cpus_under_a_changed_lock_count() {
        let mut reach = Reach::default();
        reach.add(&trial("blocks", BLOCKS));
        reach.notifiers.clear();
        reach.change.cpu.push("kernel/cpu.c: cpus_write_lock()".into());
        let why = "not reached: under the changed lock, down1 never ran; --scenario dimm-and-cpu calls them";
        assert_eq!(reach.weight(), Weight::Unproven(why.into()));
    }

    #[test]
    fn a_callback_of_a_cpu_that_is_not_online_needs_a_kprobe() {
        let mut one = trial("blocks", BLOCKS);
        one.callbacks.states[0].is_atomic = true;
        let mut reach = Reach::default();
        reach.add(&one);
        assert_eq!(reach.all_of_cpus(), 0);
        one.runs.functions = BTreeMap::from([("up1".into(), 2), ("down1".into(), 0)]);
        reach.add(&one);
        assert_eq!((reach.all_of_cpus(), reach.states[0].startups), (2, 3));
        assert_eq!(reach.never_of_cpus().collect::<Vec<_>>(), [("down1", "state1")]);
    }

    #[test]
    fn files_with_a_callback_that_ran_are_counted() {
        let mut reach = Reach::default();
        reach.add(&trial("blocks", BLOCKS));
        let built = ["mm/page_ext_callback.c", "mm/slab_memory_callback.c", "kernel/1.c", "mm/other.c"];
        reach.count_files(&built.map(str::to_owned).into());
        assert_eq!((reach.built, reach.ran), (4, 2));
        assert_eq!(reach.silent, ["mm/other.c", "mm/slab_memory_callback.c"]);
    }
}

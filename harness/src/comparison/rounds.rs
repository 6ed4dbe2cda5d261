//! How many trials the guests of a comparison take, one after the other.
//!
//! The trials of one guest share its luck, such as the places of its pages, so the test of a
//! finding compares only trials that their guests took in the same round (see
//! [`crate::compare::Finding::p`]). It decides nothing without several guests of each side. So a
//! guest takes more trials only if the comparison has enough guests anyway.

use crate::environment::Env;
use crate::record::RunPlan;
use crate::trial::TrialContext;
use crate::vmm::most_rounds;

/// The guests of each side of a scenario that there are in any case, if it has so many trials. If
/// all of one side show a finding in their first round, and none of the other, its p is 0.00016.
const GUESTS: u32 = 8;

/// The most trials of a guest that nothing else limits.
const MOST: u32 = 16;

/// The most trials that a guest takes. `trials` is the number of trials of each side; `None`
/// without an end.
pub(super) fn rounds(plan: &RunPlan, trials: Option<u32>, context: &TrialContext, env: &Env<'_>) -> u32 {
    let scenario = &context.scenario;
    let usual = trials.map_or(MOST, |trials| trials / GUESTS).clamp(1, MOST);
    let wanted = plan.rounds.unwrap_or(usual);
    let (most, why) = match scenario.ends_its_guest() {
        Some(why) => (1, why),
        None => (most_rounds(scenario, context.accelerator), "QEMU under TCG starts no more vCPUs"),
    };
    if plan.rounds.is_some_and(|asked| asked > most) {
        let trials = if most == 1 { "one trial".to_owned() } else { format!("at most {most} trials") };
        env.note("rounds", &format!("a guest of {} takes {trials}: {why}", scenario.name));
    }
    wanted.min(most)
}

//! The output of the reach analysis.

use std::fmt::Write;
use std::path::Path;

use maud::{Markup, html};

use crate::compare::{Judgement, Weight};
use crate::conclusion::{Case, CaseOutcome, Conclusion, labelled, unavailable_line};
use crate::reach::{Absent, CpuState, Reach};
use crate::text::harmless;

/// Widest line, in characters.
const WIDTH: usize = 100;

/// Names in a line of the screen. `hotplug reach` prints all.
const SHOWN: usize = 4;

impl Conclusion for Reach {
    fn weight(&self, _: &Judgement) -> Weight {
        self.weight()
    }

    fn screen(&self) -> Vec<String> {
        short(self)
    }

    fn case(&self) -> Option<Case> {
        let outcome = match &self.none {
            Some(why) => CaseOutcome::unavailable(why),
            None if self.weight() == Weight::Nothing => CaseOutcome::Passed,
            None => CaseOutcome::skipped(short(self).join(" ")),
        };
        Some(Case::new("the callbacks under changed locks ran", outcome))
    }

    fn page(&self, _: &Path) -> Markup {
        html! {
            section aria-labelledby="reach" {
                h2 id="reach" { "What does silence stand on?" }
                @for line in short(self) { p { (line.trim_start_matches("reach").trim()) } }
                @if self.none.is_none() { details { summary { "callback by callback" } pre tabindex="0" { (full(self)) } } }
            }
        }
    }
}

/// The first names, and the number of the others.
fn some(names: &[String], most: usize) -> String {
    let mut text = names.iter().take(most).map(|name| harmless(name, 60)).collect::<Vec<_>>().join(", ");
    if names.len() > most {
        let _ = write!(text, " and {} more", names.len() - most);
    }
    text
}

/// The lines of a comparison's screen.
fn short(reach: &Reach) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(why) = &reach.none {
        let mut lines = unavailable_line("reach", "not known", why);
        lines.extend(source(reach).into_iter().map(|line| format!("{:10}{line}", "")));
        return lines;
    }
    let known = reach.of_memory().filter(|one| one.calls.is_some()).count();
    let ran = reach.of_memory().filter(|one| one.calls.is_some_and(|calls| calls > 0)).count();
    let (cpus, missed) = (reach.all_of_cpus(), reach.never_of_cpus().count());
    let notifiers = match (known, reach.of_memory().count()) {
        (0, 0) => "no notifiers of memory".to_owned(),
        (0, all) => format!("{all} notifiers of memory, untraceable in this kernel"),
        (known, all) if known < all => {
            format!("{ran} of {all} notifiers of memory ran, {} untraceable", all - known)
        }
        (known, _) => format!("{ran} of {known} notifiers of memory ran"),
    };
    let trials = if reach.trials == 1 { "trial" } else { "trials" };
    lines.push(format!(
        "{notifiers}; {} of {cpus} callbacks of CPUs; {} {trials}",
        cpus - missed,
        reach.trials
    ));
    let never = reach.of_memory().filter(|one| one.calls == Some(0));
    let never: Vec<String> =
        never.map(|one| format!("{} ({})", one.function, one.chain.variable())).collect();
    if !never.is_empty() {
        lines.push(format!("never ran: {}", some(&never, SHOWN)));
    }
    let never: Vec<String> = reach.never_of_cpus().map(|(function, _)| function.to_owned()).collect();
    if !never.is_empty() {
        lines.push(format!("never ran, of CPUs: {}", some(&never, SHOWN)));
    }
    let never: Vec<String> = reach.rollbacks_never_seen().map(str::to_owned).collect();
    if !never.is_empty() {
        lines.push(format!("no rollback: {}", some(&never, SHOWN)));
    }
    // The text of `hotplug reach` has all of them.
    if !reach.not_reached().is_empty() || reach.cpus_not_reached().next().is_some() {
        for (what, shown) in [("memory", &reach.change.memory), ("CPU", &reach.change.cpu)] {
            if !shown.is_empty() {
                lines.push(format!("the patch changes the locks of {what} hotplug ({})", some(shown, 2)));
            }
        }
    }
    if let Some(why) = &reach.change.unread {
        lines.push(format!("whether locks change is not known: {}", harmless(why, WIDTH)));
    }
    for (scenario, why) in &reach.unwatched {
        lines.push(format!("{} was not watched: {}", harmless(scenario, 60), harmless(why, WIDTH)));
    }
    lines.extend(source(reach));
    labelled(
        "reach",
        lines.into_iter().flat_map(|line| {
            textwrap::wrap(&line, WIDTH - 10)
                .into_iter()
                .map(std::borrow::Cow::into_owned)
                .collect::<Vec<_>>()
        }),
    )
}

/// The files that register callbacks and are not in the kernel, in words.
fn source(reach: &Reach) -> Vec<String> {
    if let Some(why) = &reach.unsearched {
        return vec![format!("the source was not searched: {}", harmless(why, WIDTH))];
    }
    let Some(absent) = &reach.absent else { return Vec::new() };
    let generic: Vec<String> =
        absent.iter().filter(|one| is_generic(one)).map(|one| one.file.clone()).collect();
    let all = absent.len() + reach.built as usize;
    let lacks = if generic.is_empty() { String::new() } else { format!("; not {}", some(&generic, 1)) };
    let (built, ran) = (reach.built, reach.ran);
    vec![format!("{built} of {all} files with callbacks are built, {ran} ran{lacks}")]
}

/// Whether a file is neither a driver nor of an architecture.
fn is_generic(absent: &Absent) -> bool {
    !absent.file.starts_with("drivers/") && !absent.file.starts_with("arch/")
}

/// The full text: each callback with the number of its calls, then the files that are not built.
pub fn full(reach: &Reach) -> String {
    let mut out = String::new();
    if let Some(why) = &reach.none {
        let _ = writeln!(out, "not known: {}", harmless(why, 400));
    }
    for one in &reach.notifiers {
        let calls = one.calls.map_or_else(|| "?".to_owned(), |calls| calls.to_string());
        let scenarios = one.scenarios.iter().map(|name| harmless(name, 60)).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            out,
            "{calls:>8}  {:<22} {:<44} {scenarios}",
            one.chain.variable(),
            harmless(&one.function, 60)
        );
    }
    for (chain, transitions) in &reach.transitions {
        let told: Vec<String> =
            transitions.iter().map(|(name, calls)| format!("{} {calls}", harmless(name, 60))).collect();
        if !told.is_empty() {
            let _ = writeln!(out, "\n{}: {}", chain.variable(), told.join(", "));
        }
    }
    if !reach.states.is_empty() {
        let _ = writeln!(out, "\n     up    down  back  fail  state");
    }
    for one in &reach.states {
        let calls = |function: &Option<String>, calls: u64| {
            if function.is_none() { "-".to_owned() } else { calls.to_string() }
        };
        let note = match one.state {
            CpuState { has_instance: Some(false), .. } => "  (no instance)",
            CpuState { is_atomic: true, .. } if !one.is_probed => {
                "  (cannot be traced: its CPU is not online)"
            }
            _ => "",
        };
        let _ = writeln!(
            out,
            "{:>7} {:>7} {:>5} {:>5}  {:>3} {}{note}",
            calls(&one.state.startup, one.startups),
            calls(&one.state.teardown, one.teardowns),
            one.rollbacks,
            one.failures,
            one.state.step,
            harmless(&one.state.name, 60)
        );
    }
    for (what, shown) in [("memory", &reach.change.memory), ("CPU", &reach.change.cpu)] {
        if !shown.is_empty() {
            let _ = writeln!(out, "\nthe patch changes the locks of {what} hotplug:");
        }
        for one in shown {
            let _ = writeln!(out, "  {}", harmless(one, 200));
        }
    }
    if let Some(why) = &reach.unsearched {
        let _ = writeln!(out, "\nthe source was not searched: {}", harmless(why, 400));
    }
    if !reach.silent.is_empty() {
        let _ = writeln!(out, "\nin this kernel, but none of their callbacks ran:");
    }
    for file in &reach.silent {
        let _ = writeln!(out, "  {}", harmless(file, 80));
    }
    if let Some(absent) = reach.absent.as_ref().filter(|absent| !absent.is_empty()) {
        let _ = writeln!(out, "\nnot in this kernel:");
        for Absent { file, kinds, option } in absent {
            let option = option.as_ref().map_or_else(String::new, |name| format!("CONFIG_{name}"));
            let _ = writeln!(
                out,
                "  {:<12} {:<52} {}",
                kinds.join(","),
                harmless(file, 80),
                harmless(&option, 60)
            );
        }
    }
    out
}

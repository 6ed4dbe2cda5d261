//! The screen of a finished comparison, at most 27 lines with the verdict near the top.

use std::fmt::Write;
use std::path::Path;

use anstyle::AnsiColor;
use hotplug_kreport::plain_name;
use hotplug_side::Sides;

use super::{
    about_kernels, armed, duration, emulator_faults, guests, host_line, mail, not_at_rest, of_arch,
    silence_of_guests, vmcores,
};
use crate::compare::{Class, Finding, TriedForecasts, Verdict, lacking};
use crate::conclusion::{Conclusion, labelled};
use crate::kernel::PatchRecord;
use crate::record::{KernelNote, Run, RunResult, Settled};
use crate::text::harmless;

/// The number of findings that are shown in full. The others are counted.
const SHOWN: usize = 3;

/// The number of patches, and of notes on them, that are listed.
const PATCHES: usize = 6;
const NOTES: usize = 6;

/// Widest line, in characters.
const WIDTH: usize = 100;

/// Functions that only pass a call on (kernel/notifier.c).
const PLUMBING: [&str; 5] = [
    "notifier_call_chain",
    "blocking_notifier_call_chain",
    "notifier_call_chain_robust",
    "blocking_notifier_call_chain_robust",
    "raw_notifier_call_chain",
];

/// The screen. `folder` is the path of the run's folder for the reader.
pub fn screen(result: &RunResult, folder: &Path) -> String {
    let run = &result.run;
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{}", text.trim_end());
    };
    let change = match run.patches.as_slice() {
        [] if run.kernels.before.id == run.kernels.after.id => "the same kernel on both sides".to_owned(),
        [] => run.kernels.after.source.clone(),
        [one] => format!("+ {one}"),
        [first, rest @ ..] => format!("+ {first} and {} more", rest.len()),
    };
    line(format!("hotplug compare   {}   {change}", run.kernels.before.source));
    line(host_line(&run.host));
    let kernel = |k: &KernelNote| {
        let named = format!("{} {}", k.id.get(..6).unwrap_or(&k.id), k.built);
        named.trim_start().to_owned()
    };
    // A portfolio is wide unless the user chose otherwise.
    let width = match (run.spec.kernels.wide, run.spec.scenarios.name()) {
        (true, _) => ", wide",
        (false, Some(_)) if run.spec.kernels.is_of_the_harness() => ", narrow",
        _ => "",
    };
    line(format!(
        "kernels   {}{}{width}: before {}, after {}",
        run.kernels.before.release,
        of_arch(&run.kernels.before),
        kernel(&run.kernels.before),
        kernel(&run.kernels.after)
    ));
    for text in about_kernels(&run.kernels) {
        for text in textwrap::wrap(&text, WIDTH - 10) {
            line(format!("          {text}"));
        }
    }
    applied(run).into_iter().for_each(&mut line);
    if let Some(settled) = &result.settled {
        line(String::new());
        line(verdict(result));
        line(String::new());
        without_trials(settled, folder).into_iter().for_each(&mut line);
        line(format!("result    {}/result.json", folder.display()));
        return out;
    }
    let (before, after) = (&result.trials.before, &result.trials.after);
    line(format!(
        "trials    {}: {} + {}{} in {}, {}",
        scenarios(result),
        before.trials,
        after.trials,
        guests(&result.trials),
        duration(result.trials_seconds),
        armed(&result.trials)
    ));
    line(format!("          {}", operations(result)));
    for words in [not_at_rest(&result.trials), emulator_faults(&result.trials)].into_iter().flatten() {
        line(format!("          {words}"));
    }
    for (scenario, why) in result.untested() {
        line(format!("          {scenario} says nothing: {}", harmless(why, WIDTH)));
    }
    line(String::new());
    let (known, unknown): (Vec<&Finding>, Vec<&Finding>) =
        result.reports.iter().partition(|finding| finding.known.is_some());
    line(verdict(result));
    line(String::new());
    shown(result, &unknown, " in result.json").into_iter().for_each(&mut line);
    if let Some(told) = &result.no_boot {
        line(format!("console   the end of a boot of the {} kernel:", told.shown_by()));
        told.console.iter().for_each(|text| line(format!("          {}", harmless(text, WIDTH - 10))));
    }
    for finding in &known {
        let reason = harmless(finding.known.as_deref().unwrap_or_default(), WIDTH);
        line(format!("known  {}", harmless(&finding.title, WIDTH - 7)));
        let worse = if finding.is_worse() { "   more frequent, beyond chance" } else { "" };
        line(format!("       before {}   after {}{worse}   {reason}", finding.before, finding.after));
    }
    for remark in &result.remarks {
        line(format!("note   {}", harmless(remark, 2 * WIDTH)));
    }
    silence(result).into_iter().for_each(&mut line);
    result.conclusions().flat_map(Conclusion::screen).for_each(&mut line);
    line(format!("result    {}/result.json", folder.display()));
    if let Some(example) = example(result, &unknown, &known) {
        line(format!("look at   {}/{example}/kmsg.log", folder.display()));
    }
    if let Some(notes) = &result.vmcores {
        vmcores::lines(notes, folder).into_iter().for_each(&mut line);
    }
    // A result that was copied may lack it.
    let page = folder.join(super::page::FILE);
    if page.is_file() {
        line(format!("page      {}", page.display()));
    }
    out
}

/// The trial that shows best what the verdict is about, below the run's folder: a regression first.
fn example(result: &RunResult, unknown: &[&Finding], known: &[&Finding]) -> Option<String> {
    let of = |finding: &&Finding| finding.example.clone();
    let worse = unknown.iter().find(|finding| finding.is_worse()).map(of);
    let foreseen = || result.forecasts.as_ref().and_then(TriedForecasts::example);
    worse.or_else(foreseen).or_else(|| unknown.first().or(known.first()).map(of))
}

/// The patches by their subjects, if the name of the file does not tell them, and what was left out.
fn applied(run: &Run) -> Vec<String> {
    let is_plain = |name: &String| {
        let ending = Path::new(name).extension();
        ending.is_some_and(|ending| ending == "patch" || ending == "diff")
    };
    let mut lines = Vec::new();
    if run.series.len() > 1 || !run.patches.iter().all(is_plain) {
        let subject = |patch: &PatchRecord| {
            let name = patch.subject.as_deref().unwrap_or_else(|| mail::name(&patch.file));
            harmless(name, WIDTH - 10)
        };
        let more = run.series.len().saturating_sub(PATCHES);
        let shown = run.series.iter().take(PATCHES).map(subject);
        lines.extend(labelled("patches", shown.chain((more > 0).then(|| format!("and {more} more")))));
    }
    let more = run.notes.len().saturating_sub(NOTES);
    let notes = run.notes.iter().take(NOTES).map(|note| harmless(note, WIDTH - 10));
    let more = (more > 0).then(|| format!("and {more} more notes in run.json"));
    lines.extend(labelled("note", notes.chain(more)));
    lines
}

/// Why no trial was needed.
fn without_trials(settled: &Settled, folder: &Path) -> Vec<String> {
    match settled {
        Settled::Identical { .. } => {
            vec!["trials    none: guests of both sides would run the same code (--anyway runs them)".into()]
        }
        Settled::DoesNotCompile { lines, log, .. } => {
            let mut all = vec!["after: does not compile".to_owned()];
            all.extend(lines.iter().map(|line| format!("    {}", harmless(line, WIDTH - 4))));
            all.push(String::new());
            all.push(format!("log       {}/{log}", folder.display()));
            all
        }
    }
}

/// What the silence of the trials means, if the verdict rests on it.
fn silence(result: &RunResult) -> Vec<String> {
    let mut lines = Vec::new();
    if !matches!(result.verdict, Some(Verdict::Unchanged | Verdict::Fixed)) {
        return lines;
    }
    let (before, after) = (&result.trials.before, &result.trials.after);
    let mut line = |text: String| lines.push(text);
    let rate = before.detectable_rate.max(after.detectable_rate) * 100.0;
    let trials = result.least_evidence();
    let lacking = lacking(&result.trials);
    let armed = if lacking.is_none() { "armed " } else { "" };
    let each = if result.has_several_scenarios() { "each scenario's " } else { "" };
    line(format!(
        "silence   {each}{trials} {armed}trials a side miss a report of rate p with probability (1-p)^{trials}:"
    ));
    line(format!("          a report in fewer than {rate:.0} % of trials may have been missed (at 95 %)"));
    for text in silence_of_guests(result).iter().flat_map(|text| textwrap::wrap(text, WIDTH - 10)) {
        line(format!("          {text}"));
    }
    if let Some(lacking) = lacking {
        line(format!("          {lacking}: what it would report is not known"));
    }
    lines
}

/// The verdict of the trials alone, before the analyses in `following`.
pub fn first_verdict(result: &RunResult, following: &[&str]) -> Vec<String> {
    let mut lines = vec![String::new(), format!("so far    {}", verdict(result))];
    let unknown: Vec<&Finding> = result.reports.iter().filter(|finding| finding.known.is_none()).collect();
    lines.extend(shown(result, &unknown, ""));
    let stands = match result.verdict {
        Some(Verdict::Unchanged | Verdict::Fixed) => ", which may revoke this verdict",
        _ => "",
    };
    lines.push(format!("next      {}{stands}", following.join(", ")));
    lines
}

/// The first findings in full, then the number of the others and where they are.
fn shown(result: &RunResult, findings: &[&Finding], place: &str) -> Vec<String> {
    let several = result.has_several_scenarios();
    let mut lines: Vec<String> =
        findings.iter().take(SHOWN).flat_map(|finding| show(finding, several)).collect();
    if findings.len() > SHOWN {
        lines.push(format!("       and {} more{place}", findings.len() - SHOWN));
    }
    lines
}

/// The verdict and its reason.
fn verdict(result: &RunResult) -> String {
    let nothing = result.reports.iter().all(|finding| finding.known.is_some());
    let why = &*result.reason;
    match result.verdict {
        Some(verdict) => {
            let (colour, why) = match verdict {
                Verdict::Regressed => (AnsiColor::Red, why),
                Verdict::Unchanged
                    if result.settled.is_none()
                        && nothing
                        && result.untested().next().is_none()
                        && lacking(&result.trials).is_none() =>
                {
                    (AnsiColor::Green, "nothing was reported")
                }
                Verdict::Fixed | Verdict::Unchanged => (AnsiColor::Green, why),
                Verdict::Inconclusive => (AnsiColor::Yellow, why),
            };
            format!("{}   {why}", coloured(&verdict.to_string(), colour))
        }
        None => format!("{}   {}", coloured("NO VERDICT", AnsiColor::Yellow), harmless(why, 200)),
    }
}

/// Sets a colour. The stream (`anstream`) removes it without a terminal, with `NO_COLOR`
/// (no-color.org) or with `CLICOLOR=0`.
pub(super) fn coloured(text: &str, colour: AnsiColor) -> String {
    let style = colour.on_default().bold();
    format!("{style}{text}{style:#}")
}

fn repeated(result: &RunResult) -> String {
    match result.repeated.as_slice() {
        [] => String::new(),
        [one] => format!("; {} repeated ({})", one.folder, harmless(&one.why, 60)),
        [first, rest @ ..] => format!("; {} repeated ({}, ...)", rest.len() + 1, harmless(&first.why, 50)),
    }
}

/// How many operations ended how, and after how many trials the kernel's state was compared.
fn operations(result: &RunResult) -> String {
    let Sides { before, after } = &result.trials;
    format!(
        "{} operations done, {} refused by the guest; state compared after {} + {}{}",
        before.operations_done + after.operations_done,
        before.operations_refused + after.operations_refused,
        before.state_compared,
        after.state_compared,
        repeated(result)
    )
}

/// The scenario, or the number of scenarios that ran.
pub(super) fn scenarios(result: &RunResult) -> String {
    let ran = result.run.scenarios().iter().filter(|note| note.left_out.is_none()).count();
    match result.run.scenarios.len() {
        0 | 1 => result.run.scenario.clone(),
        all if ran < all => format!("{}, {ran} of {all} scenarios", result.run.scenario),
        all => format!("{}, {all} scenarios", result.run.scenario),
    }
}

/// A finding. Its scenarios are named if the run has several.
fn show(finding: &Finding, several: bool) -> Vec<String> {
    let class = match finding.class {
        Class::New => coloured("new   ", AnsiColor::Red),
        Class::Fixed => coloured("fixed ", AnsiColor::Green),
        Class::Common => "common".to_owned(),
    };
    let sure = if finding.decided { "" } else { ", may be chance" };
    let mut all = vec![format!("{class} {}", harmless(&finding.title, WIDTH - 7))];
    all.push(format!(
        "       before {}   after {}   {}{sure}",
        finding.before,
        finding.after,
        finding.certainty()
    ));
    all.extend(path(&finding.frames).into_iter().map(|text| format!("       {text}")));
    all.extend(place(finding).map(|text| format!("       {text}")));
    if several {
        let names = format!("in {}", mail::seen_in(finding));
        all.extend(textwrap::wrap(&names, WIDTH - 7).into_iter().map(|text| format!("       {text}")));
    }
    let mut how = Vec::new();
    if !finding.during.is_empty() {
        how.push(format!("during {}", harmless(&finding.during, 50)));
    }
    if finding.times > 1 {
        how.push(format!("up to {} times a trial, shown once", finding.times));
    }
    if !how.is_empty() {
        all.push(format!("       {}", how.join("; ")));
    }
    all
}

/// File and line of the function to blame.
fn place(finding: &Finding) -> Option<String> {
    let blame = finding.blame.as_deref()?;
    let frame = finding.call_path.iter().find(|frame| plain_name(&frame.function) == blame)?;
    Some(format!("{} at {}", harmless(blame, 48), harmless(frame.source.as_deref()?, 60)))
}

/// The call path, caller first, in at most two lines, without the functions that only pass a call
/// on.
fn path(frames: &[String]) -> Vec<String> {
    let mut names: Vec<String> =
        frames.iter().filter(|f| !PLUMBING.contains(&f.as_str())).take(8).map(|f| harmless(f, 48)).collect();
    names.reverse();
    let mut lines = vec![String::new()];
    for (i, name) in names.iter().enumerate() {
        let link = if i == 0 { "" } else { " > " };
        let last = lines.len() - 1;
        if lines[last].chars().count() + link.len() + name.chars().count() > WIDTH - 7 {
            lines.push(format!("> {name}"));
        } else {
            lines[last] += link;
            lines[last] += name;
        }
    }
    lines.retain(|l| !l.is_empty());
    lines.truncate(2);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_verdict_and_what_is_new_or_fixed_is_coloured() {
        let text = include_str!("../../tests/fixtures/results/seed-6.12/result.json");
        let screen = screen(&serde_json::from_str(text).unwrap(), Path::new("results/x"));
        let red = "\u{1b}[1m\u{1b}[31m";
        let coloured: Vec<&str> = screen.lines().filter(|line| line.contains('\u{1b}')).collect();
        let begins = [
            format!("{red}REGRESSED\u{1b}[0m   2 new"),
            format!("{red}new   \u{1b}[0m "),
            format!("{red}new   \u{1b}[0m "),
        ];
        assert_eq!(coloured.len(), begins.len(), "{coloured:?}");
        for (line, begin) in coloured.iter().zip(&begins) {
            assert!(line.starts_with(begin) && line.matches('\u{1b}').count() == 3, "{line:?}");
        }
    }

    #[test]
    fn probabilities_have_two_digits() {
        for (p, text) in
            [(1.0, "1"), (0.4857, "0.49"), (2.0 / 12870.0, "0.00016"), (0.05, "0.050"), (0.0, "< 1e-9")]
        {
            assert_eq!(crate::text::probability(p), text);
        }
    }

    #[test]
    fn a_path_reads_from_caller_to_callee() {
        let frames = ["flush", "slab_callback", "notifier_call_chain", "memory_notify", "offline_pages"];
        let lines = path(&frames.map(String::from));
        assert_eq!(lines, ["offline_pages > memory_notify > slab_callback > flush"]);
    }
}

//! A mail to a kernel list: plain text of at most 75 columns, in the form of a reply to a patch.

mod header;
mod splat;

use std::fmt::Write;
use std::path::Path;

use super::terminal::scenarios;
use super::{
    armed, basis, cases, duration, emulator_faults, evidence, guests, lacks, left_out, silence_of_guests,
};
use crate::compare::{Class, Finding, TriedForecasts, Verdict, lacking};
use crate::conclusion::Conclusion;
use crate::record::{RunResult, Settled};
use crate::scenario::{Clock, Point, built_in};
use crate::text::harmless;
use crate::vmm::shell_word;

/// Widest line, in characters (Documentation/process/submitting-patches.rst wraps at 75).
const WIDTH: usize = 75;

/// The number of findings that are printed in full.
const SHOWN: usize = 5;

/// The text of the mail, of the run in `folder`. `scenario` is the purpose of the scenario.
pub fn mail(result: &RunResult, scenario: &str, folder: &Path) -> String {
    let run = &result.run;
    let mut out = run.reply_to.as_ref().map_or_else(String::new, |to| header::header(to, WIDTH));
    let verdict = match result.verdict {
        _ if matches!(result.settled, Some(Settled::DoesNotCompile { .. })) => "it does not compile.",
        _ if result.settled.is_some() => "it changes no code of this kernel.",
        Some(Verdict::Regressed) => "something goes wrong with it that does not without.",
        Some(Verdict::Fixed) => "something that goes wrong without it does not with it.",
        Some(Verdict::Unchanged) => "nothing goes wrong with it that does not without.",
        Some(Verdict::Inconclusive) => "the trials decide nothing.",
        None => "the trials failed, so there is no verdict.",
    };
    paragraph(&mut out, &format!("I ran this under memory and CPU hotplug: {verdict}"));
    let before = &run.kernels.before;
    let change = match run.patches.as_slice() {
        [] => format!("compared with {}", run.kernels.after.source),
        patches => format!(
            "without and with {}",
            patches.iter().map(|patch| name(patch)).collect::<Vec<_>>().join(", ")
        ),
    };
    paragraph(&mut out, &format!("Linux {} ({}), {change}.", before.release, before.source));
    if let Some(left_out) = left_out(&run.kernels) {
        paragraph(&mut out, &format!("Options {left_out}."));
    }
    if let Some(basis) = basis(&run.kernels) {
        paragraph(&mut out, &format!("Configuration: {basis}."));
    }
    if let Some(lacks) = lacks(&run.kernels) {
        paragraph(&mut out, &format!("Kernels {lacks}."));
    }
    if let Some(settled) = &result.settled {
        without_trials(&mut out, settled, run.kernels.after.source.as_str());
        repeat(&mut out, result);
        return out;
    }
    paragraph(
        &mut out,
        &format!(
            "{} + {} trials{} of \"{}\" ({scenario}) in {}, {}; QEMU {}, {}, {} CPUs of the host.",
            result.trials.before.trials,
            result.trials.after.trials,
            guests(&result.trials),
            scenarios(result),
            duration(result.trials_seconds),
            armed(&result.trials),
            run.host.qemu,
            run.host.accelerator,
            run.host.cores
        ),
    );
    paragraph(
        &mut out,
        &match result.verdict {
            Some(verdict) => format!("{verdict}: {}.", result.reason),
            None => format!("No verdict: {}.", result.reason),
        },
    );
    for (scenario, why) in result.untested() {
        paragraph(&mut out, &format!("The silence of {scenario} is no evidence: {why}."));
    }
    let notes = emulator_faults(&result.trials).into_iter().chain(result.remarks.iter().cloned());
    notes.for_each(|note| paragraph(&mut out, &format!("Note: {}.", harmless(&note, 400))));
    let (known, unknown): (Vec<&Finding>, Vec<&Finding>) =
        result.reports.iter().partition(|finding| finding.known.is_some());
    for (_, finding) in result.forecasts.iter().flat_map(TriedForecasts::came_true) {
        told(&mut out, finding, true, None);
    }
    for finding in unknown.iter().take(SHOWN) {
        told(&mut out, finding, result.has_several_scenarios(), Some(folder));
    }
    if let Some(told) = &result.no_boot {
        paragraph(&mut out, &format!("The end of the console of the {} kernel:", told.shown_by()));
        for line in &told.console {
            let _ = writeln!(out, "  {}", harmless(line, WIDTH - 3));
        }
        out.push('\n');
    }
    if unknown.len() > SHOWN {
        paragraph(&mut out, &format!("And {} more.", unknown.len() - SHOWN));
    }
    for finding in known {
        let reason = finding.known.as_deref().unwrap_or_default();
        paragraph(&mut out, &format!("Known, and not counted: {} ({reason}).", finding.title));
    }
    silence(&mut out, result);
    for lines in result.conclusions().map(Conclusion::mail) {
        // Lines of the screen are wider than a mail, and are set in columns.
        for line in &lines {
            let indent = line.len() - line.trim_start().len();
            let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
            let label = if indent == 0 { words } else { format!("{:10}{words}", "") };
            wrapped(&mut out, &label, "            ");
        }
    }
    repeat(&mut out, result);
    out
}

/// The end of a mail.
fn repeat(out: &mut String, result: &RunResult) {
    out.push_str("\nTo repeat it:\n\n");
    // It has only the file names of the patches, because the reader's copies are in another place.
    for line in broken(&words(result, Reader::Elsewhere), WIDTH) {
        let _ = writeln!(out, "{line}");
    }
    let _ = writeln!(out, "\nhotplug {}", result.run.hotplug);
}

/// A command in lines that a shell joins again, each with at most `width` columns. A longer word
/// stays whole.
fn broken(words: &[String], width: usize) -> Vec<String> {
    const INDENT: &str = "  ";
    // An option stays with its value.
    let is_option = |word: &str| word.starts_with("--");
    let mut pairs: Vec<String> = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let before = place.checked_sub(1).map(|before| &words[before]);
        match pairs.last_mut() {
            Some(last) if !is_option(word) && before.is_some_and(|before| is_option(before)) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => pairs.push(word.clone()),
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for word in &pairs {
        match lines.last_mut() {
            // A blank, the word, and ` \\` in case another word follows.
            Some(line) if line.chars().count() + word.chars().count() + 3 <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(line) => {
                line.push_str(" \\");
                lines.push(format!("{INDENT}{INDENT}{word}"));
            }
            None => lines.push(format!("{INDENT}{word}")),
        }
    }
    lines
}

/// A verdict that needed no trial.
fn without_trials(out: &mut String, settled: &Settled, source: &str) {
    match settled {
        Settled::Identical { not_built } if not_built.is_empty() => {
            paragraph(out, "UNCHANGED: both kernels are the same, bit for bit, so no trial was needed.");
        }
        Settled::Identical { .. } => paragraph(out, &format!("INCONCLUSIVE: {settled}.")),
        Settled::DoesNotCompile { lines, .. } => {
            paragraph(out, &format!("REGRESSED: the kernel with it does not compile ({source}):"));
            // The compiler's lines are not wrapped, because they are set in columns.
            for line in lines {
                let _ = writeln!(out, "  {}", harmless(line, WIDTH - 3));
            }
        }
    }
}

/// One finding, with its call path, and for one that differs what the kernel printed, from the run's
/// folder.
fn told(out: &mut String, finding: &Finding, several: bool, folder: Option<&Path>) {
    let class = match finding.class {
        Class::New => "New",
        Class::Fixed => "Gone",
        Class::Common => "On both sides",
    };
    let chance = if finding.decided { "" } else { ", which may be chance" };
    let mut text = format!(
        "{class}: in {} trials without the patch, in {} with it ({}{chance})",
        finding.before,
        finding.after,
        finding.certainty()
    );
    if !finding.during.is_empty() {
        let _ = write!(text, ", during {}", finding.during);
    }
    if several {
        let _ = write!(text, ", in {}", seen_in(finding));
    }
    paragraph(out, &format!("{text}:"));
    // A kernel's text is truncated and not wrapped, because a wrapped line cannot be searched for.
    let _ = writeln!(out, "  {}", harmless(&finding.title, WIDTH - 3));
    for frame in cases::call_path(finding).iter().take(16) {
        let _ = writeln!(out, "   {}", harmless(frame, WIDTH - 4));
    }
    out.push('\n');
    let differs = finding.class != Class::Common;
    let printed = folder.filter(|_| differs).and_then(|folder| evidence::printed(folder, finding));
    for line in printed.iter().flat_map(|printed| splat::trimmed(printed, WIDTH - 2)) {
        let _ = writeln!(out, "  {}", line.trim_end());
    }
    if printed.is_some() {
        out.push('\n');
    }
}

/// Where the reader of a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// At the run's folder, which has copies of all files.
    Here,
    /// Somewhere else, with copies of the patches in another place.
    Elsewhere,
}

/// The command that repeats these trials, including the kernels, on one line.
pub(super) fn command(result: &RunResult, reader: Reader) -> String {
    words(result, reader).join(" ")
}

/// The words of that command, each quoted for a shell if it needs quotes.
fn words(result: &RunResult, reader: Reader) -> Vec<String> {
    let run = &result.run;
    let called = |path: &str| match reader {
        Reader::Here => path.to_owned(),
        Reader::Elsewhere => name(path).to_owned(),
    };
    let sweep = run.plan.sweep.as_ref();
    let subcommand = if sweep.is_some() { "race" } else { "compare" };
    let mut words = vec!["hotplug".to_owned(), subcommand.to_owned()];
    let (patches, others) = run.spec.kernels.words();
    words.extend(patches.iter().map(|patch| shell_word(&called(patch))));
    words.extend(others.iter().map(|word| shell_word(word)));
    if run.kernels.before.id == run.kernels.after.id && run.spec.even_if_identical {
        words.push(if patches.is_empty() { "--same".into() } else { "--anyway".into() });
    }
    let scenario = |name: &str| {
        let file = format!("{name}.toml");
        let text = built_in(Path::new(name));
        let note = run.scenarios().into_iter().find(|note| note.name == *name);
        let hash = text.map(|text| blake3::hash(text.as_bytes()).to_hex().to_string());
        let word = match (note, reader) {
            // The binary carries it, unchanged.
            (Some(note), _) if hash.as_deref() == Some(note.hash.as_str()) => name.to_owned(),
            (_, Reader::Here) => {
                let place = run.spec.running.results.join(&run.id).join(run.scenario_file(name));
                place.display().to_string()
            }
            (_, Reader::Elsewhere) => file,
        };
        ["--scenario".to_owned(), shell_word(&word)]
    };
    match (run.scenarios.len(), run.scenario.as_str()) {
        (0 | 1, one) => words.extend(scenario(one)),
        (_, "portfolio") => {}
        (_, "all") => words.extend(["--scenario".to_owned(), "all".to_owned()]),
        _ => words.extend(run.scenarios.iter().flat_map(|note| scenario(&note.name))),
    }
    words.extend(["--seed".to_owned(), run.seed.0.to_string()]);
    let plan = &run.plan;
    let mut option = |name: &str, value: Option<String>| {
        words.extend(value.into_iter().flat_map(|value| [format!("--{name}"), value]));
    };
    let list = |points: &[Point]| points.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    option("functions", sweep.map(|sweep| shell_word(&list(&sweep.functions))));
    option("against", sweep.map(|sweep| shell_word(&list(&sweep.against))));
    option("limit", sweep.map(|sweep| sweep.manner.limit_ms.to_string()));
    // The number of trials is planned over all pairs of a sweep, but the option counts them for
    // each pair.
    let pairs = sweep.map_or(1, |sweep| sweep.pairs().len().max(1));
    // With several scenarios, the option counts the trials of each.
    let trials = if run.scenarios.len() > 1 { run.spec.trials.end } else { run.trials };
    option("trials", trials.map(|trials| (trials as usize).div_ceil(pairs).to_string()));
    option("for", plan.seconds.map(|seconds| format!("{}s", seconds.ceil())));
    option("until-seen", plan.until_seen.as_deref().map(shell_word));
    option("boots", plan.boots.map(|boots| boots.to_string()));
    let is_traced = result.overlap.as_ref().is_some_and(|overlap| overlap.none.is_none());
    for (name, is_set) in [("exact", plan.clock == Clock::Exact), ("cold", plan.cold), ("overlap", is_traced)]
    {
        words.extend(is_set.then(|| format!("--{name}")));
    }
    words.iter().map(|word| harmless(word, 2000)).collect()
}

/// What the silence of the trials means, if the verdict rests on it.
fn silence(out: &mut String, result: &RunResult) {
    if !matches!(result.verdict, Some(Verdict::Unchanged | Verdict::Fixed)) {
        return;
    }
    let rate = result.trials.before.detectable_rate.max(result.trials.after.detectable_rate) * 100.0;
    paragraph(
        out,
        &format!("A report in fewer than {rate:.0} % of such trials may have been missed (at 95 %)."),
    );
    if let Some(words) = silence_of_guests(result) {
        let (first, rest) = words.split_at(1);
        paragraph(out, &format!("{}{rest}.", first.to_uppercase()));
    }
    if let Some(lacking) = lacking(&result.trials) {
        paragraph(out, &format!("What lockdep would report is not known: {lacking}."));
    }
}

/// The scenarios in which a finding was seen, in words.
pub(super) fn seen_in(finding: &Finding) -> String {
    let names: Vec<_> = finding.scenarios.iter().map(|seen| harmless(&seen.scenario, 60)).collect();
    names.join(", ")
}

/// The last component of a path.
pub(super) fn name(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path)
}

fn paragraph(out: &mut String, text: &str) {
    wrapped(out, text, "");
    out.push('\n');
}

fn wrapped(out: &mut String, text: &str, indent: &str) {
    let options = textwrap::Options::new(WIDTH)
        .subsequent_indent(indent)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    for line in textwrap::wrap(&harmless(text, 4000), options) {
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_repeats_what_was_asked() {
        let of = |text: &str| command(&serde_json::from_str(text).unwrap(), Reader::Here);
        let stalls = of(include_str!("../../tests/fixtures/results/stalls-6.1/result.json"));
        assert!(stalls.ends_with("--trials 1 --boots 3 --exact"), "{stalls}");
        let raced = of(include_str!("../../tests/fixtures/results/raced-6.1/result.json"));
        assert!(raced.ends_with("--trials 3 --overlap"), "{raced}");
    }

    #[test]
    fn a_long_command_is_broken_between_its_words() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let short = words("hotplug compare a.patch --seed 1");
        assert_eq!(broken(&short, 75), ["  hotplug compare a.patch --seed 1"]);
        let name = "0001-mm-memory_hotplug-Don-t-take-the-cpu_hotplug_lock-and-more.patch";
        let long =
            words(&format!("hotplug compare {name} --source linux-source-6.1 --seed 123456789 --trials 3"));
        let lines = broken(&long, 75);
        assert!(lines.iter().all(|line| line.chars().count() <= 75), "{lines:?}");
        assert!(lines.len() == 3 && lines[1].starts_with("    0001"), "{lines:?}");
        let joined = lines.join("\n").replace("\\\n", " ");
        assert_eq!(joined.split_whitespace().collect::<Vec<_>>(), long);
    }

    #[test]
    fn a_guests_text_is_wrapped_and_cannot_begin_a_line_of_its_own() {
        let mut out = String::new();
        paragraph(&mut out, &format!("a report of\r\n-- \nFrom: x {}", "long_name_".repeat(20)));
        assert!(out.lines().all(|line| line.chars().count() <= WIDTH), "{out}");
        assert!(out.starts_with("a report of-- From: x\nlong_name_long"), "{out}");
        assert_eq!(name("/a/0001-mm-x.patch"), "0001-mm-x.patch");
        assert_eq!(name("series/"), "series");
    }
}

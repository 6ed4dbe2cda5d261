//! The man pages: one for each command, with its examples and exit statuses, and `scenario(5)`,
//! which is made of `docs/scenarios.md`.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use hotplug::Result;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// The manual's source, below the title of each page.
const MANUAL: &str = "hotplug";

/// The documentation of scenarios.
const SCENARIOS: &str = include_str!("../../../docs/scenarios.md");

/// The files that commands read and write.
const FILES: [(&str, &str); 6] = [
    ("hotplug.toml", "Defaults of options, looked for in the working folder and above it."),
    (
        "results/RUN/",
        "A run. result.json has the verdict, report.html the page, run.json what was asked for, patches/ \
         the patches.",
    ),
    (
        "results/RUN/trials/TRIAL/",
        "A trial. kmsg.log has the kernel's log, serial.log the console, trial.json the outcome, repeat.sh \
         repeats it, and vmcore, if one was kept, is for crash(8).",
    ),
    ("results/history.sqlite", "All runs of the folder, for hotplug-history(1)."),
    ("~/.cache/hotplug/", "Kernels, sources, checkpoints and lock orders. hotplug-cache(1) prunes it."),
    ("scenarios/*.toml", "Scenarios: hotplug-scenario(5)."),
];

/// The environment variables.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("HOTPLUG_RESULTS", "The folder of the results, as --results."),
    ("HOTPLUG_QEMU", "The QEMU that is used in place of the one in PATH."),
    ("HOTPLUG_LOG", "What is logged on standard error, such as hotplug=debug."),
    ("NO_COLOR", "Nothing is coloured if it is set."),
    ("XDG_CACHE_HOME", "The folder that takes the place of ~/.cache."),
];

/// A page: the name of its file, and its text.
pub(super) type Page = (String, Vec<u8>);

/// All pages.
pub(super) fn pages(command: Command) -> Result<Vec<Page>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let whole = Statuses::of(&command);
    let mut all = Vec::new();
    of_command(&command, &whole, &mut all)?;
    all.push(("hotplug-scenario.5".to_owned(), scenario()?));
    Ok(all)
}

/// Adds the page of a command, and those of its subcommands.
fn of_command(command: &Command, whole: &Statuses, all: &mut Vec<Page>) -> Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        of_command(below, whole, all)?;
    }
    let man = Man::new(command.clone()).manual(MANUAL);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let own = Statuses::of(command);
    for note in Statuses::notes(&help) {
        rest.control("SH", ["NOTES"]).text([roman(note)]);
    }
    let examples = examples(&help);
    if !examples.is_empty() {
        rest.control("SH", ["EXAMPLES"]);
        literal(&mut rest, &examples);
    }
    rest.control("SH", ["EXIT STATUS"]);
    let statuses = if own.0.is_empty() { whole } else { &own };
    listed(&mut rest, statuses.0.iter().map(|(status, what)| (status.as_str(), what.as_str())));
    rest.control("SH", ["FILES"]);
    listed(&mut rest, FILES.into_iter());
    rest.control("SH", ["ENVIRONMENT"]);
    listed(&mut rest, ENVIRONMENT.into_iter());
    rest.control("SH", ["SEE ALSO"]).text([roman("hotplug(1), hotplug-scenario(5), crash(8), qemu(1)")]);
    rest.to_writer(&mut page)?;
    all.push((man.get_filename(), page));
    Ok(())
}

/// A list of terms.
fn listed<'a>(roff: &mut Roff, items: impl Iterator<Item = (&'a str, &'a str)>) {
    for (term, what) in items {
        roff.control("TP", []).text([bold(term)]).text([roman(what)]);
    }
}

/// Lines that are not filled.
fn literal(roff: &mut Roff, lines: &[String]) {
    roff.control("RS", ["4"]).control("nf", []);
    for line in lines {
        roff.text([roman(line.as_str())]);
    }
    roff.control("fi", []).control("RE", []);
}

/// The commands of `Examples:`, or of `Example: ...`.
fn examples(help: &str) -> Vec<String> {
    let one = help.lines().filter_map(|line| line.strip_prefix("Example: "));
    let block = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    one.chain(block.map_while(|line| line.strip_prefix("  "))).map(str::to_owned).collect()
}

/// The exit statuses of a command, each with its meaning.
#[derive(Debug, PartialEq, Eq)]
struct Statuses(Vec<(String, String)>);

impl Statuses {
    /// Those in the sentence that begins with `Exit status`, in the form `0 a; 1 b; c; 2 d`.
    fn of(command: &Command) -> Self {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let sentence = paragraphs(&help).into_iter().find(|text| Self::is_sentence(text)).unwrap_or_default();
        let (_, list) = sentence.split_once(':').unwrap_or_default();
        let mut all: Vec<(String, String)> = Vec::new();
        for part in list.trim().trim_end_matches('.').split("; ") {
            match (part.split_once(' '), all.last_mut()) {
                (Some((status, what)), _) if status.parse::<u8>().is_ok() => {
                    all.push((status.to_owned(), what.to_owned()));
                }
                (_, Some((_, what))) => {
                    what.push_str("; ");
                    what.push_str(part);
                }
                (_, None) => {}
            }
        }
        Self(all)
    }

    fn is_sentence(text: &str) -> bool {
        text.starts_with("Exit status")
    }

    /// The paragraphs that are neither examples nor exit statuses.
    fn notes(help: &str) -> Vec<String> {
        let is_note = |text: &String| !text.starts_with("Example") && !Self::is_sentence(text);
        paragraphs(help).into_iter().filter(is_note).collect()
    }
}

/// The paragraphs of a text, each on one line.
fn paragraphs(text: &str) -> Vec<String> {
    let all = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    all.filter(|part| !part.is_empty()).collect()
}

/// The page of scenarios.
fn scenario() -> Result<Vec<u8>> {
    let mut roff = Roff::new();
    roff.control("TH", ["hotplug-scenario", "5", "", "", MANUAL]);
    roff.control("SH", ["NAME"])
        .text([roman("hotplug-scenario - the file that describes the trials of a comparison")]);
    roff.control("SH", ["DESCRIPTION"]);
    markdown(&mut roff, SCENARIOS);
    roff.control("SH", ["SEE ALSO"]).text([roman("hotplug(1), hotplug-scenario(1), hotplug-compare(1)")]);
    let mut page = Vec::new();
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// Adds a text in Markdown. The heading of the text itself is left out. Rows of tables become items
/// of a list: their first cell is the term.
fn markdown(roff: &mut Roff, text: &str) {
    let mut words: Vec<clap_mangen::roff::Inline> = Vec::new();
    let mut plain = String::new();
    let (mut in_title, mut in_code, mut in_head, mut cells) = (false, false, false, 0);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { level, .. }) => in_title = level as usize == 1,
            Event::End(TagEnd::Heading(level)) => {
                let section = if level as usize == 2 { "SH" } else { "SS" };
                if !in_title {
                    // The name of a table stays as it is written in a file.
                    let is_plain = section == "SH" && !plain.contains('[');
                    let upper = if is_plain { plain.to_uppercase() } else { plain.clone() };
                    roff.control(section, [upper.as_str()]);
                }
                in_title = false;
                (words, plain) = (Vec::new(), String::new());
            }
            Event::Start(Tag::CodeBlock(_)) => {
                in_code = true;
            }
            Event::End(TagEnd::CodeBlock) => {
                let lines: Vec<String> = plain.trim_end().lines().map(str::to_owned).collect();
                literal(roff, &lines);
                in_code = false;
                (words, plain) = (Vec::new(), String::new());
            }
            Event::End(TagEnd::Paragraph) => {
                roff.control("PP", []).text(std::mem::take(&mut words));
                plain.clear();
            }
            Event::Start(Tag::Item) => drop(roff.control("IP", ["\\(bu", "2"])),
            Event::End(TagEnd::Item) => {
                if !words.is_empty() {
                    roff.text(std::mem::take(&mut words));
                }
                plain.clear();
            }
            // The names of the columns say nothing in a list.
            Event::Start(Tag::TableHead) => {
                in_head = true;
            }
            Event::End(TagEnd::TableHead) => (words, plain, in_head) = (Vec::new(), String::new(), false),
            Event::Start(Tag::TableRow) => {
                cells = 0;
            }
            Event::End(TagEnd::TableCell) => {
                if cells == 0 && !in_head {
                    roff.control("TP", []).text([bold(plain.trim())]);
                    words.clear();
                } else {
                    words.push(roman("  "));
                }
                plain.clear();
                cells += 1;
            }
            Event::End(TagEnd::TableRow) => drop(roff.text(std::mem::take(&mut words))),
            Event::Text(text) => {
                plain.push_str(&text);
                if !in_code {
                    words.push(roman(text.into_string()));
                }
            }
            Event::Code(text) => {
                plain.push_str(&text);
                words.push(bold(text.into_string()));
            }
            Event::SoftBreak | Event::HardBreak => {
                plain.push(' ');
                words.push(roman(" "));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a page.
    fn page(name: &str) -> String {
        let all = pages(crate::command()).unwrap();
        let found = all.into_iter().find(|(file, _)| file == name);
        String::from_utf8(found.unwrap_or_else(|| panic!("{name}")).1).unwrap()
    }

    #[test]
    fn a_page_has_examples_statuses_and_files() {
        let text = page("hotplug-compare.1");
        let places: Vec<_> = [".SH KERNELS", ".SH NOTES", ".SH EXAMPLES", ".SH \"EXIT STATUS\"", ".SH FILES"]
            .iter()
            .map(|heading| text.find(heading).unwrap_or_else(|| panic!("{heading}: {text}")))
            .collect();
        assert!(places.is_sorted(), "{places:?}");
        assert!(text.contains("\nhotplug compare my.patch\n"), "{text}");
        assert!(text.contains(".TP\n\\fB1\\fR\nregressed\n"), "{text}");
        assert!(!text.contains(".SH EXTRA"), "{text}");
        // A command without exit statuses of its own has those of every command.
        assert!(page("hotplug-open.1").contains(".TP\n\\fB3\\fR\ninconclusive\n"));
        assert!(page("hotplug-kernel-build.1").contains(".SH EXAMPLES"));
    }

    #[test]
    fn statuses_are_read_from_the_help() {
        let command = Command::new("x").after_help("Exit status: 0 good; 1 bad: a; b; 130 interrupted.");
        let expected = [("0", "good"), ("1", "bad: a; b"), ("130", "interrupted")];
        assert_eq!(Statuses::of(&command).0, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn scenarios_have_a_page_with_all_their_sections() {
        let text = page("hotplug-scenario.5");
        assert!(
            text.contains(".TH hotplug\\-scenario 5") || text.contains(".TH hotplug-scenario 5"),
            "{text}"
        );
        for heading in SCENARIOS.lines().filter_map(|line| line.strip_prefix("## ")) {
            let plain = heading.replace('`', "").to_lowercase();
            let first = plain.split_whitespace().next().unwrap().to_owned();
            let there =
                text.lines().any(|line| line.starts_with(".SH ") && line.to_lowercase().contains(&first));
            assert!(there, "{heading}: {text}");
        }
        assert!(text.contains(".nf\n") && text.contains("\n.SH \"[machine]: the machine"), "{text}");
        // The head of a table is no item.
        assert!(!text.contains("\n\\fBscenario\\fR\n"), "{text}");
    }
}

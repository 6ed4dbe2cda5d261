//! The order of the help: commands and options in groups, in place of two long lists.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// The commands, by what they are for.
const COMMANDS: [(&str, &[&str]); 7] = [
    ("Judge a patch", &["compare", "series", "scan", "prove"]),
    ("Look at a run", &["open", "report", "history", "locks", "coverage", "reach", "latency", "overlap"]),
    ("Search for a bug", &["scenario", "race", "replay", "shrink"]),
    ("Find the culprit", &["bisect"]),
    ("Use many machines", &["plan", "work", "merge", "submit"]),
    ("Kernels", &["kernel", "cache"]),
    ("This machine", &["doctor", "completions", "man", "help"]),
];

/// The options of commands with many of them, by what they are for.
const OPTIONS: [(&str, &[&str]); 4] = [
    (
        "Kernels",
        &[
            "base-patch",
            "source",
            "before",
            "after",
            "arch",
            "before-image",
            "after-image",
            "before-package",
            "after-package",
            "before-symbols",
            "after-symbols",
            "config",
            "defconfig",
            "make",
            "no-default-config",
            "wide",
            "narrow",
            "full-debug-info",
            "jobs",
            "cache",
            "same",
            "anyway",
        ],
    ),
    (
        "Trials",
        &[
            "continue",
            "scenario",
            "functions",
            "against",
            "limit",
            "trials",
            "for",
            "until-report",
            "until-seen",
            "until-decided",
            "cold",
            "workers",
            "rounds",
            "seed",
            "accel",
        ],
    ),
    (
        "Analyses",
        &[
            "no-control",
            "no-coverage",
            "no-reach",
            "overlap",
            "no-overlap",
            "no-latency",
            "exact",
            "boots",
            "latency-despite-reports",
            "no-atlas",
        ],
    ),
    ("Results", &["results", "report-to", "json-lines", "known", "known-may-worsen", "vmcore"]),
];

/// A command with more options than this has them in groups.
const MANY: usize = 16;

/// The widest line, as for the rest of the help.
pub(super) const WIDTH: usize = 100;

/// The command line with its help in groups.
pub(super) fn grouped(command: Command) -> Command {
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}{}\n{{options}}{{after-help}}",
        commands(&command),
        heading(&command, "Options")
    );
    command.help_template(template).mut_subcommands(|command| {
        let options = command.get_arguments().filter(|arg| !arg.is_positional()).count();
        if options > MANY { command.mut_args(headed) } else { command }
    })
}

/// An option under the heading of its group.
fn headed(arg: Arg) -> Arg {
    let of =
        |name: &str| OPTIONS.iter().find(|(_, names)| names.contains(&name)).map(|(heading, _)| *heading);
    match arg.get_long().and_then(of) {
        Some(heading) => arg.help_heading(heading),
        None => arg,
    }
}

fn heading(command: &Command, text: &str) -> String {
    let style = command.get_styles().get_header();
    format!("{style}{text}:{style:#}")
}

/// The commands in their groups, each with its purpose.
fn commands(command: &Command) -> String {
    let literal = command.get_styles().get_literal();
    let widest = COMMANDS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (group, names) in COMMANDS {
        let _ = writeln!(text, "{}", heading(command, group));
        for name in names {
            let about = match command.find_subcommand(name) {
                Some(found) => found.get_about().map(ToString::to_string).unwrap_or_default(),
                None => "Print this message or the help of the given subcommand(s)".to_owned(),
            };
            let indent = " ".repeat(widest + 4);
            let lines = textwrap::wrap(&about, WIDTH - indent.len());
            let _ = writeln!(
                text,
                "  {literal}{name}{literal:#}{:fill$}{}",
                "",
                lines.join(&format!("\n{indent}")),
                fill = widest + 2 - name.len()
            );
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let command = crate::Cli::command();
        let mut there: Vec<&str> = command.get_subcommands().map(Command::get_name).chain(["help"]).collect();
        let mut listed: Vec<&str> = COMMANDS.iter().flat_map(|(_, names)| *names).copied().collect();
        there.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, there);
    }

    #[test]
    fn options_of_a_long_list_are_in_groups_and_every_name_is_one() {
        let command = grouped(crate::Cli::command());
        let compare = command.find_subcommand("compare").unwrap();
        let loose: Vec<_> = compare
            .get_arguments()
            .filter(|arg| arg.get_help_heading().is_none() && !arg.is_positional())
            .filter_map(Arg::get_long)
            .collect();
        assert_eq!(loose, Vec::<&str>::new());
        let all: Vec<&str> =
            command.get_subcommands().flat_map(Command::get_arguments).filter_map(Arg::get_long).collect();
        let names = OPTIONS.iter().flat_map(|(_, names)| *names);
        let unknown: Vec<_> = names.filter(|name| !all.contains(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn the_help_has_the_groups_in_narrow_lines() {
        let help = grouped(crate::Cli::command()).render_help().to_string();
        let place = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text}: {help}"));
        assert!(place("Judge a patch:\n  compare ") < place("Find the culprit:\n  bisect "));
        assert!(place("This machine:") < place("Options:\n  -h, --help"));
        assert!(help.lines().all(|line| line.chars().count() <= WIDTH), "{help}");
        assert!(help.contains("Examples:") && !help.contains("Commands:"), "{help}");
    }
}

//! `hotplug scenario list|show|check`: the scenarios that the binary carries, and those of a user.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use hotplug::arch::Architecture;
use hotplug::program_files;
use hotplug::scenario::{Scenario, built_in_for, portfolio};
use hotplug::{Error, Result};

/// Subcommands of `hotplug scenario`.
#[derive(Debug, Clone, Subcommand)]
pub enum ScenarioCommand {
    /// List the scenarios that hotplug carries, with their purpose
    #[command(after_help = "Example: hotplug scenario list")]
    List,
    /// Print the text of a scenario, as a start for one of your own
    #[command(after_help = "Example: hotplug scenario show dimm-and-cpu > my.toml")]
    Show(NamedArgs),
    /// Check scenarios without running them
    #[command(after_help = "\
Examples:
  hotplug scenario check my.toml
  hotplug scenario check dimm-and-cpu scenarios/random-soup.toml

Exit status: 0 every scenario can be read; 2 one of them cannot.")]
    Check(CheckArgs),
}

/// Options of `hotplug scenario show`.
#[derive(Debug, Clone, Args)]
pub struct NamedArgs {
    /// Name of a built-in scenario, or a file
    #[arg(value_name = "NAME|FILE")]
    pub scenario: PathBuf,
}

/// Options of `hotplug scenario check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Scenario files, or names of built-in scenarios
    #[arg(value_name = "NAME|FILE", required = true)]
    pub scenarios: Vec<PathBuf>,
}

/// Prints to `out`. Returns the exit status.
pub fn run(command: &ScenarioCommand, out: &mut dyn Write) -> Result<u8> {
    match command {
        ScenarioCommand::List => {
            for arch in Architecture::ALL {
                if !arch.is_default() {
                    writeln!(out, "\nFor guests of {arch} (--arch {arch}):")?;
                }
                for name in built_in_for(arch) {
                    let (scenario, _) = Scenario::read(name.as_ref())?;
                    let mark = if portfolio(arch).contains(&name) { "*" } else { " " };
                    writeln!(out, "{mark} {name:<22} {}", scenario.about)?;
                }
            }
            writeln!(out, "\n* the portfolio, which runs without --scenario")?;
        }
        ScenarioCommand::Show(NamedArgs { scenario }) => {
            let (_, text) = Scenario::read(scenario)?;
            out.write_all(text.as_bytes())?;
        }
        ScenarioCommand::Check(CheckArgs { scenarios }) => check(scenarios, out)?,
    }
    Ok(0)
}

/// Reads each scenario, and the files that its programs need. All are checked before the first
/// error is returned.
fn check(scenarios: &[PathBuf], out: &mut dyn Write) -> Result<()> {
    let mut errors: Vec<Error> = Vec::new();
    for path in scenarios {
        let read = Scenario::read(path).and_then(|(scenario, _)| {
            program_files::read(&scenario)?;
            Ok(scenario)
        });
        match read {
            Ok(scenario) => {
                let steps = scenario.lanes.iter().map(|lane| lane.steps.len()).sum::<usize>();
                let (lanes, trials) = (scenario.lanes.len(), scenario.trials);
                let random = if scenario.random.is_some() { " and random ones" } else { "" };
                let name = path.display();
                writeln!(out, "{name}: {lanes} lanes{random}, {steps} steps, {trials} trials a side")?;
            }
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        many => {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Err(Error::user(format!("{many} of {} scenarios cannot be used", scenarios.len()))
                .detail(all.join("\n")))
        }
    }
}

#[cfg(test)]
mod tests {
    use hotplug::scenario::BUILT_IN;

    use super::*;

    fn said(command: &ScenarioCommand) -> (Result<u8>, String) {
        let mut out = Vec::new();
        let result = run(command, &mut out);
        (result, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_is_listed_can_be_shown_and_checked() {
        let (_, list) = said(&ScenarioCommand::List);
        assert!(list.contains("* dimm-and-cpu "), "{list}");
        assert!(list.contains("* pseries-hash "), "{list}");
        let listed = list
            .lines()
            .filter(|line| BUILT_IN.iter().any(|(name, _)| line[2.min(line.len())..].starts_with(name)));
        assert_eq!(listed.count(), BUILT_IN.len());
        let (_, text) = said(&ScenarioCommand::Show(NamedArgs { scenario: "latency".into() }));
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy.toml");
        std::fs::write(&copy, text).unwrap();
        let all = BUILT_IN.iter().map(|(name, _)| PathBuf::from(name)).chain([copy]).collect();
        let (result, text) = said(&ScenarioCommand::Check(CheckArgs { scenarios: all }));
        assert_eq!(result.unwrap(), 0);
        assert!(text.lines().last().unwrap().contains("copy.toml: ") && text.contains(" lanes"), "{text}");
    }

    #[test]
    fn a_scenario_that_cannot_be_read_is_told_after_the_others_were_checked() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = folder.path().join("wrong.toml");
        std::fs::write(&wrong, "about = 1\n").unwrap();
        let args = CheckArgs { scenarios: vec![wrong, "dimm-and-cpu".into()] };
        let (result, text) = said(&ScenarioCommand::Check(args));
        let error = result.unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(
            error.to_string().contains("wrong.toml") && text.starts_with("dimm-and-cpu: "),
            "{error} {text}"
        );
    }
}

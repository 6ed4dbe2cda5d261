//! The output of the race analysis: the results of the holds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use hotplug_side::{Side, Sides};

use maud::Markup;

use super::page;
use crate::conclusion::{Case, CaseOutcome, Conclusion, labelled};
use crate::rendezvous::{Cell, MeetingCount, Race};
use crate::text::harmless;

/// Widest line of a screen, in characters.
const WIDTH: usize = 110;

/// The number of pairs on the screen of a comparison.
const SHOWN: usize = 16;

impl Conclusion for Race {
    fn screen(&self) -> Vec<String> {
        short(self)
    }

    fn mail(&self) -> Vec<String> {
        brief(self)
    }

    fn case(&self) -> Option<Case> {
        if self.cells.is_empty() {
            return None;
        }
        let is_open =
            |count: &MeetingCount| count.trials > 0 && count.met == 0 && count.kept_apart_by().is_none();
        let open =
            self.cells.iter().filter(|cell| Side::BOTH.iter().any(|side| is_open(cell.count.of(*side))));
        let outcome = match open.count() {
            0 => CaseOutcome::Passed,
            some => CaseOutcome::skipped(format!("inconclusive for {some} of {} pairs", self.cells.len())),
        };
        Some(Case::new("pairs raced on purpose met or are kept apart by a lock", outcome))
    }

    fn page(&self, _: &Path) -> Markup {
        page::section(self)
    }
}

/// The lines of a comparison's screen.
fn short(race: &Race) -> Vec<String> {
    let mut lines: Vec<String> = summary(race).into_iter().collect();
    let width = race.cells.iter().map(|cell| names(cell).len()).max().unwrap_or(0).min(50);
    for cell in race.cells.iter().take(SHOWN) {
        let (mut name, arrow) = (names(cell), " -> ");
        let mut came = came(cell);
        if width + 2 + came.len() > WIDTH
            && let Some(at) = came.find(arrow)
        {
            let after = came.split_off(at);
            lines.push(format!("{name:<width$}  {came}"));
            (name, came) = (String::new(), after.trim_start().to_owned());
        }
        lines.push(format!("{name:<width$}  {came}"));
    }
    if race.cells.len() > SHOWN {
        lines.push(format!("and {} other pairs: hotplug overlap", race.cells.len() - SHOWN));
    }
    for one in &race.delays {
        let Sides { before, after } = one.holds;
        lines.push(format!("{} delayed {before} times before, {after} after", one.at));
    }
    labelled("race", lines.into_iter().map(|line| harmless(&line, WIDTH)))
}

/// The lines of a mail: the summary, and the pairs that met with only one of the kernels.
fn brief(race: &Race) -> Vec<String> {
    let differs = |cell: &&Cell| {
        let Sides { before, after } = &cell.count;
        before.trials > 0 && after.trials > 0 && (before.met > 0) != (after.met > 0)
    };
    let differ = race.cells.iter().filter(differs).map(|cell| format!("{}  {}", names(cell), came(cell)));
    labelled("race", summary(race).into_iter().chain(differ).map(|line| harmless(&line, 4 * WIDTH)))
}

/// The number of pairs that met, and the locks that kept the others apart.
fn summary(race: &Race) -> Option<String> {
    let of = |side: Side| {
        let tried = || race.cells.iter().map(|cell| cell.count.of(side)).filter(|count| count.trials > 0);
        let met = tried().filter(|count| count.met > 0).count();
        let mut locks: BTreeMap<&str, usize> = BTreeMap::new();
        for lock in tried().filter_map(MeetingCount::kept_apart_by) {
            *locks.entry(lock).or_default() += 1;
        }
        let apart = locks.iter().map(|(lock, pairs)| format!(", {pairs} kept apart by {lock}"));
        format!("{met} of {} pairs met{}", tried().count(), apart.collect::<String>())
    };
    let (before, after) = (of(Side::Before), of(Side::After));
    let both =
        if before == after { format!("{before}, on both sides") } else { format!("{before} -> {after}") };
    (!race.cells.is_empty()).then_some(both)
}

fn names(cell: &Cell) -> String {
    format!("{} held until {}", cell.hold, cell.until)
}

/// The outcomes of a pair on both sides, printed once if they are equal.
fn came(cell: &Cell) -> String {
    let of = |side: Side| match cell.count.of(side).words() {
        words if words.is_empty() => "not tried".to_owned(),
        words => words,
    };
    let (before, after) = (of(Side::Before), of(Side::After));
    if before == after { format!("{before} on both sides") } else { format!("{before} -> {after}") }
}

/// The full text: every pair on both kernels, with an example.
pub fn full(race: &Race) -> String {
    let mut out = String::new();
    let width = race.cells.iter().map(|cell| names(cell).len()).max().unwrap_or(0).max(20);
    let _ = writeln!(out, "{:<width$}  {:<6}  {:>6}  what came of the trials", "pair", "kernel", "trials");
    for cell in &race.cells {
        for side in Side::BOTH {
            let count = cell.count.of(side);
            let name = if side == Side::Before { names(cell) } else { String::new() };
            let through = match count.went_through {
                0 => String::new(),
                trials => format!(" (went through {trials})"),
            };
            let example = count.example.as_deref().unwrap_or("-");
            let _ = writeln!(
                out,
                "{:<width$}  {:<6}  {:>6}  {}{through}  {}",
                harmless(&name, width),
                side.to_string(),
                count.trials,
                harmless(&count.words(), WIDTH),
                harmless(example, WIDTH)
            );
        }
    }
    for one in &race.delays {
        let Sides { before, after } = one.holds;
        let _ = writeln!(out, "{} delayed {before} times before, {after} after", one.at);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::{Hold, HoldOutcome};

    fn race() -> Race {
        let mut race = Race::default();
        let mut add = |side, folder: &str, hold: &str, until: &str, outcome: HoldOutcome, went_through| {
            let hold = Hold::of(&hold.parse().unwrap(), Some(&until.parse().unwrap()));
            race.add(side, folder, &[Hold { outcome, went_through, ..hold }]);
        };
        let excluded = || HoldOutcome::Excluded { lock: "device_hotplug_lock".into() };
        for side in Side::BOTH {
            add(side, &format!("{side}-000"), "offline_pages", "_cpu_up", excluded(), false);
        }
        add(Side::Before, "before-001", "memremap_pages", "_cpu_up", excluded(), false);
        add(Side::After, "after-001", "memremap_pages", "_cpu_up", HoldOutcome::Met, true);
        add(Side::After, "after-002", "memremap_pages", "_cpu_up", HoldOutcome::Limit, false);
        race
    }

    #[test]
    fn the_screen_says_once_what_is_the_same() {
        let expected = [
            "race      0 of 2 pairs met, 2 kept apart by device_hotplug_lock -> 1 of 2 pairs met, 1 kept apart by device_hotplug_lock",
            "          offline_pages held until _cpu_up   excluded by device_hotplug_lock 1 on both sides",
            "          memremap_pages held until _cpu_up  excluded by device_hotplug_lock 1 -> met 1, too late 1",
        ];
        assert_eq!(short(&race()), expected);
    }

    #[test]
    fn a_mail_has_what_differs() {
        let lines = brief(&race());
        assert_eq!((lines.len(), lines[0].as_str()), (2, short(&race())[0].as_str()));
        let differs = "          memremap_pages held until _cpu_up  excluded by device_hotplug_lock 1 -> met 1, too late 1";
        assert_eq!(lines[1], differs);
    }

    #[test]
    fn all_of_it_has_an_example_of_each() {
        insta::assert_snapshot!(full(&race()));
    }
}

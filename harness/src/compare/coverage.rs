//! The coverage of a patch: which of the lines and functions that it changes ran, how often, and
//! during which operations. A trial without a report says nothing about code that never ran.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use hotplug_side::{Side, Sides};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::weight::Weight;
use crate::coverage::{ChangedLines, Executed, LineCounts};
use crate::kernel::Counting;
use crate::unavailable::Unavailable;

/// The part of a patch that the counted trials ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// Why nothing was counted. The rest is then empty.
    pub none: Option<Unavailable>,
    /// Counted trials. They run beside the judged trials, with kernels of their own.
    pub trials: Sides<u32>,
    /// Of these, trials that panicked or hung. What ran last in them is not known. Results of older
    /// versions lack it.
    #[serde(default)]
    pub cut: Sides<u32>,
    /// The files that the two sides differ in.
    pub files: Vec<FileCoverage>,
}

/// One file that the two sides differ in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileCoverage {
    /// The file's path, relative to the source.
    pub path: String,
    /// Whether the file's lines could be counted.
    pub counting: Sides<Counting>,
    /// The functions that contain the changes, by name, with their executions on each side that has
    /// them.
    pub functions: BTreeMap<String, Sides<Option<Executed>>>,
    /// Every line that only one side has.
    pub lines: Vec<ChangedLine>,
}

/// A line that only one side has. A before line was removed by the patch, an after line was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangedLine {
    /// The side that has the line.
    pub side: Side,
    /// The line's number, from 1, in that side's file.
    pub line: u32,
    /// The line's text.
    pub text: String,
    /// The line's executions; null if the line carries no code of its own or is not counted.
    pub ran: Option<Executed>,
}

/// The counts of one file on one side: in total, during the boot, and by operation.
#[derive(Debug, Clone, Default)]
pub struct SideCounts {
    /// The total.
    pub all: LineCounts,
    /// The part of the total that was counted during the boot.
    pub boot: LineCounts,
    /// The parts of the total that were counted while these operations were in flight.
    pub during: Vec<(Vec<String>, LineCounts)>,
    /// A counted trial panicked or hung, so that what ran last in it is not known.
    pub is_cut: bool,
}

impl SideCounts {
    fn ran(&self, count: impl Fn(&LineCounts) -> u64) -> Executed {
        let mut during = BTreeMap::new();
        for (operations, counts) in &self.during {
            for kind in operations {
                *during.entry(kind.clone()).or_default() += count(counts);
            }
        }
        during.retain(|_, times| *times > 0);
        let times = count(&self.all);
        Executed { times, boot: count(&self.boot), during, is_unknown: self.is_cut && times == 0 }
    }

    fn line(&self, line: u32) -> Option<Executed> {
        self.all.lines.get(&line)?;
        let mut ran = self.ran(|counts| counts.lines.get(&line).copied().unwrap_or(0));
        ran.is_unknown |= ran.times == 0 && self.all.skewed.contains(&line);
        Some(ran)
    }

    fn function(&self, name: &str) -> Option<Executed> {
        self.all.functions.get(name)?;
        Some(self.ran(|counts| counts.functions.get(name).map_or(0, |function| function.entered)))
    }
}

impl FileCoverage {
    /// Combines the changes to a file with the counts of that file.
    pub fn new(
        path: String,
        counting: Sides<Counting>,
        changed: ChangedLines,
        counts: &Sides<SideCounts>,
    ) -> Self {
        let mut names = BTreeSet::new();
        for side in Side::BOTH {
            let has = |line: &u32, f: &crate::coverage::Function| (f.start..=f.end).contains(line);
            for (name, function) in &counts.of(side).all.functions {
                if changed.places.of(side).iter().any(|line| has(line, function)) {
                    names.insert(name.clone());
                }
            }
        }
        let functions = names.into_iter().map(|name| {
            let one = |side| counts.of(side).function(&name);
            let sides = Sides { before: one(Side::Before), after: one(Side::After) };
            (name, sides)
        });
        let functions = functions.collect();
        let lines = Side::BOTH.into_iter().zip([changed.lines.before, changed.lines.after]);
        let lines = lines.flat_map(|(side, lines)| {
            let all = lines.into_iter();
            all.map(move |(line, text)| ChangedLine { side, line, text, ran: counts.of(side).line(line) })
        });
        let lines = lines.collect();
        Self { path, counting, functions, lines }
    }

    /// Whether a changed line of the file is in neither kernel, because the configuration does not
    /// build the file.
    fn is_left_out(&self) -> bool {
        let may_be_code = |text: &str| {
            let text = text.trim();
            !text.is_empty() && !["//", "/*", "*"].iter().any(|start| text.starts_with(start))
        };
        let mut lines = self.lines.iter();
        lines.any(|line| *self.counting.of(line.side) == Counting::NotBuilt && may_be_code(&line.text))
    }

    /// Whether it is unknown if the file's changes ran. The file may not be counted, or it is a
    /// header and no counted file includes any of the changed lines.
    pub fn is_unknown(&self) -> bool {
        self.lines.iter().any(|line| {
            let counting = *self.counting.of(line.side);
            counting == Counting::Forbidden
                || counting == Counting::Header && self.lines.iter().all(|line| line.ran.is_none())
        })
    }
}

impl Coverage {
    /// Nothing was counted.
    pub fn none(why: Unavailable) -> Self {
        Self { none: Some(why), ..Self::default() }
    }

    /// The number of changed lines that ran, and of all changed lines that carry code.
    pub fn lines(&self) -> (usize, usize) {
        let ran = self.files.iter().flat_map(|file| &file.lines).filter_map(|line| line.ran.as_ref());
        ran.fold((0, 0), |(ran, all), this| (ran + usize::from(this.times > 0), all + 1))
    }

    /// Whether `side` has changed lines that never ran. Another trial may run them.
    pub fn lacks(&self, side: Side) -> bool {
        let lines = self.files.iter().flat_map(|file| &file.lines).filter(|line| line.side == side);
        lines.filter_map(|line| line.ran.as_ref()).any(|ran| ran.times == 0)
    }

    /// The changed lines that never ran, such as `mm/slub.c:12,14-16`. A `-` marks lines that the
    /// patch removes.
    pub fn not_reached(&self) -> Vec<String> {
        let left_out = self.files.iter().filter(|file| file.is_left_out());
        let left_out = left_out.map(|file| format!("{}, which this config does not build", file.path));
        left_out.chain(self.places(|ran| ran.times == 0 && !ran.is_unknown)).collect()
    }

    /// The changed lines of which it is not known whether they ran.
    pub fn maybe_reached(&self) -> Vec<String> {
        self.places(|ran| ran.is_unknown)
    }

    /// Why that is not known of some lines, in words.
    pub fn why_unknown(&self) -> &'static str {
        if self.cut == Sides::default() {
            "the counters were read while the guest ran, and contradict each other"
        } else {
            "counted trials panicked or hung"
        }
    }

    /// The changed lines of which this holds.
    fn places(&self, holds: impl Fn(&Executed) -> bool) -> Vec<String> {
        let mut all = Vec::new();
        for file in self.files.iter().filter(|file| !file.is_left_out()) {
            for (side, sign) in [(Side::Before, "-"), (Side::After, "")] {
                let is_one = |line: &&ChangedLine| line.side == side && line.ran.as_ref().is_some_and(&holds);
                let lines: Vec<u32> = file.lines.iter().filter(is_one).map(|line| line.line).collect();
                if !lines.is_empty() {
                    all.push(format!("{}:{sign}{}", file.path, ranges(&lines)));
                }
            }
        }
        all
    }

    /// If changed code never ran, or if that is not known, the trials do not show that the patch
    /// changes nothing.
    pub fn weight(&self) -> Weight {
        let (missed, unknown) = (self.not_reached(), self.maybe_reached());
        match (missed.as_slice(), unknown.as_slice()) {
            ([], []) => Weight::Nothing,
            ([], unknown) => Weight::Unproven(format!(
                "not known whether they ran, as {}: {}",
                self.why_unknown(),
                unknown.join(", ")
            )),
            (missed, _) => Weight::Unproven(format!("not reached: {}", missed.join(", "))),
        }
    }
}

/// Formats line numbers as `12,14-16`.
fn ranges(lines: &[u32]) -> String {
    let mut text = String::new();
    for run in lines.chunk_by(|a, b| a + 1 == *b) {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = match run {
            [one] => write!(text, "{comma}{one}"),
            [first, .., last] => write!(text, "{comma}{first}-{last}"),
            [] => Ok(()),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Judgement, Verdict};
    use crate::coverage::{Function, changed};

    const BEFORE: &str = "void f(void)\n{\n\tlock();\n\twork();\n}\n\nvoid g(void)\n{\n\twork();\n}\n";
    const AFTER: &str = "void f(void)\n{\n\twork();\n}\n\nvoid g(void)\n{\n\t/* why */\n\tif (odd)\n\t\tgive_up();\n\twork();\n}\n";

    fn counts(lines: &[(u32, u64)], functions: [(&str, u32, u32, u64); 2]) -> LineCounts {
        let function = |(name, start, end, entered): (&str, _, _, _)| {
            (name.to_owned(), Function { start, end, entered })
        };
        LineCounts {
            lines: lines.iter().copied().collect(),
            functions: functions.into_iter().map(function).collect(),
            ..LineCounts::default()
        }
    }

    /// `f` ran four times before, three of them during an unplug. `g` ran twice after, and never
    /// gave up.
    fn file(gave_up: u64) -> FileCoverage {
        with(gave_up, false)
    }

    /// The same, if an after trial may have panicked.
    fn with(gave_up: u64, is_cut: bool) -> FileCoverage {
        let before = [(1, 4), (3, 4), (4, 4), (7, 0), (9, 0)];
        let unplug = counts(&[(3, 3)], [("f", 1, 5, 3), ("g", 7, 10, 0)]);
        let sides = Sides {
            before: SideCounts {
                all: counts(&before, [("f", 1, 5, 4), ("g", 7, 10, 0)]),
                boot: counts(&[(3, 1)], [("f", 1, 5, 1), ("g", 7, 10, 0)]),
                during: vec![(vec!["offline cpu".into(), "unplug dimm".into()], unplug)],
                is_cut: false,
            },
            after: SideCounts {
                all: counts(
                    &[(1, 4), (3, 4), (6, 2), (9, 2), (10, gave_up), (11, 2)],
                    [("f", 1, 4, 4), ("g", 6, 12, 2)],
                ),
                is_cut,
                ..SideCounts::default()
            },
        };
        let counting = Sides { before: Counting::Counted, after: Counting::Counted };
        FileCoverage::new("mm/a.c".into(), counting, changed(BEFORE, AFTER), &sides)
    }

    fn of(files: Vec<FileCoverage>) -> Coverage {
        Coverage { none: None, trials: Sides { before: 1, after: 1 }, cut: Sides::default(), files }
    }

    #[test]
    fn counters_that_contradict_each_other_are_no_panic() {
        let reason = "not known whether they ran, as the counters were read while the guest ran, and contradict each other: mm/a.c:10";
        let weighed = weighed(&of(vec![with(0, true)]), Verdict::Unchanged);
        assert_eq!(weighed, (Verdict::Inconclusive, reason.to_owned()));
    }

    fn weighed(coverage: &Coverage, verdict: Verdict) -> (Verdict, String) {
        let mut judgement =
            Judgement { verdict: Some(verdict), reason: "0 new".into(), ..Judgement::default() };
        judgement.weigh(coverage.weight());
        (judgement.verdict.unwrap(), judgement.reason)
    }

    #[test]
    fn lines_and_functions_are_told_with_their_operations() {
        let file = file(0);
        let line = |side, line| file.lines.iter().find(|l| (l.side, l.line) == (side, line)).unwrap();
        let removed = line(Side::Before, 3).ran.as_ref().unwrap();
        assert_eq!((removed.times, removed.boot), (4, 1));
        let during = [("offline cpu".to_owned(), 3), ("unplug dimm".to_owned(), 3)];
        assert_eq!(removed.during, during.into());
        // A comment carries no code.
        assert_eq!(line(Side::After, 8).ran, None);
        assert_eq!(line(Side::After, 10).ran.as_ref().unwrap().times, 0);
        let names: Vec<_> = file.functions.keys().map(String::as_str).collect();
        assert_eq!(names, ["f", "g"]);
        assert_eq!(file.functions["f"].after.as_ref().unwrap().times, 4);
        assert_eq!(of(vec![file]).lines(), (2, 3));
    }

    #[test]
    fn what_never_ran_is_not_called_unchanged() {
        let missed = of(vec![file(0)]);
        assert!(missed.lacks(Side::After) && !missed.lacks(Side::Before));
        assert_eq!(
            weighed(&missed, Verdict::Unchanged),
            (Verdict::Inconclusive, "not reached: mm/a.c:10".to_owned())
        );
        for verdict in [Verdict::Regressed, Verdict::Fixed] {
            assert_eq!(weighed(&missed, verdict), (verdict, "0 new".to_owned()));
        }
        let all = of(vec![file(1)]);
        assert!(!all.lacks(Side::After));
        assert_eq!(weighed(&all, Verdict::Unchanged), (Verdict::Unchanged, "0 new".to_owned()));
        let none = Coverage::none(Unavailable::because("given as an image"));
        assert_eq!(weighed(&none, Verdict::Unchanged).0, Verdict::Unchanged);
    }

    #[test]
    fn what_a_panic_took_along_is_not_known() {
        let cut = Coverage { cut: Sides { before: 0, after: 1 }, ..of(vec![with(0, true)]) };
        assert!(cut.not_reached().is_empty() && cut.lacks(Side::After));
        assert_eq!(cut.maybe_reached(), ["mm/a.c:10"]);
        let reason = "not known whether they ran, as counted trials panicked or hung: mm/a.c:10";
        assert_eq!(weighed(&cut, Verdict::Unchanged), (Verdict::Inconclusive, reason.to_owned()));
        assert_eq!(weighed(&cut, Verdict::Regressed).0, Verdict::Regressed);
        // Lines that ran are known to have run.
        assert_eq!(cut.lines(), (2, 3));
        assert!(of(vec![with(1, true)]).maybe_reached().is_empty());
    }

    #[test]
    fn a_file_that_is_not_built_never_ran() {
        let counts = Sides { before: SideCounts::default(), after: SideCounts::default() };
        let with = |counting| {
            let counting = Sides { before: counting, after: counting };
            FileCoverage::new("mm/a.c".into(), counting, changed(BEFORE, AFTER), &counts)
        };
        let left_out = of(vec![with(Counting::NotBuilt)]);
        let reason = weighed(&left_out, Verdict::Unchanged).1;
        assert_eq!(reason, "not reached: mm/a.c, which this config does not build");
        // Comments that are not built are no loss of coverage.
        let both = Sides { before: Counting::NotBuilt, after: Counting::NotBuilt };
        let comment = changed("a();\n", "/*\n * why\n */\n\na();\n");
        let file = FileCoverage::new("mm/a.c".into(), both, comment, &counts);
        assert!(of(vec![file]).not_reached().is_empty());
        // Whether the first two ran is unknown. Documentation does not run.
        for (counting, is_unknown) in
            [(Counting::Forbidden, true), (Counting::Header, true), (Counting::NotC, false)]
        {
            let file = with(counting);
            assert_eq!(file.is_unknown(), is_unknown, "{counting:?}");
            assert_eq!(weighed(&of(vec![file]), Verdict::Unchanged).0, Verdict::Unchanged);
        }
    }

    #[test]
    fn lines_are_named_in_ranges() {
        assert_eq!(ranges(&[12]), "12");
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3,7,9-10");
    }
}

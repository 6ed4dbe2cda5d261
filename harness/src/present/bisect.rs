//! The screen of a bisection: a row for each test, then the suspected revisions.

use std::fmt::Write;
use std::path::Path;

use super::{duration, host_line};
use crate::bisect::{BisectResult, Bisecting, Bisection, Suspected, Test};
use crate::record::HostRecord;
use crate::text::harmless;

/// The lines that are printed while a bisection runs.
pub fn bisecting(bisecting: &Bisecting<'_>) -> String {
    match bisecting {
        Bisecting::Begins { source, revisions, called, head: of } => {
            head(source, *revisions, called, &of.host)
        }
        Bisecting::Tested { name, test, bisection } => row(name, test, bisection),
        Bisecting::Suspected { suspected: of, names, bisection } => {
            suspected(of, |at| names[at].clone(), bisection)
        }
    }
}

/// Width of the revision's column, in characters.
const NAME: usize = 58;

/// The request, and the head of the table.
pub fn head(source: &str, revisions: usize, called: &str, host: &HostRecord) -> String {
    format!("hotplug bisect   {source}, {revisions} revisions\n{}\n\n{}\n", host_line(host), sought(called))
}

/// The head of the table.
pub fn sought(called: &str) -> String {
    format!("{:<NAME$}  {:<17} suspects\n", harmless(&format!("\"{called}\""), NAME), "trials")
}

/// A test that ended.
pub fn row(name: &str, test: &Test, bisection: &Bisection) -> String {
    let mut out = String::new();
    let came = match &test.cannot {
        Some(_) => "cannot be tried".to_owned(),
        None => format!("{} of {} show it", test.hits, test.hits + test.clean),
    };
    let left = bisection.likely().len();
    let _ = writeln!(
        out,
        "{:<NAME$}  {came:<17} one of {left}, {:.0} % of trials show it",
        harmless(name, NAME),
        bisection.rate() * 100.0
    );
    if let Some(why) = test.cannot.as_deref().and_then(|why| why.lines().next()) {
        let _ = writeln!(out, "    {}", harmless(why, 100));
    }
    out
}

/// The suspected revisions. `name` returns the name of a revision.
pub fn suspected(suspected: &Suspected, name: impl Fn(usize) -> String, bisection: &Bisection) -> String {
    let weights = bisection.posterior();
    let mut out = String::from("\n");
    let percent = |at: usize| weights[at] * 100.0;
    match suspected.revisions.as_slice() {
        [] => {
            let _ =
                writeln!(out, "undecided the report comes and goes: no single revision explains the trials");
        }
        [0] if suspected.decided => {
            let _ = writeln!(
                out,
                "not here  the good end has it itself, at {:.1} %: {}",
                percent(0),
                harmless(&name(0), 80)
            );
        }
        [one] if suspected.decided => {
            let _ = writeln!(out, "found     {}   {:.1} %", harmless(&name(*one), 90), percent(*one));
        }
        several => {
            let sum = suspected.probability * 100.0;
            let _ = writeln!(
                out,
                "undecided one of {}, {sum:.1} % together; no further trials can distinguish them:",
                several.len()
            );
            for one in several.iter().take(10) {
                let _ = writeln!(out, "          {:>5.1} %  {}", percent(*one), harmless(&name(*one), 80));
            }
        }
    }
    if let Some(title) = &suspected.title {
        let _ = writeln!(out, "as        {}", harmless(title, 100));
    }
    let _ = writeln!(
        out,
        "rate      {:.1} % of trials show it; {} clean ones make a revision good at {:.0} %",
        suspected.rate * 100.0,
        bisection.clean_trials(),
        bisection.confidence() * 100.0
    );
    out
}

/// The cost of the bisection, and the location of its result. `folder` is the folder of the
/// bisection.
pub fn totals(result: &BisectResult, folder: &Path) -> String {
    let kernels = result.tests.iter().filter(|test| test.build_seconds.is_some()).count();
    let trials: u32 = result.tests.iter().map(|test| test.hits + test.clean).sum();
    format!(
        "cost      kernels built: {kernels}; {trials} trials in {} tests; {} in all\nresult    {}/bisect.json\n",
        result.tests.len(),
        duration(result.seconds),
        folder.display()
    )
}

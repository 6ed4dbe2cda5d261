//! Kernels that really misbehave. `guest-images/patches/provoke` has a kernel do one thing wrong,
//! and the reader must find the report on the console, with the right kind and with the signature
//! that the fixture of an earlier boot has.
//!
//! Each point, which is one way to misbehave, is a test: `provoked::circular`. Points that a
//! watchdog reports after many seconds, and points that need the kernel of a sanitizer, are nightly
//! tests: `nightly_provoked::rcu-stall`, `nightly_kasan::oob-read`.
//!
//! `make fixtures` writes the fixtures again from the output of these kernels, including those of
//! the sanitizers. `make fixtures SOURCE=linux-source-6.12` takes another source. Read the
//! difference before you commit it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod gdb;
mod guest;
mod points;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use guest::Kernel;
use hotplug_kreport::symbols::Symbols;
use hotplug_kreport::{Kind, Report, scan};
use libtest_mimic::{Arguments, Failed, Trial};
use points::{KASAN_POINTS, KCSAN_POINTS, POINTS, Point};
use serde_json::{Value, json};

/// Lines of the boot that a fixture keeps before the kernel is provoked.
const LEAD: usize = 10;

/// Points whose report takes many seconds of the guest's time.
const FOR_THE_NIGHT: [&str; 7] = [
    "hung-task",
    "page-poison",
    "rcu-stall",
    "rcu-stall-expedited",
    "soft-lockup",
    "unregister-netdevice",
    "workqueue-lockup",
];

/// A kernel and its points.
struct Suite {
    /// Prefix of the names of its tests.
    tests: &'static str,
    /// Prefix of the names of its fixtures, after the kernel's series.
    fixtures: &'static str,
    /// Config fragments over base.config.
    fragments: &'static [&'static str],
    points: &'static [Point],
}

static SUITES: [Suite; 3] = [
    Suite { tests: "provoked", fixtures: "", fragments: &["provoke.config"], points: POINTS },
    Suite {
        tests: "nightly_kasan",
        fixtures: "kasan-",
        fragments: &["provoke.config", "provoke-kasan.config"],
        points: KASAN_POINTS,
    },
    Suite {
        tests: "nightly_kcsan",
        fixtures: "kcsan-",
        fragments: &["provoke.config", "provoke-kcsan.config"],
        points: KCSAN_POINTS,
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tests = SUITES.iter().flat_map(|suite| {
        let test = move |point: &'static Point| {
            let is_slow = FOR_THE_NIGHT.contains(&point.name) && !suite.tests.starts_with("nightly_");
            let night = if is_slow { "nightly_" } else { "" };
            Trial::test(format!("{night}{}::{}", suite.tests, point.name), move || {
                let wrong = suite.run(point);
                if wrong.is_empty() { Ok(()) } else { Err(Failed::from(wrong.join("\n"))) }
            })
        };
        suite.points.iter().map(test)
    });
    let fixtures = Trial::test("fixtures::each-point-has-one", each_point_has_a_fixture);
    libtest_mimic::run(&arguments, tests.chain([fixtures]).collect()).exit_code()
}

/// The fixtures of 6.1 have the reports of their points, including those of nightly kernels.
fn each_point_has_a_fixture() -> Result<(), Failed> {
    let mut wrong = Vec::new();
    for suite in &SUITES {
        for point in suite.points {
            let log = fixture(&format!("provoked-6.1-{}{}", suite.fixtures, point.name), "log");
            match std::fs::read(&log) {
                Ok(text) if kinds(&scan(&text)) == point.kinds((6, 1)) => (),
                Ok(text) => wrong.push(format!("{}: {:?}", log.display(), kinds(&scan(&text)))),
                Err(error) => wrong.push(format!("{}: {error}", log.display())),
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

impl Suite {
    /// Runs a point. Returns a line for each thing that is wrong.
    fn run(&self, point: &Point) -> Vec<String> {
        let kernel = Kernel::with(self.fragments);
        let log = kernel.provoke(point);
        let (major, minor) = kernel.series;
        let asked = Asked {
            name: format!("provoked-{major}.{minor}-{}{}", self.fixtures, point.name),
            point,
            kinds: point.kinds(kernel.series),
        };
        let mut wrong = if std::env::var_os("HOTPLUG_WRITE_FIXTURES").is_some() {
            asked.write(&log)
        } else {
            asked.judge(&kernel, &log)
        };
        let symbols = Symbols::open(&kernel.vmlinux).unwrap();
        let unresolved = scan(&log).into_iter().find_map(|report| unresolved(&symbols, report));
        wrong.extend(unresolved.map(|why| format!("{}: {why}", asked.name)));
        wrong
    }
}

/// A point, and its expected reports.
struct Asked<'a> {
    /// Name of its fixtures.
    name: String,
    point: &'a Point,
    kinds: &'static [Kind],
}

impl Asked<'_> {
    /// Returns what is wrong with a boot. Where a stalled task is when the watchdog samples it, and
    /// which of two CPUs is first, is chance. So a boot that differs is accepted if two others are
    /// right.
    fn judge(&self, kernel: &Kernel, log: &[u8]) -> Vec<String> {
        let mut wrong = self.check(log);
        if !wrong.is_empty() {
            let others = [(); 2].map(|()| self.check(&kernel.provoke(self.point)));
            if others.iter().all(Vec::is_empty) {
                eprintln!("once of three boots: {}", wrong.join("\n"));
                wrong.clear();
            }
        }
        wrong
    }

    /// Compares the reports of a boot with those of its point, and with the fixture of an earlier
    /// boot.
    fn check(&self, log: &[u8]) -> Vec<String> {
        let name = &self.name;
        let reports = scan(log);
        let mut wrong = Vec::new();
        if kinds(&reports) != self.kinds {
            let mut text = format!("{name}: {:?}, not {:?}", kinds(&reports), self.kinds);
            for report in &reports {
                let _ = write!(text, "\n    {}", report.title);
            }
            wrong.push(text);
        }
        let cut = |report: &&Report| report.corrupted.is_some();
        wrong.extend(reports.iter().find(cut).map(|report| format!("{name}: corrupted: {}", report.title)));
        let Ok(text) = std::fs::read_to_string(fixture(name, "json")) else { return wrong };
        let expected: Value = serde_json::from_str(&text).unwrap();
        let mut keys: Vec<_> =
            expected["reports"].as_array().unwrap().iter().map(|report| report["key"].clone()).collect();
        let mut now: Vec<_> = reports.iter().map(|report| json!(report.signature.key)).collect();
        keys.dedup();
        now.dedup();
        if keys != now {
            wrong.push(format!("{name}: signed {now:?}, in another boot {keys:?}"));
        }
        wrong
    }

    /// Writes the fixture: the log from shortly before the point on, and the reports in it.
    fn write(&self, log: &[u8]) -> Vec<String> {
        let name = &self.name;
        let text = String::from_utf8_lossy(log).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        let start = lines.iter().position(|line| line.contains("provoke: ")).unwrap_or(lines.len());
        // held-at-user-return runs in PID 1 and prints no such line.
        let start =
            if start == lines.len() { lines.len().saturating_sub(60) } else { start.saturating_sub(LEAD) };
        let trimmed = lines[start..].join("\n") + "\n";
        let reports = scan(trimmed.as_bytes());
        let expected: Vec<Value> = reports
            .iter()
            .map(|report| {
                let mut value = json!({ "kind": report.kind, "key": report.signature.key });
                if let Some(blame) = &report.blame {
                    value["blame"] = json!(blame);
                }
                if let Some(panic) = &report.panic {
                    value["panic"] = json!(panic);
                }
                value
            })
            .collect();
        let source = format!("lib/provoke.c (guest-images/patches/provoke), `provoke={}`", self.point.name);
        let json = json!({ "source": source, "reports": expected });
        std::fs::write(fixture(name, "log"), &trimmed).unwrap();
        std::fs::write(fixture(name, "json"), format!("{json:#}\n")).unwrap();
        // If the boot itself had a report, the fixture would lack it.
        if kinds(&scan(log)) == kinds(&reports) { self.check(trimmed.as_bytes()) } else { self.check(log) }
    }
}

/// The kernel's vmlinux gives file and line of each reliable frame.
fn unresolved(symbols: &Symbols, mut report: Report) -> Option<String> {
    symbols.resolve(&mut report);
    let bare: Vec<_> = report
        .frames
        .iter()
        .filter(|frame| frame.reliable && frame.size.is_some() && frame.source.is_none())
        // Assembly has no line information of its own, and there are several clones by the compiler
        // of one name and size.
        .filter(|frame| {
            let name = &frame.function;
            !name.starts_with("ret_from_fork") && !name.starts_with("asm_") && !name.contains(".constprop")
        })
        .map(|frame| frame.function.clone())
        .collect();
    (!bare.is_empty()).then(|| format!("no source lines for {bare:?}"))
}

/// Kinds of the reports. Repetitions count once, because the number of repetitions of a stall
/// depends on time.
fn kinds(reports: &[Report]) -> Vec<Kind> {
    let mut all: Vec<_> = reports.iter().map(|report| (report.kind, &report.signature)).collect();
    all.dedup();
    all.into_iter().map(|(kind, _)| kind).collect()
}

fn fixture(name: &str, ending: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kreport/tests/fixtures");
    folder.join(format!("{name}.{ending}"))
}

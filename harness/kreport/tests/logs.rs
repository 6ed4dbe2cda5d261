//! Tests of the reader of kernel reports on whole logs: fixtures with their expected reports, and
//! properties of any log.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hotplug_kreport::{Kind, Remainder, Report, Scanner, scan};
use proptest::prelude::*;
use serde::Deserialize;

/// The content of a fixture's `.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// The kernel file that prints it, or the origin of the log.
    source: String,
    reports: Vec<Expected>,
    /// The numbers of reports that are seen and do not count, by reason.
    #[serde(default)]
    left_out: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    kind: Kind,
    blame: Option<String>,
    key: Option<String>,
    source: Option<String>,
    detail: Option<String>,
    panic: Option<String>,
    corrupted: Option<String>,
    stacks: Option<usize>,
    container: Option<String>,
    quoted: Option<bool>,
    wrapped: Option<bool>,
}

fn fixtures() -> Vec<(PathBuf, Vec<u8>, Fixture)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let log = fs::read(&path).unwrap();
            let json = fs::read_to_string(path.with_extension("json")).unwrap();
            let fixture =
                serde_json::from_str(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, log, fixture)
        })
        .collect()
}

fn differences(report: &Report, expected: &Expected) -> Vec<String> {
    let corrupted =
        report.corrupted.map(|why| serde_json::to_value(why).unwrap().as_str().unwrap().to_owned());
    let mut wrong = Vec::new();
    let mut check = |name: &str, want: &Option<String>, has: &Option<String>| {
        if want.is_some() && want != has {
            wrong.push(format!("{name} is {has:?}, not {want:?}"));
        }
    };
    check("kind", &Some(expected.kind.name().to_owned()), &Some(report.kind.name().to_owned()));
    check("blame", &expected.blame, &report.blame);
    check("key", &expected.key, &Some(report.signature.key.clone()));
    check("source", &expected.source, &report.source);
    check("detail", &expected.detail, &report.detail);
    check("panic", &expected.panic, &report.panic);
    check("container", &expected.container, &Some(report.excerpt.container.to_string()));
    check("quoted", &expected.quoted.map(|is| is.to_string()), &Some(report.excerpt.quoted.to_string()));
    check("wrapped", &expected.wrapped.map(|is| is.to_string()), &Some(report.excerpt.wrapped.to_string()));
    if expected.corrupted != corrupted {
        wrong.push(format!("corrupted is {corrupted:?}, not {:?}", expected.corrupted));
    }
    if let Some(stacks) = expected.stacks
        && stacks != report.stacks.len()
    {
        wrong.push(format!("{} further stacks, not {stacks}", report.stacks.len()));
    }
    wrong
}

#[test]
fn fixtures_give_the_expected_reports() {
    let mut wrong = Vec::new();
    for (path, log, fixture) in fixtures() {
        let mut scanner = Scanner::new();
        scanner.feed(&log);
        let Remainder { reports, left_out, .. } = scanner.finish_with_rest();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let left_out: BTreeMap<String, u64> = left_out
            .iter()
            .map(|left| (serde_json::to_value(left.reason).unwrap().as_str().unwrap().to_owned(), left.count))
            .collect();
        if left_out != fixture.left_out {
            wrong.push(format!("{name}: leaves out {left_out:?}, not {:?}", fixture.left_out));
        }
        if reports.len() != fixture.reports.len() {
            let titles: Vec<_> = reports.iter().map(|report| &report.title).collect();
            wrong.push(format!(
                "{name}: {} reports, not {}: {titles:?}",
                reports.len(),
                fixture.reports.len()
            ));
        }
        for (report, expected) in reports.iter().zip(&fixture.reports) {
            wrong.extend(differences(report, expected).into_iter().map(|what| format!("{name}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn fixtures_cover_the_kinds() {
    let all = fixtures();
    let negatives = all.iter().filter(|(_, _, fixture)| fixture.reports.is_empty()).count();
    assert!(all.len() >= 120 && negatives >= 40, "{} fixtures, {negatives} negatives", all.len());
    assert!(all.iter().all(|(_, _, fixture)| !fixture.source.is_empty()));
    for kind in Kind::ALL {
        let has = all.iter().any(|(_, _, fixture)| fixture.reports.iter().any(|report| report.kind == *kind));
        assert!(has, "no fixture for {kind}");
    }
}

/// The parts of a report that a change to its surroundings must not affect.
fn identity(report: &Report) -> (Kind, String) {
    (report.kind, report.signature.key.clone())
}

#[test]
fn how_a_log_is_fed_changes_nothing() {
    for (path, log, _) in fixtures() {
        let whole = scan(&log);
        for step in [1, 7, 61, 500] {
            let mut scanner = Scanner::new();
            let mut reports = Vec::new();
            for chunk in log.chunks(step) {
                scanner.feed(chunk);
                reports.extend(scanner.drain());
            }
            reports.extend(scanner.finish());
            reports.sort_by_key(|report| *report.lines.start());
            assert_eq!(reports, whole, "{} in steps of {step}", path.display());
        }
    }
}

#[test]
fn a_cut_makes_no_new_report_before_it() {
    for (path, log, _) in fixtures() {
        // The last lines of a commit message tell what it is.
        if path.file_name().unwrap().to_string_lossy().starts_with("quiet-commit-") {
            continue;
        }
        let whole = scan(&log);
        for cut in (0..log.len()).step_by(37) {
            for report in scan(&log[..cut]) {
                let known = whole.iter().any(|other| other.lines.start() == report.lines.start());
                assert!(known, "{} cut at {cut}: {report:#?}", path.display());
            }
        }
    }
}

#[test]
fn two_logs_in_one_file_give_the_reports_of_both() {
    let all = fixtures();
    for pair in all.windows(2) {
        let [(one, first, _), (two, second, _)] = pair else { unreachable!() };
        // A text and a log in one file are neither.
        let is_text = |path: &Path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name.starts_with("paste-") || name.starts_with("quiet-")) && !name.starts_with("paste-kind-")
        };
        if is_text(one) || is_text(two) {
            continue;
        }
        // The written logs share their times. One event with one time is printed twice, so the
        // second log gets times of its own.
        let mut later = String::from_utf8_lossy(second).into_owned();
        for (from, to) in [("[  100.", "[  200."), (",100000", ",200000"), ("\"100000", "\"200000")] {
            later = later.replace(from, to);
        }
        let second = later.as_bytes();
        let joined = [first.as_slice(), second].concat();
        let mut expected: Vec<_> = scan(first).iter().chain(&scan(second)).map(identity).collect();
        let mut got: Vec<_> = scan(&joined).iter().map(identity).collect();
        // The second log's kernel starts in the middle of the joined one: this is a report of its
        // own.
        got.retain(|(kind, _)| *kind != Kind::Reboot);
        expected.retain(|(kind, _)| *kind != Kind::Reboot);
        assert_eq!(got, expected, "{} + {}", one.display(), two.display());
    }
}

#[test]
fn a_mailbox_gives_the_reports_of_its_mails() {
    let mut mailbox = Vec::new();
    let mut expected = Vec::new();
    let mails = fixtures().into_iter().filter(|(path, _, _)| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("paste-mail-") || name.starts_with("quiet-patch-")
    });
    for (_, log, _) in mails {
        expected.extend(scan(&log).iter().map(identity));
        mailbox.extend_from_slice(b"From dana@example.org Tue Jan 14 09:12:44 2025\n");
        mailbox.extend_from_slice(&log);
    }
    assert!(expected.len() > 15);
    assert_eq!(scan(&mailbox).iter().map(identity).collect::<Vec<_>>(), expected);
}

#[test]
fn times_and_callers_change_no_signature() {
    for (path, log, _) in fixtures() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Logs with several callers or other prefixes are left out.
        if name.starts_with("format-")
            || name.starts_with("mixed")
            || name.starts_with("negative")
            || name.starts_with("unexpected")
            // One line has two clocks, or two lines have one.
            || ["paste-glued.log", "paste-torn-name.log"].contains(&&*name)
            || name.starts_with("paste-twice")
            || name.starts_with("quiet-")
        {
            continue;
        }
        let text = String::from_utf8(log.clone()).unwrap();
        if !text.starts_with('[') {
            continue;
        }
        let bare: Vec<&str> = text
            .lines()
            .map(|line| {
                line.split_once("] ").filter(|_| line.starts_with('[')).map_or(line, |(_, rest)| rest)
            })
            .collect();
        let dressed: Vec<String> =
            bare.iter().enumerate().map(|(at, line)| format!("[{:5}.{:06}][  T77] {line}", 50, at)).collect();
        let plain: Vec<_> = scan(&log).iter().map(identity).collect();
        assert_eq!(
            scan(dressed.join("\n").as_bytes()).iter().map(identity).collect::<Vec<_>>(),
            plain,
            "{name}"
        );
    }
}

#[test]
fn a_hostile_line_is_bounded() {
    let mut scanner = Scanner::new();
    scanner.feed(b"[    1.000000] ");
    let piece = vec![b'['; 1 << 20];
    for _ in 0..100 {
        scanner.feed(&piece);
    }
    scanner.feed(b"\nWARNING: CPU: 0 PID: 1 at a.c:1 foo+0x1/0x2\nCall Trace:\n foo+0x1/0x2\n");
    assert_eq!(scanner.finish().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        scan(&bytes);
    }

    #[test]
    fn damaged_logs_are_read(which in 0..1000_usize, holes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let all = fixtures();
        let (_, log, _) = &all[which % all.len()];
        let mut log = log.clone();
        for (at, byte) in holes {
            if !log.is_empty() {
                let at = at.index(log.len());
                log[at] = byte;
            }
        }
        scan(&log);
    }
}

/// How people and programs change each line of a log, or the whole log, on its way to a reader.
type Reshaping = (&'static str, fn(&str) -> String);

fn each_line(text: &str, change: impl Fn(&str) -> String) -> String {
    text.lines().map(|line| change(line) + "\n").collect()
}

/// One line without a stack and without the kernel's clock: once it is quoted, nothing shows that it
/// is the kernel's.
const LONE_LINE: &str = "unregister-netdevice-2.log";

/// Only its first lines have the kernel's clock: once they are indented, the others look like the
/// output of a program.
const HALF_TIMED: &str = "format-none-1.log";

/// The break is inside the words that the scanner searches for, or in a line that is already two.
const BROKEN_WORDS: [&str; 3] =
    ["written-wdog-qcom-510-bark-panic.log", "paste-glued.log", "paste-kind-rcu-bare.log"];

/// Breaks lines at blanks as a mail client does.
fn wrap(text: &str, width: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut rest = line;
        while rest.len() > width
            && let Some(at) = rest.char_indices().take_while(|(at, _)| *at <= width).filter(|(_, c)| *c == ' ').last().map(|(at, _)| at)
            && !rest[..at].trim().is_empty()
            // A break inside the kernel's clock or behind it is the work of no client.
            && rest[..at].rfind(']').is_none_or(|end| end + 1 < at)
        {
            out += &rest[..at];
            out.push('\n');
            rest = rest[at..].trim_start();
        }
        out += rest;
        out.push('\n');
    }
    out
}

const RESHAPINGS: &[Reshaping] = &[
    ("indented by four", |text| each_line(text, |line| format!("    {line}"))),
    ("indented by a blank", |text| each_line(text, |line| format!(" {line}"))),
    ("indented by a tab", |text| each_line(text, |line| format!("\t{line}"))),
    ("quoted", |text| each_line(text, |line| format!("> {line}").trim_end().to_owned())),
    ("quoted twice", |text| each_line(text, |line| format!(">> {line}"))),
    ("quoted with a bar", |text| each_line(text, |line| format!("| {line}"))),
    ("in a mail", |text| {
        format!(
            "From: A <a@b.org>\nSubject: crash in foo\nDate: Mon, 3 Nov 2025 10:00:00 +0100\n\nHi,\n\nI get this:\n\n{text}\n\nThanks\n"
        )
    }),
    ("in a reply", |text| {
        let quoted = each_line(text, |line| format!("> > {line}"));
        format!(
            "From: A <a@b.org>\nSubject: Re: crash in foo\n\nOn Monday, B wrote:\n{quoted}\nCan you bisect this?\n"
        )
    }),
    ("in an issue", |text| {
        format!("### What happened\n\nThe machine hangs:\n\n```\n{text}```\n\n- [x] mainline\n")
    }),
    ("in a list of an issue", |text| {
        let listed = each_line(text, |line| format!("   {line}"));
        format!("1. Boot it\n2. It crashes:\n\n   ```console\n{listed}   ```\n")
    }),
    ("with carriage returns as two letters", |text| each_line(text, |line| format!("{line}^M"))),
];

#[test]
fn how_people_paste_a_log_changes_no_report() {
    let mut wrong = Vec::new();
    for (path, log, _) in fixtures() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Ok(text) = String::from_utf8(log) else { continue };
        if [LONE_LINE, HALF_TIMED].contains(&&*name)
            || name.starts_with("paste-")
            || name.starts_with("quiet-")
            || text.contains('\r')
            || text.contains('\0')
        {
            continue;
        }
        let plain: Vec<_> = scan(text.as_bytes()).iter().map(identity).collect();
        for (what, reshape) in RESHAPINGS {
            let changed: Vec<_> = scan(reshape(&text).as_bytes()).iter().map(identity).collect();
            if changed != plain {
                wrong.push(format!("{name} {what}: {changed:?}, not {plain:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_broken_line_changes_no_signature() {
    let mut wrong = Vec::new();
    for (path, log, _) in fixtures() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Ok(text) = String::from_utf8(log) else { continue };
        if !text.starts_with('[')
            || text.contains('\r')
            || name == LONE_LINE
            || BROKEN_WORDS.contains(&&*name)
        {
            continue;
        }
        let plain: Vec<_> = scan(text.as_bytes()).iter().map(identity).collect();
        for width in [72, 76, 80] {
            let changed: Vec<_> = scan(wrap(&text, width).as_bytes()).iter().map(identity).collect();
            if changed != plain {
                wrong.push(format!("{name} at {width}: {changed:?}, not {plain:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

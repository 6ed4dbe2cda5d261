//! Fuzzes the reader of kernel logs: any bytes, in any container, cause no panic and no hang, and the
//! result does not depend on how they are split into chunks.

#![no_main]

use hotplug_kreport::{
    Container, LeftOutReason, Remainder, Report, Scanner, draw_ring, fold, refusals_of, scan_own,
};
use libfuzzer_sys::fuzz_target;

/// What stands before each line, and before the log.
const CONTAINERS: [(&str, &str); 8] = [
    ("", ""),
    ("    ", ""),
    ("> ", "On Mon, A wrote:\n"),
    ("", "From: a@b.org\nSubject: crash\n\n"),
    ("", "From: a@b.org\nSubject: [PATCH] fix\n\n"),
    ("> ", "From: a@b.org\nSubject: Re: [PATCH] fix\n\n"),
    ("   ", "1. step\n\n   ```\n"),
    ("    ", "commit 0123456789abcdef0123456789abcdef01234567\nAuthor: A <a@b.org>\n\n"),
];

/// Everything that a scanner finds in chunks of a length.
fn scan_in(log: &[u8], step: usize) -> Remainder {
    let mut scanner = Scanner::new().with_refusals();
    let mut reports: Vec<Report> = Vec::new();
    for stretch in log.chunks(step.max(1)) {
        scanner.feed(stretch);
        reports.extend(scanner.drain());
    }
    let mut rest = scanner.finish_with_rest();
    reports.append(&mut rest.reports);
    reports.sort_by_key(|report| *report.lines.start());
    Remainder { reports, ..rest }
}

fuzz_target!(|data: &[u8]| {
    // The first bytes are the length of the chunks and the container, so that the fuzzer searches for
    // those that matter.
    let [step, container, body @ ..] = data else { return };
    let (mark, head) = CONTAINERS[usize::from(*container) % CONTAINERS.len()];
    let mut log = head.as_bytes().to_vec();
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        log.extend_from_slice(mark.as_bytes());
        log.extend_from_slice(line);
    }
    let whole = scan_in(&log, log.len());
    let pieces = scan_in(&log, usize::from(*step));
    assert_eq!(pieces.reports, whole.reports);
    assert_eq!(pieces.left_out, whole.left_out);
    assert_eq!(pieces.refusals, whole.refusals);

    let lines = log.split(|byte| *byte == b'\n').count() as u64;
    for report in &whole.reports {
        assert!(report.lines.start() <= report.lines.end() && *report.lines.end() <= lines, "{report:?}");
        assert!(!report.title.contains('\n') && report.signature.hash.len() == 12, "{report:?}");
        assert!(report.excerpt.quoted || report.excerpt.container == Container::Log, "{report:?}");
        serde_json::to_string(report).expect("a report is JSON");
        draw_ring(report);
    }
    let members: usize = fold(&whole.reports).iter().map(|bug| bug.members.len()).sum();
    assert_eq!(members, whole.reports.len());
    for refusal in whole.refusals.iter().flatten() {
        assert!(!refusal.reason.is_empty() && *refusal.lines.end() <= lines, "{refusal:?}");
    }
    assert!(whole.left_out.iter().all(|left| left.count > 0 && left.first_line <= lines));
    assert!(whole.left_out.iter().filter(|left| left.reason == LeftOutReason::SourceCode).count() <= 1);

    // A log of the kernel itself is never taken for a text that quotes one.
    for report in scan_own(&log) {
        assert!(!report.excerpt.quoted && !report.excerpt.wrapped, "{report:?}");
    }
    refusals_of(&log);
});

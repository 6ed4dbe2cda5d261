//! Fuzzes the reader of kernel logs: any bytes cause no panic and no hang, and the result does not
//! depend on how they are split into chunks.

#![no_main]

use hotplug_kreport::{Report, Scanner, draw_ring, fold, scan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The first byte is the length of the chunks, so that the fuzzer searches for a length that
    // matters.
    let Some((&step, log)) = data.split_first() else { return };
    let whole = scan(log);
    let mut scanner = Scanner::new();
    let mut pieces: Vec<Report> = Vec::new();
    for stretch in log.chunks(usize::from(step).max(1)) {
        scanner.feed(stretch);
        pieces.extend(scanner.drain());
    }
    pieces.extend(scanner.finish());
    pieces.sort_by_key(|report| *report.lines.start());
    assert_eq!(pieces, whole);

    let lines = log.split(|byte| *byte == b'\n').count() as u64;
    for report in &whole {
        assert!(report.lines.start() <= report.lines.end() && *report.lines.end() <= lines, "{report:?}");
        assert!(!report.title.contains('\n') && report.signature.hash.len() == 12, "{report:?}");
        serde_json::to_string(report).expect("a report is JSON");
        draw_ring(report);
    }
    let members: usize = fold(&whole).iter().map(|bug| bug.members.len()).sum();
    assert_eq!(members, whole.len());
});

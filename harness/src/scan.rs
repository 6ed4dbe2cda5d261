//! Reads a file of any kind as a kernel log. Silence about a file that is no kernel log would be
//! taken for a clean log, so such a file is an error.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::LazyLock;

use hotplug_kreport::{Remainder, Report, Scanner};
use regex::bytes::Regex;

use crate::unpack::unpacked;
use crate::{Error, Result};

/// Bytes of one read.
const CHUNK: usize = 256 * 1024;

/// Bytes of the end of a chunk that are searched again with the next one. No sign is longer.
const OVERLAP: usize = 256;

/// What only a kernel's log has.
static SIGN: LazyLock<Regex> = LazyLock::new(|| {
    let signs = [
        // A time in brackets: `print_time()` in kernel/printk/printk.c, dmesg(1) with --show-delta.
        r"\[ *\+?\d{1,19}\.\d{3,9}(?: <[^>\n]{1,24}>)? *\]",
        // With fewer decimals, only beside the caller (`print_caller()`) or on a line with a date.
        r"\[ *\d{1,19}\.\d{1,9} *\] ?\[ *[TC]\d{1,7} *\]",
        r"(?m:^)\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d[^\n]{0,120}\[ *(?:\d{1,19}\.\d{1,9}|[TC]\d{1,7}) *\]",
        // dmesg(1) with -T, with --time-format iso, and with -x
        r"\[\w{3} \w{3} +\d{1,2} \d\d:\d\d:\d\d \d{4}\]",
        r"(?m:^)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{6}[-+]",
        r"(?m:^)kern +:",
        // A level, and a record of `/dev/kmsg`.
        r"(?m:^)<\d{1,3}>",
        r"(?m:^)\d{1,3},\d{1,19},\d{1,19},[-c]",
        // The kernel's name in a syslog and in a journal.
        r"\bkernel(?:\[\d+\])?: ",
        r#""(?:_TRANSPORT|SYSLOG_IDENTIFIER)" ?: ?"kernel""#,
        // The first line of a boot.
        r"Linux version \d",
    ];
    Regex::new(&format!("(?-u){}", signs.join("|"))).expect("constants")
});

/// Files that are no text, by their first bytes (magic(5)), also if a kernel's words are in them.
const NO_TEXT: [(&[u8], &str); 11] = [
    (b"\x7fELF", "an ELF file"),
    (b"LPKSHHRH", "a journal of systemd; journalctl --file prints it"),
    (b"KDUMP", "a dump of memory"),
    (b"!<arch>\n", "an archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "packed with bzip2"),
    (b"\x02\x21\x4c\x18", "packed with lz4"),
    (b"\x04\x22\x4d\x18", "packed with lz4"),
    (b"%PDF-", "a PDF file"),
    (b"\x89PNG", "a picture"),
    (b"SQLite format 3", "a database"),
];

/// Scans `path`, or standard input for `-`, in bounded memory. gzip, xz and zstd are unpacked. `copy`
/// gets the unpacked content. Returns what is not in the reports.
///
/// Fails with a user error if the file cannot be read, or if it is no kernel log.
pub fn scan_file(
    path: &Path,
    mut scanner: Scanner,
    mut copy: Option<&mut File>,
    mut each: impl FnMut(Report) -> Result<()>,
) -> Result<Remainder> {
    let is_stdin = path.as_os_str() == "-";
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let cannot = |error: std::io::Error| Error::user(format!("cannot read {name}")).detail(error);
    let input: Box<dyn Read> = if is_stdin {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(path).map_err(cannot)?)
    };
    let mut input = unpacked(input).map_err(cannot)?;
    let mut kind = Kind::default();
    let mut chunk = vec![0; CHUNK];
    let mut reports = 0_u64;
    let mut count = |report: Report| {
        reports += 1;
        each(report)
    };
    loop {
        match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => {
                kind.add(&chunk[..length]);
                if kind.is_no_log() {
                    break;
                }
                if let Some(copy) = &mut copy {
                    copy.write_all(&chunk[..length])?;
                }
                scanner.feed(&chunk[..length]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot(error)),
        }
        scanner.drain().try_for_each(&mut count)?;
    }
    let mut rest = Remainder::default();
    if !kind.is_no_log() {
        rest = scanner.finish_with_rest();
        std::mem::take(&mut rest.reports).into_iter().try_for_each(&mut count)?;
    }
    // A text that quotes a log says something about the log.
    let told = reports + rest.left_out.iter().map(|left_out| left_out.count).sum::<u64>();
    match kind.why_not(told) {
        None => Ok(rest),
        Some(why) => Err(Error::user(format!("no kernel log in {name}: {why}")).help(
            "give what dmesg, journalctl, a serial console or a CI system printed; gzip, xz and zstd are unpacked",
        )),
    }
}

/// What is known of the kind of a file so far.
#[derive(Debug, Default)]
struct Kind {
    bytes: u64,
    /// The beginning of the file.
    start: Vec<u8>,
    /// The end of the chunk before.
    end: Vec<u8>,
    has_sign: bool,
    is_diff: bool,
}

impl Kind {
    fn add(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        // The format of a tar archive is at 257 (tar(5)).
        let room = 512_usize.saturating_sub(self.start.len());
        self.start.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if self.has_sign {
            return;
        }
        self.end.extend_from_slice(&chunk[..chunk.len().min(OVERLAP)]);
        self.has_sign = SIGN.is_match(chunk) || SIGN.is_match(&self.end);
        self.is_diff |= memchr::memmem::find(chunk, b"\n@@ -").is_some();
        self.end.clear();
        self.end.extend_from_slice(&chunk[chunk.len().saturating_sub(OVERLAP)..]);
    }

    fn no_text(&self) -> Option<&'static str> {
        let known = NO_TEXT.iter().find(|(magic, _)| self.start.starts_with(magic)).map(|(_, what)| *what);
        let is_tar = self.start.get(257..262) == Some(b"ustar");
        known.or(is_tar.then_some("a tar archive"))
    }

    fn is_page(&self) -> bool {
        let start = self.start.trim_ascii_start().to_ascii_lowercase();
        [&b"<!doctype html"[..], b"<html"].iter().any(|tag| start.starts_with(tag))
    }

    /// Whether it is no log whatever its lines are.
    fn is_no_log(&self) -> bool {
        self.no_text().is_some() || self.is_page()
    }

    /// Why the file is no kernel log. `None` if it is one.
    fn why_not(&self, reports: u64) -> Option<String> {
        let odd = |byte: &&u8| **byte < b' ' && !b"\t\n\r\x1b\x08\x0c".contains(byte);
        if self.bytes == 0 {
            Some("it is empty".into())
        } else if let Some(what) = self.no_text() {
            Some(format!("it is {what}"))
        } else if self.is_page() {
            Some("it is a page of HTML; save its text".into())
        } else if self.has_sign || reports > 0 {
            None
        } else if self.is_diff {
            Some("it is a diff".into())
        } else if self.start.iter().filter(odd).count() * 10 > self.start.len() {
            Some("it is a binary file".into())
        } else {
            Some("none of its lines is a kernel's".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of reports, or why the content is no kernel log.
    fn scanned(content: &[u8]) -> std::result::Result<u64, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
        let mut reports = 0;
        let scanned = scan_file(file.path(), Scanner::new(), None, |_| {
            reports += 1;
            Ok(())
        });
        scanned.map(|_| reports).map_err(|error| {
            assert_eq!(error.exit_status(), 2);
            let path = file.path().display().to_string();
            error.to_string().lines().next().unwrap_or_default().replace(&path, "FILE")
        })
    }

    const WARNING: &str = "WARNING: CPU: 0 PID: 1 at mm/x.c:1 foo+0x1/0x2\nCall Trace:\n bar+0x1/0x2\n";

    #[test]
    fn what_is_no_log_is_told() {
        let diff = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n";
        let mut tar = vec![0_u8; 1024];
        tar[257..262].copy_from_slice(b"ustar");
        tar.extend_from_slice(b"[    1.000000] hello\n");
        for (content, why) in [
            (&b""[..], "it is empty"),
            (diff, "it is a diff"),
            (b"\n<!DOCTYPE html>\n<pre>[    1.000000] x</pre>", "it is a page of HTML; save its text"),
            (b"\x7fELF\x02\x01\x01\0\0\0Linux version 6.1", "it is an ELF file"),
            (&tar, "it is a tar archive"),
            (&[0, 1, 2, 3, 200, 201, 0, 0], "it is a binary file"),
            (b"int main(void)\n{\n\treturn 0;\n}\n", "none of its lines is a kernel's"),
            (b"see [1.2] and [T1]: 99.5 [0.04]\n", "none of its lines is a kernel's"),
        ] {
            assert_eq!(scanned(content), Err(format!("no kernel log in FILE: {why}")));
        }
        assert!(scan_file(Path::new("/no/such"), Scanner::new(), None, |_| Ok(())).is_err());
    }

    #[test]
    fn logs_of_all_forms_are_logs() {
        for line in [
            "[    1.000000] hello",
            "[    1.234567 <    0.000012>] hello",
            "2026-11-03T10:00:00Z <6>[12345.678901][  T12] hello",
            "[    0.04 ][    T0 ] hello",
            "[12345678901234.567890] hello",
            "2023/05/04 19:31:26 [host]: [ 235.4] hello",
            "2026-11-03T10:00:00.123+01:00 host [ T3205] hello",
            "6,123,4567890,-;hello",
            "Nov  3 10:00:00 host kernel: hello",
            "kern  :info  : hello",
            "[Mon Nov  3 10:00:00 2025] hello",
            "2025-11-03T10:00:00,123456+01:00 hello",
            "{\"MESSAGE\":\"hello\",\"_TRANSPORT\":\"kernel\"}",
            "<6>hello",
            "Linux version 6.1.0 (a@b)",
        ] {
            assert_eq!(scanned(format!("Starting job\n{line}\n").as_bytes()), Ok(0), "{line}");
        }
        assert_eq!(scanned(WARNING.as_bytes()), Ok(1), "a report without any time");
        // A sign across the boundary of two reads.
        let mut split = vec![b'x'; CHUNK - 6];
        split.extend_from_slice(b"\n[    1.000000] hello\n");
        assert_eq!(scanned(&split), Ok(0));
    }
}

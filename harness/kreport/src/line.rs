//! Separates the kernel's text in a line from the prefixes of consoles, syslog, the journal and CI
//! systems.

use std::borrow::Cow;

use serde::Deserialize;

use super::prefix::{self, Caller, number, timestamp};
use super::quote::{self, Quote, Strip};

/// Bytes of a line that are read. The rest of a longer line is dropped as it arrives.
pub(super) const LIMIT: usize = 16 * 1024;

/// Bytes of a skipped line that are examined if the next line may begin a report. A line of the
/// journal's JSON that holds a banner has some 300.
pub(super) const GLANCE: usize = 1024;

/// A parsed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a prefix")]
pub(super) struct Line<'a> {
    /// The kernel's text, with its indentation.
    pub text: &'a [u8],
    /// Microseconds since boot.
    pub time: Option<u64>,
    /// The context that printed the line.
    pub caller: Option<Caller>,
    /// Sequence number, for /dev/kmsg records.
    pub seq: Option<u64>,
    /// A program printed the line, not the kernel, according to the syslog tag or the `/dev/kmsg`
    /// facility.
    pub user: bool,
    /// The line has a known prefix, so it comes from the log of the kernel or of a CI system.
    pub prefixed: bool,
    /// A syslog daemon or the journal wrote the line. They miss the kernel's last messages.
    pub syslog: bool,
    /// The line is a `/dev/kmsg` record, in which newlines are escaped.
    pub record: bool,
    /// The marks that were removed from the start of the line.
    pub quote: Quote,
}

/// Removes carriage returns, ANSI colours, NUL bytes, and the `^M` of programs that print a carriage
/// return as two letters.
pub(super) fn clean(raw: &[u8]) -> Cow<'_, [u8]> {
    let mut raw = raw;
    while let [head @ .., b'\r' | b'\n' | 0] | [head @ .., b'^', b'M'] = raw {
        raw = head;
    }
    // A byte order mark may begin a file.
    while let [b'\r' | 0, tail @ ..] | [0xef, 0xbb, 0xbf, tail @ ..] = raw {
        raw = tail;
    }
    if memchr::memchr3(0x1b, 0, b'\r', raw).is_none() && memchr::memchr(0xa0, raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            // CSI: parameters, then one byte from '@' to '~' (ECMA-48). The name of a task may hold
            // an escape byte by itself, so only digits and separators count as parameters.
            (0x1b, [b'[', params @ ..]) => {
                let end = params.iter().take_while(|b| b.is_ascii_digit() || b";?".contains(b)).count();
                if params.get(end).is_some_and(u8::is_ascii_alphabetic) {
                    rest = &params[end + 1..];
                }
            }
            (0x1b | 0 | b'\r', _) => {}
            // Browsers copy blanks as no-break spaces.
            (0xc2, [0xa0, tail @ ..]) => {
                out.push(b' ');
                rest = tail;
            }
            _ => out.push(*byte),
        }
    }
    Cow::Owned(out)
}

impl<'a> Line<'a> {
    /// Parses a cleaned line.
    pub(super) fn parse(raw: &'a [u8]) -> Line<'a> {
        let mut line = Line {
            text: raw,
            time: None,
            caller: None,
            seq: None,
            user: false,
            prefixed: false,
            syslog: false,
            record: false,
            quote: Quote::default(),
        };
        if line.take_kmsg() {
            return line;
        }
        // Prefixes come in any order and number: "<4>", dates, host and tag, the columns of dmesg.
        for _ in 0..8 {
            if line.take_time() {
                line.take_callers();
                return line;
            }
            if !line.take_prefix() {
                break;
            }
        }
        // syslog may have dropped the kernel's clock and kept the caller.
        if line.prefixed && line.take_caller() {
            line.text = prefix::one_space(line.text);
            return line;
        }
        line.find_time();
        line
    }

    /// `6,339,5140900,-,caller=T1;text`, Documentation/ABI/testing/dev-kmsg.
    fn take_kmsg(&mut self) -> bool {
        if !self.text.first().is_some_and(u8::is_ascii_digit) {
            return false;
        }
        let Some(end) = memchr::memchr(b';', &self.text[..self.text.len().min(120)]) else { return false };
        let mut fields = self.text[..end].split(|b| *b == b',');
        let (Some(prio), Some(seq), Some(time), Some(_)) = (
            fields.next().and_then(number),
            fields.next().and_then(number),
            fields.next().and_then(number),
            fields.next(),
        ) else {
            return false;
        };
        for field in fields {
            if let Some(caller) = field.strip_prefix(b"caller=") {
                self.caller = prefix::caller_id(caller);
            }
        }
        self.user = prio >> 3 != 0;
        self.seq = Some(seq);
        self.time = Some(time);
        self.record = true;
        self.text = &self.text[end + 1..];
        true
    }

    /// `[    1.234567] `. The kernel prints six decimals; dmesg and other programs print fewer or
    /// more.
    fn take_time(&mut self) -> bool {
        if let Some(rest) = prefix::delta(self.text) {
            self.prefixed = true;
            self.text = rest;
            return true;
        }
        let Some((time, rest)) = timestamp(self.text) else { return false };
        self.time = Some(time);
        self.text = rest;
        true
    }

    /// Removes the prefixes after the time: `[   T12]`, `[    C0]`, Android's `c0 12 `, and the one
    /// space before the text.
    fn take_callers(&mut self) {
        self.take_caller();
        let rest = self.text;
        // journalctl -o short-monotonic puts host and tag after the time. Some relays repeat the
        // time or the caller after that.
        if let Some((tail, false)) = prefix::syslog(rest.strip_prefix(b" ").unwrap_or(rest)) {
            self.text = timestamp(tail).map_or(tail, |(_, tail)| prefix::one_space(tail));
            self.take_caller();
            self.text = self.text.strip_prefix(b" ").unwrap_or(self.text);
            return;
        }
        if let Some(tail) = prefix::android_cpu(rest) {
            self.text = tail;
        } else if let Some((pid, tail)) = prefix::mediatek_task(rest) {
            self.caller = Some(Caller::Task(pid));
            self.text = tail;
            return;
        }
        self.text = self.text.strip_prefix(b" ").unwrap_or(self.text);
    }

    /// Removes the id of the caller. Returns false if there is none.
    fn take_caller(&mut self) -> bool {
        let Some((caller, rest)) = prefix::bracketed_caller(self.text) else { return false };
        self.caller = Some(caller);
        self.text = rest;
        true
    }

    /// Removes one prefix that the kernel did not print. Returns false if there is none.
    fn take_prefix(&mut self) -> bool {
        let rest = self.text;
        let dated = prefix::level(rest)
            .or_else(|| prefix::weekday(rest))
            .or_else(|| prefix::date(rest))
            .or_else(|| prefix::columns(rest))
            .or_else(|| prefix::zone(rest).filter(|_| self.prefixed));
        let taken = dated.map(|rest| (rest, false));
        if let Some((rest, user)) = taken.or_else(|| prefix::syslog(rest)) {
            self.syslog |= taken.is_none();
            self.text = rest;
            self.user |= user;
            self.prefixed = true;
            return true;
        }
        false
    }

    /// Finds the kernel's time after the unfinished line of a program, or after a CI system's own
    /// prefix.
    fn find_time(&mut self) {
        if self.user {
            return;
        }
        let window = &self.text[..self.text.len().min(400)];
        for at in memchr::memchr_iter(b'[', window) {
            if let Some((time, rest)) = timestamp(&self.text[at..]) {
                // Text that quotes a log, and ftrace's console events, are not the log.
                let before = &window[..at];
                // LAVA's logs are YAML with the target's line in quotes.
                let lava = before.ends_with(b"\"msg\": \"");
                let quoted = !lava
                    && (before.last().is_some_and(|b| b"\"'`(=>".contains(b))
                        || memchr::memmem::find(before, b"console:").is_some());
                if !quoted {
                    self.time = Some(time);
                    self.text = if lava { rest.strip_suffix(b"\"}").unwrap_or(rest) } else { rest };
                    self.take_callers();
                }
                return;
            }
        }
    }
}

/// Whether a line names a device of the record above it: ` SUBSYSTEM=acpi`
/// (Documentation/ABI/testing/dev-kmsg).
pub(super) fn is_property(raw: &[u8]) -> bool {
    let Some(rest) = raw.strip_prefix(b" ") else { return false };
    let name = rest.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'_').count();
    name > 0 && rest.get(name) == Some(&b'=')
}

/// Decodes the escapes of `/dev/kmsg` (`\x0a`, `msg_add_ext_text()` in kernel/printk/printk.c). A
/// record may hold several lines.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let value = match rest {
            [b'\\', b'x', high, low, ..] => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        if let Some(value) = value {
            out.push(value);
            rest = &rest[4..];
        } else {
            out.push(b'\\');
            rest = &rest[1..];
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Parses a line of `journalctl -o json` (systemd.journal-fields(7)) into its metadata and its
/// message.
fn journal_entry(text: &[u8]) -> Option<(Line<'static>, String)> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "MESSAGE")]
        message: String,
        #[serde(rename = "_TRANSPORT")]
        transport: String,
        #[serde(rename = "_SOURCE_MONOTONIC_TIMESTAMP")]
        monotonic_us: Option<String>,
    }
    if !text.starts_with(b"{\"") || memchr::memmem::find(text, b"\"MESSAGE\"").is_none() {
        return None;
    }
    let entry: Entry = serde_json::from_slice(text).ok()?;
    let line = Line {
        text: b"",
        time: entry.monotonic_us.and_then(|us| us.parse().ok()),
        user: entry.transport != "kernel",
        prefixed: true,
        syslog: true,
        caller: None,
        seq: None,
        record: false,
        quote: Quote::default(),
    };
    Some((line, entry.message))
}

/// Parses a cleaned line, without the marks that `strip` names. Calls `each` for its text, or for
/// each text of a line that holds several.
pub(super) fn with_texts(cleaned: &[u8], strip: Strip<'_>, mut each: impl FnMut(&Line<'_>, &str)) {
    let (quote, rest) = quote::split(cleaned, strip);
    if let Some((line, message)) = journal_entry(rest) {
        message.split('\n').for_each(|text| each(&Line { quote, ..line }, text));
        return;
    }
    let parsed = Line { quote, ..Line::parse(rest) };
    if parsed.record && memchr::memmem::find(parsed.text, b"\\x").is_some() {
        for text in unescape(parsed.text).split(|byte| *byte == b'\n') {
            each(&parsed, &String::from_utf8_lossy(text));
        }
    } else if memchr::memmem::find(parsed.text, b"#012").is_some() {
        // rsyslogd writes control characters in octal ($EscapeControlCharactersOnReceive).
        for text in String::from_utf8_lossy(parsed.text).replace("#011", "\t").split("#012") {
            each(&parsed, text.trim_end_matches("#015"));
        }
    } else {
        each(&parsed, &String::from_utf8_lossy(parsed.text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: &str) -> String {
        String::from_utf8_lossy(Line::parse(&clean(raw.as_bytes())).text).into_owned()
    }

    #[test]
    fn the_journal_speaks_json_too() {
        let raw = br#"{"_TRANSPORT":"kernel","MESSAGE":"BUG: x","_SOURCE_MONOTONIC_TIMESTAMP":"1234567","PRIORITY":"4"}"#;
        let mut seen = Vec::new();
        with_texts(raw, Strip::Nothing, |line, text| seen.push((line.time, line.user, text.to_owned())));
        assert_eq!(seen, [(Some(1_234_567), false, "BUG: x".to_owned())]);
        let program = String::from_utf8_lossy(raw).replace("\"kernel\"", "\"stdout\"");
        with_texts(program.as_bytes(), Strip::Nothing, |line, _| assert!(line.user));
    }

    #[test]
    fn every_known_prefix_comes_off() {
        for raw in [
            "BUG: x",
            "[    1.234567] BUG: x",
            "[    1.234567][   T12] BUG: x",
            "[    1.234567] [   C0] BUG: x",
            "<4>[    1.234567]  (7)[312:kworker/7:2]BUG: x",
            "<4>[    1.234567] -(0)[1:init]BUG: x",
            "18:41:58  <3>[    1.234567] BUG: x",
            "<4>[    1.234567] BUG: x",
            "\x1b[1;31m[    1.234567] \x1b[0mBUG: x\r",
            "6,339,5140900,-,caller=T1;BUG: x",
            "4,12,99,c;BUG: x",
            "kern  :warn  : [    1.234567] BUG: x",
            "kern  :warn  : [Mon Nov  3 10:00:00 2025] BUG: x",
            "Nov  3 10:00:00 host kernel: [    1.234567] BUG: x",
            "Nov 03 10:00:00 host kernel: BUG: x",
            "2024-01-01T00:00:00.000Z [    1.234567] BUG: x",
            "2024-01-01T00:00:00.0000000Z BUG: x",
            "2024-01-01T00:00:00.000000+00:00 host kernel: [ 12.123456] BUG: x",
            "[2024-01-01T00:00:00.000Z] [    1.234567] BUG: x",
            "[Mon Nov  3 10:00:00 2025] BUG: x",
            "12:34:56.789 [    1.234567] BUG: x",
            "executing program 0:[   27.100000][  T99] BUG: x",
            "[   27.100000] c1   1234 BUG: x",
            "qemu-1 | [    1.234567] BUG: x",
            "[    1.234567] host kernel: BUG: x",
            "[    1.234567 <    0.000012>] BUG: x",
            "Mon 2025-11-03 10:00:00 UTC host kernel: BUG: x",
            "2025-11-03T10:00:00+0000 host kernel: BUG: x",
            "Mon Nov  3 10:00:00 2025 kern.warn kernel: [   12.345678] BUG: x",
            "2024-01-01T00:00:00.000000+02:00 host kernel: [ T3205] BUG: x",
            "2024-01-01 00:00:00 +0200 host kernel: [    C1] BUG: x",
            "2024-01-01 00:00:00.123 CEST host kernel: BUG: x",
            "2023/05/04 19:31:26 [host]: [  235.4] BUG: x",
            "[   12.345678] host kernel: [   T12] BUG: x",
            "[   12.345678] host kernel: [   12.345678] BUG: x",
            "[    0.04 ][    T0 ] BUG: x",
            "[    0.04 ] [    T0 ] BUG: x",
            "[18446744073709.551615] BUG: x",
            "[1683228686.123456] BUG: x",
            "[   12.345678] BUG: x^M",
            "[  +0.000003] BUG: x",
            "[Jan14 09:12] BUG: x",
            "\u{feff}[\u{a0}\u{a0} 12.345678] BUG: x",
            "kernel:BUG: x",
            "kernel:[   12.345678] BUG: x",
            "<4>1 2024-01-01T00:00:00.000000+00:00 host kernel - - - BUG: x",
            "- {\"dt\": \"2024-01-01T00:00:00.000000\", \"lvl\": \"target\", \"msg\": \"[    1.234567] BUG: x\"}",
        ] {
            assert_eq!(text(raw), "BUG: x", "{raw:?}");
        }
    }

    #[test]
    fn a_program_is_not_the_kernel() {
        for raw in [
            "Nov  3 10:00:00 host sshd[12]: BUG: x",
            "14,12,99,-;BUG: x",
            "user  :info  : [    1.234567] BUG: x",
            "2024-01-01T00:00:00+00:00 host systemd[1]: BUG: x",
        ] {
            assert!(Line::parse(raw.as_bytes()).user, "{raw:?}");
        }
        assert_ne!(text("echo \"[    1.234567] BUG: x\""), "BUG: x");
        assert_ne!(text("[1.2] BUG: x"), "BUG: x");
        assert_ne!(text("  <idle>-0  [000] d..1 12.345678: console: [   12.345678] BUG: x"), "BUG: x");
    }

    #[test]
    fn time_and_caller_are_read() {
        let line = Line::parse(b"[   12.000345][  C3]  <TASK>");
        assert_eq!(
            (line.time, line.caller, line.text),
            (Some(12_000_345), Some(Caller::Cpu(3)), b" <TASK>".as_slice())
        );
        let line = Line::parse(b"6,339,5140900,-,caller=T7;hello");
        assert_eq!((line.seq, line.time, line.caller), (Some(339), Some(5_140_900), Some(Caller::Task(7))));
    }
}

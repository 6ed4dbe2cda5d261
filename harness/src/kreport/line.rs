//! One line of a log: what is the kernel's text, and what console, syslog, journal or CI put before it.

use std::borrow::Cow;

/// Who printed a line (`CONFIG_PRINTK_CALLER`, kernel/printk/printk.c `print_caller()`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// `T12`: task 12.
    Task(u32),
    /// `C0`: interrupt context on CPU 0.
    Cpu(u32),
}

/// A line taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a prefix")]
pub(super) struct Line<'a> {
    /// The kernel's text, indentation kept.
    pub text: &'a [u8],
    /// Microseconds since boot.
    pub time: Option<u64>,
    /// Who printed it.
    pub caller: Option<Caller>,
    /// Sequence number, for /dev/kmsg records.
    pub seq: Option<u64>,
    /// A program printed it, not the kernel: syslog tag or /dev/kmsg facility say so.
    pub user: bool,
    /// Something known stood before the text: it went through the kernel's log, or a CI system's.
    pub prefixed: bool,
    /// A syslog daemon or the journal wrote it: they miss what a kernel says when it goes down.
    pub syslog: bool,
    /// The line is a /dev/kmsg record: newlines in it are escaped.
    pub record: bool,
}

/// Takes away what terminals add: carriage returns, ANSI colour, NULs.
pub(super) fn clean(raw: &[u8]) -> Cow<'_, [u8]> {
    let mut raw = raw;
    while let [head @ .., b'\r' | b'\n' | 0] = raw {
        raw = head;
    }
    while let [b'\r' | 0, tail @ ..] = raw {
        raw = tail;
    }
    if memchr::memchr3(0x1b, 0, b'\r', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            // CSI: parameters, then one byte from '@' to '~' (ECMA-48).
            (0x1b, [b'[', params @ ..]) => {
                let end =
                    params.iter().position(|b| (0x40..=0x7e).contains(b)).map_or(params.len(), |i| i + 1);
                rest = &params[end..];
            }
            (0x1b | 0 | b'\r', _) => {}
            _ => out.push(*byte),
        }
    }
    Cow::Owned(out)
}

impl<'a> Line<'a> {
    /// Takes a cleaned line apart.
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
        };
        if line.take_kmsg() {
            return line;
        }
        // Prefixes come in any order and number: "<4>", dates, host and tag, dmesg's columns.
        for _ in 0..8 {
            if line.take_time() {
                line.take_callers();
                return line;
            }
            if !line.take_prefix() {
                break;
            }
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
                self.caller = caller_id(caller);
            }
        }
        self.user = prio >> 3 != 0;
        self.seq = Some(seq);
        self.time = Some(time);
        self.record = true;
        self.text = &self.text[end + 1..];
        true
    }

    /// `[    1.234567] `; the number of decimals is six, but dmesg and others know less and more.
    fn take_time(&mut self) -> bool {
        let Some((time, rest)) = timestamp(self.text) else { return false };
        self.time = Some(time);
        self.text = rest;
        true
    }

    /// What may follow the time: `[   T12]`, `[    C0]`, Android's `c0 12 `, and the one space before the text.
    fn take_callers(&mut self) {
        let mut rest = self.text;
        if let [b'[', tail @ ..] | [b' ', b'[', tail @ ..] = rest
            && let Some(end) = memchr::memchr(b']', &tail[..tail.len().min(24)])
            && let Some(caller) = caller_id(tail[..end].trim_ascii())
        {
            self.caller = Some(caller);
            rest = &tail[end + 1..];
        }
        // journalctl -o short-monotonic puts host and tag behind the time.
        if let Some((tail, false)) = syslog(rest.strip_prefix(b" ").unwrap_or(rest)) {
            self.text = tail;
            return;
        }
        if let Some(tail) = android_cpu(rest) {
            rest = tail;
        } else if let Some((pid, tail)) = mediatek_task(rest) {
            self.caller = Some(Caller::Task(pid));
            self.text = tail;
            return;
        }
        self.text = rest.strip_prefix(b" ").unwrap_or(rest);
    }

    /// Drops one prefix that is not the kernel's; false when there is none.
    fn take_prefix(&mut self) -> bool {
        let rest = self.text;
        let dated = level(rest).or_else(|| weekday(rest)).or_else(|| date(rest)).or_else(|| columns(rest));
        let taken = dated.map(|rest| (rest, false));
        if let Some((rest, user)) = taken.or_else(|| syslog(rest)) {
            self.syslog |= taken.is_none();
            self.text = rest;
            self.user |= user;
            self.prefixed = true;
            return true;
        }
        false
    }

    /// A program's unfinished line, or a CI system's own prefix, may stand before the kernel's time.
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

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn caller_id(bytes: &[u8]) -> Option<Caller> {
    let (kind, digits) = bytes.split_first()?;
    let id = u32::try_from(number(digits)?).ok()?;
    match kind {
        b'T' => Some(Caller::Task(id)),
        b'C' => Some(Caller::Cpu(id)),
        _ => None,
    }
}

/// Seconds and decimals in brackets: microseconds and what follows the bracket.
fn timestamp(text: &[u8]) -> Option<(u64, &[u8])> {
    let rest = text.strip_prefix(b"[")?;
    let rest = rest.trim_ascii_start();
    let rest = rest.strip_prefix(b"+").unwrap_or(rest);
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || digits > 9 || rest.get(digits) != Some(&b'.') {
        return None;
    }
    let seconds = number(&rest[..digits])?;
    let decimals = &rest[digits + 1..];
    let places = decimals.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut after = &decimals[places..];
    // dmesg --show-delta: `[   12.345678 <    0.000012>]`.
    if let Some(delta) = after.strip_prefix(b" <") {
        after = &delta[memchr::memchr(b'>', &delta[..delta.len().min(24)])? + 1..];
    }
    let after = after.strip_prefix(b"]").filter(|_| (3..=9).contains(&places))?;
    let mut micros = 0;
    for place in 0..6 {
        micros = micros * 10 + decimals[..places].get(place).map_or(0, |d| u64::from(d - b'0'));
    }
    Some((seconds * 1_000_000 + micros, after))
}

/// Android: ` c0   1234 text`.
fn android_cpu(text: &[u8]) -> Option<&[u8]> {
    let rest = text.trim_ascii_start().strip_prefix(b"c")?;
    let cpu = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = rest.get(cpu..)?.strip_prefix(b" ")?.trim_ascii_start();
    let pid = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if cpu == 0 || pid == 0 { None } else { rest.get(pid..)?.strip_prefix(b" ") }
}

/// Mediatek's kernels: ` (7)[312:kworker/7:2]text`, with `-(7)` where interrupts are off.
fn mediatek_task(text: &[u8]) -> Option<(u32, &[u8])> {
    let rest = text.trim_ascii_start();
    let rest = rest.strip_prefix(b"-").unwrap_or(rest).strip_prefix(b"(")?;
    let cpu = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = rest.get(cpu..)?.strip_prefix(b")[")?;
    let pid = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    // The task's name may hold a bracket, but not at its end.
    let end = memchr::memchr(b']', &rest[..rest.len().min(40)])?;
    (cpu > 0 && rest.get(pid) == Some(&b':')).then_some(())?;
    Some((u32::try_from(number(&rest[..pid])?).ok()?, &rest[end + 1..]))
}

/// `<4>`.
fn level(text: &[u8]) -> Option<&[u8]> {
    // Some CI systems put two spaces behind their clock.
    let rest = text.trim_ascii_start().strip_prefix(b"<")?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if (1..=3).contains(&digits) { rest[digits..].strip_prefix(b">") } else { None }
}

/// Dates and times of day, bare or in brackets, with one space after.
fn date(text: &[u8]) -> Option<&[u8]> {
    let (open, body) = match text {
        [b'[', body @ ..] => (true, body),
        _ => (false, text),
    };
    if open {
        // `[Mon Nov  3 10:00:00 2025]` (dmesg -T), `[2024-01-01T00:00:00.000Z]`, `[12:34:56]`, `[Nov 3 10:00]`.
        let end = memchr::memchr(b']', &body[..body.len().min(48)])?;
        let inside = &body[..end];
        let colon = memchr::memchr(b':', inside)?;
        let clock = colon >= 2 && inside[colon - 2..colon].iter().all(u8::is_ascii_digit);
        let known = inside.iter().all(|b| b.is_ascii_alphanumeric() || b" :.,+-/".contains(b));
        return (clock && known && inside.len() >= 8).then(|| one_space(&body[end + 1..]));
    }
    let word = body.iter().take_while(|b| b.is_ascii_digit() || b"-:.,+TZ/".contains(b)).count();
    let inside = &body[..word];
    let colons = memchr::memchr_iter(b':', inside).count();
    let dashes = memchr::memchr_iter(b'-', inside).count();
    let starts =
        inside.first().is_some_and(u8::is_ascii_digit) && matches!(body.get(word), Some(b' ' | b'\t'));
    let date_time = dashes >= 2 && inside.len() >= 10;
    let clock = colons >= 2 && inside.len() >= 8;
    (starts && (date_time || clock)).then(|| one_space(&body[word..]))
}

/// `Mon 2025-11-03 10:00:00 UTC ` of journalctl -o short-full: the weekday, and the zone behind the time.
fn weekday(text: &[u8]) -> Option<&[u8]> {
    const WORDS: [&[u8]; 9] =
        [b"Mon ", b"Tue ", b"Wed ", b"Thu ", b"Fri ", b"Sat ", b"Sun ", b"UTC ", b"CEST "];
    let rest = WORDS.iter().find_map(|word| text.strip_prefix(*word))?;
    let next = rest.first()?;
    (next.is_ascii_digit() || text.starts_with(b"UTC ") || text.starts_with(b"CEST ")).then_some(rest)
}

fn one_space(text: &[u8]) -> &[u8] {
    text.strip_prefix(b" ").or_else(|| text.strip_prefix(b"\t")).unwrap_or(text)
}

/// `kern  :warn  : ` of dmesg -x. Another facility is a program's (`user`), which `syslog` sees to.
fn columns(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"kern")?.trim_ascii_start().strip_prefix(b":")?;
    let end = memchr::memchr(b':', &rest[..rest.len().min(12)])?;
    Some(one_space(&rest[end + 1..]))
}

/// `Nov  3 10:00:00 host kernel: ` or, its date gone already, `host kernel: `; dmesg -x's `user  :info  : `.
/// The second value says that a program printed it.
fn syslog(text: &[u8]) -> Option<(&[u8], bool)> {
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    for facility in [b"user ".as_slice(), b"daemon", b"syslog", b"auth"] {
        if let Some(rest) = text.strip_prefix(facility)
            && let Some(rest) = rest.trim_ascii_start().strip_prefix(b":")
            && let Some(end) = memchr::memchr(b':', &rest[..rest.len().min(12)])
        {
            return Some((one_space(&rest[end + 1..]), true));
        }
    }
    let mut rest = text;
    let month = text.get(..3).is_some_and(|m| MONTHS.iter().any(|known| known.as_slice() == m));
    if month {
        rest = rest[3..].trim_ascii_start();
        let day = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        rest = rest.get(day..)?.strip_prefix(b" ")?;
        let clock = rest.iter().take_while(|b| b.is_ascii_digit() || b":.".contains(b)).count();
        if day == 0 || clock < 8 {
            return None;
        }
        rest = rest.get(clock..)?.strip_prefix(b" ")?;
    }
    if let Some(tail) = rest.strip_prefix(b"kernel: ") {
        return Some((tail, false));
    }
    // host, then tag.
    let host = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b)).count();
    let tail = rest.get(host..)?.strip_prefix(b" ")?;
    if let Some(tail) = tail.strip_prefix(b"kernel: ") {
        return (host > 0).then_some((tail, false));
    }
    let tag = tail.iter().take_while(|b| b.is_ascii_alphanumeric() || b"-_./()@".contains(b)).count();
    let after = &tail[tag..];
    let pid = after.strip_prefix(b"[").and_then(|a| {
        let digits = a.iter().take_while(|b| b.is_ascii_digit()).count();
        a[digits..].strip_prefix(b"]: ")
    });
    match (month, pid, after.strip_prefix(b": ")) {
        (true, Some(rest), _) | (true, None, Some(rest)) if tag > 0 => Some((rest, true)),
        (false, Some(rest), _) if tag > 0 && host > 0 => Some((rest, true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: &str) -> String {
        String::from_utf8_lossy(Line::parse(&clean(raw.as_bytes())).text).into_owned()
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

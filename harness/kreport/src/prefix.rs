//! Parsers for the prefixes that consoles, syslog, journals and CI systems put before the kernel's
//! text.
//!
//! Each function removes one prefix and returns the rest of the line, or `None` if the prefix is
//! absent.

/// The context that printed a line (`CONFIG_PRINTK_CALLER`, kernel/printk/printk.c
/// `print_caller()`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// `T12`: task 12.
    Task(u32),
    /// `C0`: interrupt context on CPU 0.
    Cpu(u32),
}

pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

pub(super) fn caller_id(bytes: &[u8]) -> Option<Caller> {
    let (kind, digits) = bytes.split_first()?;
    let id = u32::try_from(number(digits)?).ok()?;
    match kind {
        b'T' => Some(Caller::Task(id)),
        b'C' => Some(Caller::Cpu(id)),
        _ => None,
    }
}

/// Seconds that a clock may show at most. Larger numbers, such as those of a damaged clock, are this.
const LAST_SECOND: u64 = 1_000_000_000_000;

/// Parses seconds and decimals in brackets. Returns microseconds, and the text after the bracket.
///
/// The kernel pads the seconds to five places and prints six decimals. People and programs shorten
/// the decimals, so two or fewer count only if the clock is padded.
pub(super) fn timestamp(text: &[u8]) -> Option<(u64, &[u8])> {
    let inside = text.strip_prefix(b"[")?;
    let rest = inside.trim_ascii_start();
    let padded = rest.len() < inside.len();
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || digits > 20 || rest.get(digits) != Some(&b'.') {
        return None;
    }
    let seconds = number(&rest[..digits]).map_or(LAST_SECOND, |seconds| seconds.min(LAST_SECOND));
    let decimals = &rest[digits + 1..];
    let places = decimals.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut after = &decimals[places..];
    // dmesg --show-delta: `[   12.345678 <    0.000012>]`.
    if let Some(delta) = after.strip_prefix(b" <") {
        after = &delta[memchr::memchr(b'>', &delta[..delta.len().min(24)])? + 1..];
    }
    let least = if padded { 1 } else { 3 };
    let close = after.iter().take(4).take_while(|b| **b == b' ').count();
    let after = after[close..].strip_prefix(b"]").filter(|_| (least..=9).contains(&places))?;
    let mut micros = 0;
    for place in 0..6 {
        micros = micros * 10 + decimals[..places].get(place).map_or(0, |d| u64::from(d - b'0'));
    }
    Some((seconds * 1_000_000 + micros, after))
}

/// `[  +0.000003] ` of `dmesg -H`: the time since the line before, which is no time of a clock.
pub(super) fn delta(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"[")?.trim_ascii_start().strip_prefix(b"+")?;
    let number = rest.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    (number > 2).then(|| rest[number..].strip_prefix(b"]")).flatten()
}

/// `[   T12]`, `[    C0]`, or `[    T0 ]`, after any blanks.
pub(super) fn bracketed_caller(text: &[u8]) -> Option<(Caller, &[u8])> {
    let inside = text.trim_ascii_start().strip_prefix(b"[")?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(24)])?;
    Some((caller_id(inside[..end].trim_ascii())?, &inside[end + 1..]))
}

/// Android: ` c0   1234 text`.
pub(super) fn android_cpu(text: &[u8]) -> Option<&[u8]> {
    let rest = text.trim_ascii_start().strip_prefix(b"c")?;
    let cpu = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = rest.get(cpu..)?.strip_prefix(b" ")?.trim_ascii_start();
    let pid = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if cpu == 0 || pid == 0 { None } else { rest.get(pid..)?.strip_prefix(b" ") }
}

/// Mediatek's kernels: ` (7)[312:kworker/7:2]text`, with `-(7)` if interrupts are off.
pub(super) fn mediatek_task(text: &[u8]) -> Option<(u32, &[u8])> {
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
pub(super) fn level(text: &[u8]) -> Option<&[u8]> {
    // Some CI systems put two spaces after their clock.
    let rest = text.trim_ascii_start().strip_prefix(b"<")?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let rest = rest[digits..].strip_prefix(b">").filter(|_| (1..=3).contains(&digits))?;
    // RFC 5424 has its version before the date.
    let dated = rest.strip_prefix(b"1 ").filter(|tail| tail.first().is_some_and(u8::is_ascii_digit));
    Some(dated.unwrap_or(rest))
}

/// Dates and times of day, bare or in brackets, with one space after.
pub(super) fn date(text: &[u8]) -> Option<&[u8]> {
    let (open, body) = match text {
        [b'[', body @ ..] => (true, body),
        _ => (false, text),
    };
    if open {
        // `[Mon Nov  3 10:00:00 2025]` (dmesg -T), `[2024-01-01T00:00:00.000Z]`, `[12:34:56]`,
        // `[Nov 3 10:00]`.
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

/// `Mon 2025-11-03 10:00:00 UTC ` of `journalctl -o short-full`: the weekday before the time.
pub(super) fn weekday(text: &[u8]) -> Option<&[u8]> {
    const DAYS: [&[u8]; 7] = [b"Mon ", b"Tue ", b"Wed ", b"Thu ", b"Fri ", b"Sat ", b"Sun "];
    let rest = DAYS.iter().find_map(|word| text.strip_prefix(*word))?;
    rest.first()?.is_ascii_digit().then_some(rest)
}

/// The zone after a time: `UTC `, `CEST `, `+0200 `, `-07:00 `.
pub(super) fn zone(text: &[u8]) -> Option<&[u8]> {
    const ZONES: [&[u8]; 28] = [
        b"UTC", b"GMT", b"Z", b"WET", b"WEST", b"CET", b"CEST", b"EET", b"EEST", b"MSK", b"BST", b"IST",
        b"CST", b"JST", b"KST", b"EST", b"EDT", b"CDT", b"MST", b"MDT", b"PST", b"PDT", b"AEST", b"AEDT",
        b"NZST", b"NZDT", b"HKT", b"SGT",
    ];
    let end = memchr::memchr(b' ', &text[..text.len().min(8)])?;
    let word = &text[..end];
    let offset = match word {
        [b'+' | b'-', digits @ ..] => {
            digits.len() >= 4 && digits.iter().all(|b| b.is_ascii_digit() || *b == b':')
        }
        _ => false,
    };
    (offset || ZONES.contains(&word)).then(|| &text[end + 1..])
}

pub(super) fn one_space(text: &[u8]) -> &[u8] {
    text.strip_prefix(b" ").or_else(|| text.strip_prefix(b"\t")).unwrap_or(text)
}

/// `kern  :warn  : ` of `dmesg -x`. Other facilities, such as `user`, belong to programs; `syslog`
/// handles them.
pub(super) fn columns(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"kern")?.trim_ascii_start().strip_prefix(b":")?;
    let end = memchr::memchr(b':', &rest[..rest.len().min(12)])?;
    Some(one_space(&rest[end + 1..]))
}

/// `Nov  3 10:00:00 host kernel: `, or `host kernel: ` if the date is already removed; also
/// `user  :info  : ` of `dmesg -x`. The second value is true if a program printed the line.
pub(super) fn syslog(text: &[u8]) -> Option<(&[u8], bool)> {
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
    // A broadcast of syslogd, under "Message from syslogd@host at ...".
    if let Some(tail) = rest.strip_prefix(b"kernel:").filter(|tail| !tail.starts_with(b":")) {
        return Some((tail, false));
    }
    // The host, then the tag.
    let host = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b)).count();
    let tail = rest.get(host..)?.strip_prefix(b" ")?;
    // RFC 5424 has the process, the message and the data after the tag.
    let kernel = tail.strip_prefix(b"kernel: ").or_else(|| tail.strip_prefix(b"kernel - - - "));
    if let Some(tail) = kernel {
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

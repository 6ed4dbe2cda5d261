//! One kernel log of a trial: the records, and behind them what only the serial console still carried.

use std::path::Path;

use crate::Result;

/// All that the kernel of the trial in `dir` said. A file that cannot be read is an error, not a kernel that said nothing.
pub fn kernel_log(dir: &Path) -> Result<Vec<u8>> {
    Ok(merge(&fs_err::read(dir.join("kmsg.log"))?, &fs_err::read(dir.join("serial.log"))?))
}

/// Joins the raw records of `/dev/kmsg` with the tail of the serial console.
///
/// The records are complete and unmixed as long as the agent lives. A kernel that dies prints its last words to the
/// console alone: lines there with a time stamp beyond the last record's are appended.
fn merge(kmsg: &[u8], serial: &[u8]) -> Vec<u8> {
    // A record cut off in the middle by QEMU's end stands whole on the console, or nowhere.
    let whole = memchr::memrchr(b'\n', kmsg).map_or(0, |i| i + 1);
    let mut log = kmsg[..whole].to_vec();
    let last = kmsg[..whole].split(|b| *b == b'\n').rev().find_map(record_time);
    let Some(last) = last else { return serial.to_vec() };
    let mut beyond = false;
    for line in serial.split_inclusive(|b| *b == b'\n') {
        beyond |= console_time(line).is_some_and(|time| time > last);
        if beyond {
            log.extend_from_slice(line);
        }
    }
    log
}

/// Microseconds in `6,339,5140900,-,caller=T1;text`.
fn record_time(line: &[u8]) -> Option<u64> {
    if line.first()?.is_ascii_digit() {
        let field = line.split(|b| *b == b',').nth(2)?;
        return std::str::from_utf8(field).ok()?.parse().ok();
    }
    None
}

/// Microseconds in `[    5.140900][    T1] text` (kernel/printk/printk.c: `print_time`).
fn console_time(line: &[u8]) -> Option<u64> {
    let inner = line.strip_prefix(b"[")?;
    let inner = std::str::from_utf8(&inner[..inner.iter().position(|b| *b == b']')?]).ok()?;
    let (seconds, fraction) = inner.trim_start().split_once('.')?;
    if fraction.len() != 6 {
        return None;
    }
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_only_adds_what_came_after_the_last_record() {
        let kmsg = b"6,1,1000000,-;first\n4,2,1500000,-,caller=T1;second\n SUBSYSTEM=cpu\n4,3,16";
        let serial = b"[    1.000000][    T0] first\r\n[    1.500000][    T1] second\r\n[    1.600000][    T1] third\r\n no stamp\r\n";
        let log = merge(kmsg, serial);
        let text = String::from_utf8(log).unwrap();
        assert_eq!(text.matches("first").count(), 1);
        assert!(text.ends_with("SUBSYSTEM=cpu\n[    1.600000][    T1] third\r\n no stamp\r\n"), "{text}");
    }

    #[test]
    fn without_records_the_console_is_all() {
        assert_eq!(merge(b"", b"early death\n"), b"early death\n");
    }
}

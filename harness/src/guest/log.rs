//! The kernel log of a trial: the records of `/dev/kmsg`, followed by the lines that only the
//! serial console received.

use std::path::Path;

use crate::Result;

/// The complete kernel log of the trial in `dir`. A file that cannot be read is an error and not an
/// empty log.
pub fn kernel_log(dir: &Path) -> Result<Vec<u8>> {
    Ok(merge(&fs_err::read(dir.join("kmsg.log"))?, &fs_err::read(dir.join("serial.log"))?))
}

/// Joins the raw records of `/dev/kmsg` with the tail of the serial console.
///
/// The records are complete and in order as long as the agent runs. A dying kernel prints its last
/// lines to the console only. So console lines are appended from the first one on whose time stamp
/// is later than that of the last record.
fn merge(kmsg: &[u8], serial: &[u8]) -> Vec<u8> {
    // A record that was cut off when QEMU exited is dropped: the console has it complete, or no
    // file has it.
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

/// The time of a record such as `6,339,5140900,-,caller=T1;text`, in microseconds.
fn record_time(line: &[u8]) -> Option<u64> {
    if line.first()?.is_ascii_digit() {
        let field = line.split(|b| *b == b',').nth(2)?;
        return std::str::from_utf8(field).ok()?.parse().ok();
    }
    None
}

/// The time of a console line such as `[    5.140900][    T1] text`, in microseconds
/// (kernel/printk/printk.c: `print_time`).
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

//! What a guest has after its loads have ended: processes, kernel threads, free memory.

use std::fs::{read, read_dir, read_to_string};
use std::io;

use hotplug_protocol::Rest;

use crate::channel;
use crate::snapshot::meminfo_kib;

/// Reads it. A process that ends meanwhile may or may not be counted.
pub(crate) fn read_all() -> io::Result<Rest> {
    let (mut processes, mut kernel_threads) = (0, 0);
    for entry in read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // A task without memory of its own has no command line (fs/proc/base.c,
        // `proc_pid_cmdline_read`).
        match read(entry.path().join("cmdline")) {
            Ok(words) if words.is_empty() => kernel_threads += 1,
            Ok(_) => processes += 1,
            // It has ended.
            Err(_) => {}
        }
    }
    let meminfo = read_to_string("/proc/meminfo")?;
    let available_kib = meminfo_kib(&meminfo, "MemAvailable")
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cannot parse /proc/meminfo"))?;
    Ok(Rest { at: channel::now(), processes, kernel_threads, available_kib })
}

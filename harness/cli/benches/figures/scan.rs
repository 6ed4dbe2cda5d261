//! The cost of `hotplug scan`, on logs of real boots that are repeated up to a size.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use tempfile::NamedTempFile;

use crate::hotplug;

/// Log of a boot without a report.
const CLEAN: &str = "negative-real-boot-1.log";

/// Log of the seed patch, with one report after another.
const DENSE: &str = "real-seed-1.log";

/// The pattern that rcutorture searches for in a console
/// (tools/testing/selftests/rcutorture/bin/console-badness.sh).
const BADNESS: &str = r"Badness|WARNING:|Warn|BUG|===========|BUG: KCSAN:|Call Trace:|Oops:|detected stalls on CPUs/tasks:|self-detected stall on CPU|Stall ended before state dump start|\?\?\? Writer stall state|rcu_.*kthread starved for|!!!";

/// Runs of each timed command; the table shows the median.
const RUNS: usize = 5;

const MB: usize = 1_000_000;

/// A fixture without its banner. A repeated banner would be a restart of the kernel, which is a
/// report.
fn fixture(root: &Path, name: &str) -> Result<Vec<u8>, String> {
    let path = root.join("harness/kreport/tests/fixtures").join(name);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text
        .split_inclusive('\n')
        .filter(|line| !line.contains("Linux version"))
        .collect::<String>()
        .into_bytes())
}

/// A text whose clock is later by some thousands of seconds. A copy with the same times would be the
/// same log, printed a second time.
fn later(text: &[u8], thousands: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 8);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let rest = line.strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
        let dot = rest.and_then(|rest| rest.iter().position(|byte| *byte == b'.'));
        let seconds = rest.zip(dot).and_then(|(rest, dot)| {
            let number: usize = std::str::from_utf8(&rest[..dot]).ok()?.parse().ok()?;
            Some((number + thousands * 1000, &rest[dot..]))
        });
        match seconds {
            Some((seconds, rest)) => {
                out.extend_from_slice(format!("[{seconds:5}").as_bytes());
                out.extend_from_slice(rest);
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

/// A fixture, repeated until it has at least `bytes`, and its size in megabytes.
fn repeated(root: &Path, name: &str, bytes: usize) -> Result<(NamedTempFile, f64), String> {
    let text = fixture(root, name)?;
    let file = NamedTempFile::new().map_err(|e| e.to_string())?;
    let mut out = BufWriter::new(file.as_file());
    let mut written = 0;
    for copy in 0.. {
        if written >= bytes {
            break;
        }
        let text = later(&text, copy);
        out.write_all(&text).map_err(|e| e.to_string())?;
        written += text.len();
    }
    out.flush().map_err(|e| e.to_string())?;
    drop(out);
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    let megabytes = written as f64 / MB as f64;
    Ok((file, megabytes))
}

/// Seconds of a command, whose exit status must be one of `expected`.
fn seconds(command: &mut Command, expected: &[i32]) -> Result<f64, String> {
    let began = Instant::now();
    let status = command.stdout(Stdio::null()).status().map_err(|e| e.to_string())?;
    let taken = began.elapsed().as_secs_f64();
    match status.code() {
        Some(code) if expected.contains(&code) => Ok(taken),
        _ => Err(format!("{} ended with {status}", command.get_program().display())),
    }
}

fn scan(root: &Path, file: &Path) -> Command {
    let mut command = hotplug(root);
    command.arg("scan").arg(file);
    command
}

/// Megabytes a second of clean text.
pub(crate) fn clean(root: &Path) -> Result<Vec<f64>, String> {
    let (file, megabytes) = repeated(root, CLEAN, 400 * MB)?;
    (0..RUNS).map(|_| Ok(megabytes / seconds(&mut scan(root, file.path()), &[0])?)).collect()
}

/// Megabytes a second of text with one report after another.
pub(crate) fn dense(root: &Path) -> Result<Vec<f64>, String> {
    let (file, megabytes) = repeated(root, DENSE, 100 * MB)?;
    (0..RUNS).map(|_| Ok(megabytes / seconds(&mut scan(root, file.path()), &[1])?)).collect()
}

/// Time of grep divided by the time of the scan, for the same clean file, in alternating runs.
/// Above 1 the scan is faster.
pub(crate) fn against_grep(root: &Path) -> Result<Vec<f64>, String> {
    let (file, _) = repeated(root, CLEAN, 400 * MB)?;
    let grep = || {
        // grep is fastest in the C locale.
        let mut command = Command::new("grep");
        command.env("LC_ALL", "C").args(["-E", BADNESS]).arg(file.path());
        command
    };
    (0..RUNS)
        .map(|_| Ok(seconds(&mut grep(), &[0, 1])? / seconds(&mut scan(root, file.path()), &[0])?))
        .collect()
}

/// Peak resident memory (MiB) of a scan of 1 GiB of clean text with reports in between.
pub(crate) fn peak_memory(root: &Path) -> Result<Vec<f64>, String> {
    let (clean, dense) = (fixture(root, CLEAN)?, fixture(root, DENSE)?);
    let mut child = scan(root, Path::new("-"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut input = child.stdin.take().ok_or("no pipe to the scan")?;
    let mut written = 0;
    let mut copy = 0;
    while written < 1 << 30 {
        for text in [&clean, &clean, &clean, &dense] {
            copy += 1;
            let text = later(text, copy);
            input.write_all(&text).map_err(|e| e.to_string())?;
            written += text.len();
        }
    }
    // The status is read before the pipe is closed, because the process ends then. At most 64 KiB
    // are still in the pipe.
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", child.id())).map_err(|e| e.to_string())?;
    drop(input);
    child.wait().map_err(|e| e.to_string())?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = peak
        .and_then(|text| text.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse().ok())
        .ok_or("no VmHWM in its status")?;
    Ok(vec![kib / 1024.0])
}

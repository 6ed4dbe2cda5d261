//! The script: what the kernel does wrong. The kernel's image has it in strings such as
//! `toy: plug dimm; 0.2; report cpus-held; round 3`: the operation, the probability in a trial, what
//! happens, and the first trial of a guest in which it does, if that is not the first. The texts of
//! reports are those of real kernels.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::guest::Guest;

/// Prefix of a string of the script in the image.
const MARK: &[u8] = b"toy: ";

/// The kernel's image, by its file number in harness/src/qemu/files.rs.
const IMAGE: &str = "/proc/self/fd/24";

/// Real logs, by their names in a script.
const REPORTS: [(&str, &str); 5] = [
    ("cpus-held", include_str!("../../../kreport/tests/fixtures/real-seed-1.log")),
    ("warn-on", include_str!("../../../kreport/tests/fixtures/provoked-6.1-warn-on.log")),
    ("circular", include_str!("../../../kreport/tests/fixtures/provoked-6.1-circular.log")),
    ("int3", include_str!("../../../kreport/tests/fixtures/written-int3-61-static-key.log")),
    ("panic", include_str!("../../../kreport/tests/fixtures/provoked-6.1-panic.log")),
];

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Boot,
    PlugDimm,
    UnplugDimm,
    PlugCpu,
    UnplugCpu,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The kernel prints a report.
    Report(&'static str),
    /// The kernel panics, and QEMU ends.
    Panic,
    /// The guest stops responding.
    Hang,
    /// Lockdep turns itself off.
    LockdepOff,
    /// The kernel loses 20 MiB.
    Leak,
}

/// One string of the script.
#[derive(Debug, Clone)]
struct Line {
    when: When,
    chance: f64,
    what: What,
    /// The first trial of its guest in which it happens, from 1.
    round: u32,
    /// Position in the script, so that equal lines draw different random numbers.
    number: usize,
}

/// The script of a kernel.
#[derive(Debug)]
pub(crate) struct Script {
    lines: Vec<Line>,
    identity: Identity,
}

/// Whether an operation continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    GoesOn,
    Hangs,
}

impl Script {
    /// Reads the script in the kernel's image. An invalid line is an error, because with it a test
    /// would pass for the wrong reason.
    pub(crate) fn read() -> io::Result<Self> {
        let mut image = Vec::new();
        File::open(IMAGE)?.read_to_end(&mut image)?;
        let mut lines = Vec::new();
        for text in image.split(|byte| *byte == 0).filter_map(|text| text.strip_prefix(MARK)) {
            let text = String::from_utf8_lossy(text);
            let line = parse(&text, lines.len());
            lines
                .push(line.ok_or_else(|| io::Error::other(format!("not a valid line of a script: {text}")))?);
        }
        let is_random = |line: &Line| 0.0 < line.chance && line.chance < 1.0;
        let identity = if lines.iter().any(is_random) { Identity::take()? } else { Identity::Seed };
        Ok(Self { lines, identity })
    }

    /// Whether this line happens in this trial. It is the same each time that the trial runs.
    fn happens(&self, line: &Line, guest: &Guest) -> io::Result<bool> {
        if line.round > 1 && guest.seed().map(|_| guest.round())? < line.round {
            return Ok(false);
        }
        if line.chance >= 1.0 {
            return Ok(true);
        }
        let identity = match self.identity {
            Identity::Seed => guest.seed()?,
            Identity::Number(number) => number.to_string(),
        };
        let hash = blake3::hash(format!("{identity} {}", line.number).as_bytes());
        let bytes = hash.as_bytes();
        let drawn = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(f64::from(drawn) / 4_294_967_296.0 < line.chance)
    }
}

fn parse(text: &str, number: usize) -> Option<Line> {
    let mut parts = text.split(';').map(str::trim);
    let when = match parts.next()? {
        "boot" => When::Boot,
        "plug dimm" => When::PlugDimm,
        "unplug dimm" => When::UnplugDimm,
        "plug cpu" => When::PlugCpu,
        "unplug cpu" => When::UnplugCpu,
        _ => return None,
    };
    let chance = parts.next()?.parse().ok().filter(|chance| (0.0..=1.0).contains(chance))?;
    let what = match parts.next()? {
        "panic" => What::Panic,
        "hang" => What::Hang,
        "lockdep-off" => What::LockdepOff,
        "leak" => What::Leak,
        report => {
            let name = report.strip_prefix("report ")?;
            What::Report(REPORTS.iter().find(|(known, _)| *known == name)?.1)
        }
    };
    let round = parts.next().map_or(Some(1), |round| round.strip_prefix("round ")?.parse().ok())?;
    parts.next().is_none().then_some(Line { when, chance, what, round, number })
}

/// The environment variable that names a folder in which guests are numbered. With it, trials of
/// one seed differ, such as replays, and a test is reproducible although its run draws its own
/// seed.
const DRAWS: &str = "HOTPLUG_FAKE_DRAWS";

/// The source of random events: the number of this guest if guests are numbered, otherwise the seed
/// that the harness gives the trial.
#[derive(Debug)]
enum Identity {
    Seed,
    Number(u32),
}

impl Identity {
    fn take() -> io::Result<Self> {
        let Some(folder) = std::env::var_os(DRAWS).map(PathBuf::from) else { return Ok(Self::Seed) };
        for number in 0.. {
            match File::create_new(folder.join(number.to_string())) {
                Ok(_) => return Ok(Self::Number(number)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::QuotaExceeded.into())
    }
}

/// Executes the lines of the script for this moment.
pub(crate) fn meet(guest: &Guest, when: When) -> io::Result<Course> {
    let mut course = Course::GoesOn;
    for line in guest.script.lines.iter().filter(|line| line.when == when) {
        if !guest.script.happens(line, guest)? {
            continue;
        }
        match line.what {
            What::Report(log) => print(guest, log)?,
            What::LockdepOff => guest.disarm(),
            What::Leak => guest.books().leaked += 20 << 10,
            What::Panic => {
                panics(guest)?;
                course = Course::Hangs;
            }
            What::Hang => {
                guest.mute();
                course = Course::Hangs;
            }
        }
    }
    Ok(course)
}

/// The lines of the report in a log, each with its caller.
fn report(log: &str) -> impl Iterator<Item = (&str, &str)> {
    const BEGINS: [&str; 3] = ["provoke: ", "[ cut here ]", "int3: "];
    let is_first = |line: &&str| BEGINS.iter().any(|begin| line.contains(begin));
    let lines = log.lines().skip_while(move |line| !is_first(line));
    let mut ended = false;
    let lines = lines.take_while(move |line| !std::mem::replace(&mut ended, line.contains("---[ end trace")));
    // `[    2.776804][    T1] text`
    lines.filter_map(|line| {
        let (_, rest) = line.split_once("][")?;
        let (caller, text) = rest.split_once("] ")?;
        Some((caller.trim(), text))
    })
}

fn print(guest: &Guest, log: &str) -> io::Result<()> {
    report(log).try_for_each(|(caller, text)| guest.record_of(4, caller, text))
}

/// Prints the panic to the console and to the log, and ends, because the machine would reboot
/// (`-no-reboot`).
fn panics(guest: &Guest) -> io::Result<()> {
    let log = REPORTS.iter().find(|(name, _)| *name == "panic").map_or("", |(_, log)| log);
    print(guest, log)?;
    for (caller, text) in report(log) {
        guest.serial().write_all(format!("[    5.000000][{caller:>6}] {text}\r\n").as_bytes())?;
    }
    if guest.stays() {
        guest.event("SHUTDOWN", &json!({ "guest": true, "reason": "guest-reset" }))?;
        guest.event("STOP", &Value::Null)?;
        return Ok(());
    }
    std::process::exit(0)
}

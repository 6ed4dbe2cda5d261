//! The state of a fake guest: its devices, its channels, its clock.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hotplug_protocol::{AgentEvent, Block, GuestTime, Hello, Rest, Say, Snapshot, VERSION, Zone};
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::script::{Script, When, meet};

/// Size of a memory block in bytes.
pub(crate) const BLOCK: u64 = 128 << 20;
/// Address of the first DIMM on q35.
const DIMMS: u64 = 4 << 30;
/// Memory of the guest that the kernel reserves for itself, KiB.
const KEPT: u64 = 30_000;

/// A plugged DIMM.
#[derive(Debug, Clone)]
pub(crate) struct Dimm {
    pub(crate) id: String,
    pub(crate) memdev: String,
    pub(crate) slot: usize,
    pub(crate) address: u64,
    pub(crate) size: u64,
}

impl Dimm {
    /// Numbers of the DIMM's memory blocks.
    pub(crate) fn blocks(&self) -> std::ops::Range<u64> {
        self.address / BLOCK..(self.address + self.size) / BLOCK
    }
}

/// Devices and loads, which change during a trial.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Size of each memory backend, by its id.
    pub(crate) backends: Vec<(String, u64)>,
    pub(crate) dimms: Vec<Dimm>,
    /// Id of the CPU in each slot.
    pub(crate) cpus: Vec<Option<String>>,
    pub(crate) loads: usize,
    /// Memory that is never given back, in KiB.
    pub(crate) leaked: u64,
}

impl Books {
    /// Plugs a DIMM with the backend `memdev` at the first free slot and address.
    pub(crate) fn plug_dimm(&mut self, id: &str, memdev: &str) -> Option<Dimm> {
        let (_, size) = *self.backends.iter().find(|(id, _)| id == memdev)?;
        let slot = (0..256).find(|slot| self.dimms.iter().all(|dimm| dimm.slot != *slot))?;
        let free = |at: &u64| self.dimms.iter().all(|d| at + size <= d.address || d.address + d.size <= *at);
        let address = (0..4096).map(|n| DIMMS + n * BLOCK).find(free)?;
        let dimm = Dimm { id: id.into(), memdev: memdev.into(), slot, address, size };
        self.dimms.push(dimm.clone());
        Some(dimm)
    }
}

/// The guest, and its connections to the harness.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) fault: Option<Fault>,
    pub(crate) script: Script,
    pub(crate) restored: bool,
    template: bool,
    books: Mutex<Books>,
    memory: u64,
    zone: &'static str,
    began: Instant,
    muted: AtomicBool,
    /// Its QEMU stays when the guest resets itself.
    stays: AtomicBool,
    /// Lockdep has turned itself off.
    disarmed: AtomicBool,
    /// The seed that the harness has sent, if it has.
    seed: (Mutex<Option<String>>, Condvar),
    /// The number of trials that have begun: each begins with a seed.
    rounds: AtomicU32,
    /// The trace of its kernel, from the file that the environment names.
    trace: Option<String>,
    /// From the comments `# heard 650` of that file: times of the uevents for memory that came
    /// online.
    heard_online: Mutex<VecDeque<u64>>,
    monitor: Mutex<UnixStream>,
    serial: Mutex<UnixStream>,
    agent: Mutex<UnixStream>,
    /// The connection, and the sequence number of the next record.
    kmsg: Mutex<(UnixStream, u64)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guest {
    /// The guest that QEMU's command line describes.
    pub(crate) fn new(
        arguments: &[String],
        fault: Option<Fault>,
        script: Script,
        [monitor, serial, agent, kmsg]: [&UnixStream; 4],
    ) -> io::Result<Self> {
        let value = |option: &str| -> io::Result<&str> {
            let pair = arguments.windows(2).find(|pair| pair[0] == option);
            pair.map(|pair| &*pair[1]).ok_or_else(|| io::Error::other(format!("no {option}")))
        };
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<usize>().ok());
        let smp = value("-smp")?;
        let max = smp.split(',').find_map(|part| part.strip_prefix("maxcpus="));
        let (Some(cpus), Some(max)) = (number(smp.split(',').next()), number(max)) else {
            return Err(io::Error::other(format!("-smp {smp}")));
        };
        let memory = value("-m")?.split(',').next().and_then(bytes);
        let movable = value("-append")?.contains("memhp_default_state=online_movable");
        let trace = std::env::var_os("HOTPLUG_FAKE_TRACE").map(std::fs::read_to_string).transpose()?;
        let restored = arguments.iter().any(|word| word == "-incoming");
        let books =
            Books { cpus: (0..max).map(|n| (n < cpus).then(String::new)).collect(), ..Books::default() };
        Ok(Self {
            fault,
            script,
            restored,
            template: arguments.iter().any(|word| word.ends_with("share=on")),
            books: Mutex::new(books),
            memory: memory.ok_or_else(|| io::Error::other("-m"))?,
            zone: if movable { "Movable" } else { "Normal" },
            began: Instant::now(),
            muted: AtomicBool::new(false),
            stays: AtomicBool::new(false),
            disarmed: AtomicBool::new(false),
            seed: Default::default(),
            rounds: AtomicU32::new(0),
            heard_online: Mutex::new(trace.iter().flat_map(|text| heard(text)).collect()),
            trace,
            monitor: Mutex::new(monitor.try_clone()?),
            serial: Mutex::new(serial.try_clone()?),
            agent: Mutex::new(agent.try_clone()?),
            // A restored guest continues after the two records of its boot.
            kmsg: Mutex::new((kmsg.try_clone()?, if restored { 2 } else { 0 })),
        })
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    pub(crate) fn monitor(&self) -> MutexGuard<'_, UnixStream> {
        lock(&self.monitor)
    }

    pub(crate) fn serial(&self) -> MutexGuard<'_, UnixStream> {
        lock(&self.serial)
    }

    pub(crate) fn agent(&self) -> MutexGuard<'_, UnixStream> {
        lock(&self.agent)
    }

    /// From now on the agent does not answer.
    pub(crate) fn mute(&self) {
        self.muted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_mute(&self) -> bool {
        self.muted.load(Ordering::Relaxed)
    }

    /// From now on, QEMU stays when the guest resets itself.
    pub(crate) fn stay(&self) {
        self.stays.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stays(&self) -> bool {
        self.stays.load(Ordering::Relaxed)
    }

    /// Lockdep turns itself off.
    pub(crate) fn disarm(&self) {
        self.disarmed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn reseed(&self, seed: String) {
        *lock(&self.seed.0) = Some(seed);
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.seed.1.notify_all();
    }

    /// The place of the current trial among those of this guest, from 1.
    pub(crate) fn round(&self) -> u32 {
        self.rounds.load(Ordering::Relaxed)
    }

    pub(crate) fn rest(&self) -> Rest {
        let available_kib = (self.memory / 1024 - KEPT).saturating_sub(self.books().leaked);
        Rest { at: GuestTime(self.now()), processes: 2, kernel_threads: 60, available_kib }
    }

    /// The seed of this guest. Waits for it, because the harness sends it before the first plug but
    /// on another channel.
    pub(crate) fn seed(&self) -> io::Result<String> {
        const LIMIT: Duration = Duration::from_secs(10);
        let (seed, changed) = &self.seed;
        let waited = changed.wait_timeout_while(lock(seed), LIMIT, |seed| seed.is_none());
        let (seed, _) = waited.unwrap_or_else(PoisonError::into_inner);
        seed.clone()
            .ok_or_else(|| io::Error::other("a guest that boots has no seed, and so no random events"))
    }

    pub(crate) fn is_armed(&self) -> bool {
        !self.disarmed.load(Ordering::Relaxed)
    }

    /// Microseconds since the boot of the guest.
    fn now(&self) -> u64 {
        5_000_000 + u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX / 2)
    }

    /// Boots the guest, unless it was restored.
    pub(crate) fn boot(&self) -> io::Result<()> {
        if self.restored {
            return Ok(());
        }
        self.record(5, "Linux version 6.1.0-fake")?;
        self.record(6, if self.template { "booted as a template" } else { "booted" })?;
        meet(self, When::Boot)?;
        self.say(AgentEvent::Ready(hello()))
    }

    /// Sends an event of the monitor.
    pub(crate) fn event(&self, name: &str, data: &Value) -> io::Result<()> {
        let timestamp = json!({ "seconds": 0, "microseconds": 0 });
        let event = json!({ "timestamp": timestamp, "event": name, "data": data });
        self.monitor().write_all(format!("{event}\n").as_bytes())
    }

    /// Sends a kernel record.
    pub(crate) fn record(&self, level: u32, text: &str) -> io::Result<()> {
        self.records(level, text, 1)
    }

    /// Sends a kernel record of the task or CPU `caller`, such as `T33`.
    pub(crate) fn record_of(&self, level: u32, caller: &str, text: &str) -> io::Result<()> {
        self.records_of(level, caller, text, 1)
    }

    /// Sends `count` equal kernel records.
    pub(crate) fn records(&self, level: u32, text: &str, count: usize) -> io::Result<()> {
        self.records_of(level, "T1", text, count)
    }

    fn records_of(&self, level: u32, caller: &str, text: &str, count: usize) -> io::Result<()> {
        let now = self.now();
        let (stream, next) = &mut *lock(&self.kmsg);
        let mut lines = String::new();
        for _ in 0..count {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{level},{next},{now},-,caller={caller};{text}");
            *next += 1;
        }
        stream.write_all(lines.as_bytes())
    }

    /// Sequence number of the newest record.
    pub(crate) fn newest(&self) -> Option<u64> {
        lock(&self.kmsg).1.checked_sub(1)
    }

    /// Sends an event of the agent.
    pub(crate) fn say(&self, event: AgentEvent) -> io::Result<()> {
        self.say_at(self.now(), event)
    }

    pub(crate) fn say_at(&self, at: u64, event: AgentEvent) -> io::Result<()> {
        self.line(&Say::Event { at: GuestTime(at), event })
    }

    pub(crate) fn answer(&self, id: u64, answer: hotplug_protocol::Answer) -> io::Result<()> {
        self.line(&Say::Answer { id, at: GuestTime(self.now()), answer })
    }

    fn line(&self, say: &Say) -> io::Result<()> {
        let mut line = serde_json::to_vec(say)?;
        line.push(b'\n');
        self.agent().write_all(&line)
    }

    pub(crate) fn uevent(&self, action: &str, devpath: &str) -> io::Result<()> {
        let heard = if action == "online" { lock(&self.heard_online).pop_front() } else { None };
        let at = heard.unwrap_or_else(|| self.now());
        self.say_at(at, AgentEvent::Uevent { action: action.into(), devpath: devpath.into() })
    }

    /// The trace of its kernel.
    pub(crate) fn trace(&self) -> Option<String> {
        self.trace.clone()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let books = self.books();
        let plugged: u64 = books.dimms.iter().map(|dimm| dimm.size).sum();
        let zone = |name: &str, bytes: u64, kept: u64| Zone {
            node: 0,
            name: name.into(),
            present_pages: bytes / 4096,
            managed_pages: bytes / 4096 - kept / 4,
        };
        let mut zones = vec![zone("DMA32", self.memory, KEPT)];
        if plugged > 0 {
            zones.push(zone(self.zone, plugged, 0));
        }
        let numbers = (0..self.memory / BLOCK).chain(books.dimms.iter().flat_map(Dimm::blocks));
        let cpus: Vec<u32> = (0..).zip(&books.cpus).filter_map(|(n, cpu)| cpu.as_ref().map(|_| n)).collect();
        Snapshot {
            mem_total_kib: (self.memory + plugged) / 1024 - KEPT,
            zones,
            blocks: numbers.map(|number| Block { number, state: "online".into() }).collect(),
            cpus_present: cpus.clone(),
            cpus_online: cpus,
            tainted: 0,
        }
    }
}

pub(crate) fn hello() -> Hello {
    Hello { version: VERSION, release: "6.1.0-fake".into(), page_bytes: 4096, block_bytes: Some(BLOCK) }
}

/// The time N of each line `# heard N`, in microseconds.
fn heard(trace: &str) -> impl Iterator<Item = u64> {
    trace.lines().filter_map(|line| line.strip_prefix("# heard ")?.trim().parse().ok())
}

/// Parses a size in the harness's form, such as `512M`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    Some(digits.parse::<u64>().ok()? * unit)
}

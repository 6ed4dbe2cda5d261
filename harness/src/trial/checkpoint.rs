//! Checkpoints: a booted, idle guest, kept as a file of memory and 300 KiB of state, from which trials are restored.
//!
//! Memory is a file that the guest has mapped shared while it boots and that no migration carries (`x-ignore-shared`).
//! Each restored guest maps it privately: it starts within milliseconds, whatever the guest's size, and pays for the
//! pages it writes to.
//!
//! ```text
//! ~/.cache/hotplug/checkpoints/<key>/
//!   lock, checkpoint.json           who makes or reads it; what it is. Written last
//!   memory, state                   of the guest
//!   kmsg.log, serial.log, qemu.cmd  what its boot said, and how it was started
//!   lock-order.json                 what its lockdep had learned, where that can be read
//!   boots/<n>/                      the same of further boots, where two kernels' differ: see [`Boot`]
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotplug_lockorder::{Layout, LockOrder};
use hotplug_protocol::{Hello, Snapshot};
use hotplug_side::{Side, Sides};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::vm::{Cut, Origin, Vm};
use super::{Setting, listening, locks};
use crate::bytes::Bytes;
use crate::event_log::Journal;
use crate::files::{write_json, write_json_compact};
use crate::host::Accelerator;
use crate::kernel::{Cache, blocking};
use crate::limits::limits;
use crate::qemu::{Scratch, Sealed, Start};
use crate::{Error, Result, guest};

/// Version of the files. Raised when an older harness's would be misread.
const FORMAT: u32 = 2;

/// How often a boot is tried whose infrastructure failed or that hung; see [`super::workers`]. Trials that boot try more.
const ATTEMPTS: u32 = 2;

/// What is kept of the boot beside the guest itself.
const EVIDENCE: [&str; 3] = ["kmsg.log", "serial.log", "qemu.cmd"];

/// A booted, idle guest.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(super) memory: Sealed,
    pub(super) state: Sealed,
    about: About,
    /// None where its kernel does not tell.
    lock_order: Option<Arc<LockOrder>>,
}

/// `checkpoint.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    /// Hashes of `memory` and `state`.
    memory_hash: String,
    state_hash: String,
    booted: Booted,
}

/// What is known of the guest that was saved.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Booted {
    /// Who the agent is.
    hello: Hello,
    /// What the guest had when it was saved, and so what a restored one begins with.
    baseline: Snapshot,
    /// Whether lockdep was checking; none in a kernel without it.
    lockdep_armed: Option<bool>,
    /// The last kernel record of the boot.
    newest_record: Option<u64>,
}

impl Checkpoint {
    pub(super) fn hello(&self) -> &Hello {
        &self.about.booted.hello
    }

    pub(super) fn baseline(&self) -> &Snapshot {
        &self.about.booted.baseline
    }

    pub(super) fn lockdep_armed(&self) -> Option<bool> {
        self.about.booted.lockdep_armed
    }

    pub(super) fn newest_record(&self) -> Option<u64> {
        self.about.booted.newest_record
    }

    pub(super) fn lock_order(&self) -> Option<&LockOrder> {
        self.lock_order.as_deref()
    }

    /// Memory of the host that all guests restored from it share.
    pub fn taken(&self) -> Result<Bytes> {
        self.memory.taken()
    }

    /// The one in `folder`, if it is whole; with its lock order, if `with_locks`.
    fn load(folder: &Path, with_locks: bool) -> Option<Self> {
        let about: About =
            serde_json::from_slice(&fs_err::read(folder.join("checkpoint.json")).ok()?).ok()?;
        let file = |name: &str, hash: &str| {
            let (file, has) = Sealed::copy_and_hash(&folder.join(name)).ok()?;
            (has == hash).then_some(file)
        };
        let memory = file("memory", &about.memory_hash)?;
        let state = file("state", &about.state_hash)?;
        let lock_order = if with_locks {
            let text = fs_err::read(folder.join(hotplug_lockorder::FILE)).ok()?;
            let order = serde_json::from_slice(&text).ok().filter(LockOrder::is_sound)?;
            Some(Arc::new(order))
        } else {
            None
        };
        // Its age is the time since its last use.
        let json = fs_err::File::open(folder.join("checkpoint.json")).ok()?;
        json.file().set_modified(std::time::SystemTime::now()).ok()?;
        Some(Self { memory, state, about, lock_order })
    }

    fn save(&self, folder: &Path, evidence: &Path) -> Result<()> {
        self.memory.save(&folder.join("memory"))?;
        self.state.save(&folder.join("state"))?;
        copy_evidence(evidence, folder)?;
        write_json(&folder.join("checkpoint.json"), &self.about)
    }
}

/// What came of preparing checkpoints.
#[derive(Debug)]
pub enum Checkpoints {
    /// There is one for each side.
    Ready(Box<Sides<Checkpoint>>),
    /// Why there is none: a side's boot hung, panicked or printed a report, or the scenario begins with the boot. Trials
    /// must then be cold boots.
    None(String),
}

/// Which boot of a kernel a checkpoint is of. Trials begin with the first. What all of them share by chance, such as how
/// full that boot left the slabs, further ones tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot(pub u32);

impl Boot {
    /// Of what trials begin with.
    pub const FIRST: Self = Self(1);
}

/// Has a checkpoint of this boot for both kernels of `setting`, from the cache or newly made. What their boots said is
/// below `evidence`, one folder a side. An error is an interruption, or our own disk's.
pub async fn prepare(
    setting: &Setting,
    cache: &Cache,
    number: Boot,
    evidence: &Path,
    cancel: &CancellationToken,
) -> Result<Checkpoints> {
    if setting.scenario.start == crate::scenario::Start::Boot {
        return Ok(Checkpoints::None("the scenario begins with the boot".into()));
    }
    let program = blake3::hash(&fs_err::read(&setting.qemu.path)?).to_hex().to_string();
    let keys =
        Sides { before: key(setting, &program, Side::Before)?, after: key(setting, &program, Side::After)? };
    let one = async |side: Side| {
        let folder = cache.checkpoints().join(keys.of(side));
        one(setting, side, &folder, number, &evidence.join(side.to_string()), cancel).await
    };
    let (before, after) = if keys.before == keys.after {
        let before = one(Side::Before).await?;
        let after = before.clone();
        (before, after)
    } else {
        tokio::try_join!(one(Side::Before), one(Side::After))?
    };
    Ok(match (before, after) {
        (Ok(before), Ok(after)) => Checkpoints::Ready(Box::new(Sides { before, after })),
        (Err(why), _) => Checkpoints::None(format!("the before kernel: {why}")),
        (_, Err(why)) => Checkpoints::None(format!("the after kernel: {why}")),
    })
}

/// One side's, below `folder` of the cache, or why there is none.
async fn one(
    setting: &Setting,
    side: Side,
    folder: &Path,
    number: Boot,
    evidence: &Path,
    cancel: &CancellationToken,
) -> Result<Result<Checkpoint, String>> {
    fs_err::create_dir_all(evidence)?;
    // Whoever else makes one of this kernel now is waited for. A prune leaves alone what is locked.
    let lock = tokio::select! {
        lock = lock(folder.to_owned()) => lock?,
        () = cancel.cancelled() => return Err(Error::interrupted()),
    };
    let place = match number {
        Boot::FIRST => folder.to_owned(),
        Boot(number) => folder.join("boots").join(number.to_string()),
    };
    fs_err::create_dir_all(&place)?;
    let with_locks = setting.lock_layouts.of(side).is_ok();
    // Reads some 50 MB; the other side's is read at the same time.
    let kept = place.clone();
    let kept = blocking(move || Ok(Checkpoint::load(&kept, with_locks))).await?;
    if let Some(checkpoint) = kept {
        copy_evidence(&place, evidence)?;
        return Ok(Ok(checkpoint));
    }
    // Stale, or half of one. Without this file it is none.
    let _ = std::fs::remove_file(place.join("checkpoint.json"));
    let mut why = String::new();
    for attempt in 1..=ATTEMPTS {
        match make(setting, side, evidence, cancel).await? {
            Ok(checkpoint) => {
                checkpoint.save(&place, evidence)?;
                drop(lock);
                return Ok(Ok(checkpoint));
            }
            Err(Unfit::Flaw(flaw)) => return Ok(Err(flaw)),
            Err(Unfit::Cut(cut @ Cut::Panicked)) => return Ok(Err(cut.words())),
            Err(Unfit::Cut(cut)) => why = format!("{} (in {attempt} boots)", cut.words()),
        }
    }
    Ok(Err(why))
}

/// Why a boot gave no checkpoint.
enum Unfit {
    /// It ended early; another boot may not.
    Cut(Cut),
    /// The booted guest is not fit: this kernel's never will be.
    Flaw(String),
}

/// Boots, waits until the guest is idle, looks whether it is fit, saves it.
async fn make(
    setting: &Setting,
    side: Side,
    dir: &Path,
    cancel: &CancellationToken,
) -> Result<Result<Checkpoint, Unfit>> {
    let memory = Scratch::new(setting.scenario.machine.memory)?;
    let state = Scratch::new(Bytes(0))?;
    let origin = Origin::Template { memory: &memory, state: &state };
    let journal = Journal::create(&dir.join("events.jsonl"))?;
    let heard = journal.listen();
    let whole = async {
        let vm = match Vm::start(setting, side, origin, dir, &journal).await {
            Ok(vm) => vm,
            Err(error) => return Ok(Err(Unfit::Cut(Cut::Broken(error.to_string())))),
        };
        let listens = listening::in_checkpoints_of(&setting.scenario);
        let led = match lead(&vm, heard, listens, dir, setting.lock_layouts.of(side)).await {
            Ok(booted) => vm.save().await.map_err(Unfit::Cut).map(|()| booted),
            Err(unfit) => Err(unfit),
        };
        let cut = match &led {
            Err(Unfit::Cut(cut)) => Some(cut),
            _ => None,
        };
        vm.shut_down(cut).await?;
        Ok::<_, Error>(led)
    };
    let led = tokio::select! {
        led = whole => led?,
        () = cancel.cancelled() => return Err(Error::interrupted()),
        () = journal.failed() => return Err(journal.check().err().unwrap_or_else(Error::interrupted)),
    };
    journal.check()?;
    let (booted, lock_order) = match led {
        Ok(booted) => booted,
        Err(unfit) => return Ok(Err(unfit)),
    };
    let (memory, state) = (memory.seal()?, state.seal()?);
    let about = About { memory_hash: memory.hash()?, state_hash: state.hash()?, booted };
    Ok(Ok(Checkpoint { memory, state, about, lock_order }))
}

async fn lead(
    vm: &Vm,
    heard: crate::event_log::Listener,
    listens: Option<u32>,
    dir: &Path,
    layout: &Result<Arc<Layout>, String>,
) -> Result<(Booted, Option<Arc<LockOrder>>), Unfit> {
    let hello = vm.boot(heard).await.map_err(Unfit::Cut)?;
    if let Some(cpu) = listens {
        vm.unless_cut(listening::on(vm, cpu, limits().questions)).await.map_err(Unfit::Cut)?;
    }
    let settled = async {
        vm.kmsg.silent_for(limits().settled).await;
        let broken = |error: guest::AgentError| Cut::Broken(error.to_string());
        let baseline = vm.agent.snapshot().await.map_err(broken)?;
        let stats = vm.agent.lockdep_stats().await.map_err(broken)?;
        let lockdep_armed = stats.and_then(|stats| stats.armed());
        let newest_record = vm.agent.drain().await.map_err(broken)?;
        if let Some(newest) = newest_record {
            vm.kmsg.reached(newest, limits().questions).await;
        }
        Ok(Booted { hello, baseline, lockdep_armed, newest_record })
    };
    let in_time = async {
        let settled = tokio::time::timeout(limits().questions, settled).await;
        settled.unwrap_or_else(|_| Err(Cut::Hung("does not settle after its boot".into())))
    };
    let booted = vm.unless_cut(in_time).await.map_err(Unfit::Cut)?;
    if booted.lockdep_armed == Some(false) {
        return Err(Unfit::Flaw("lockdep is off after the boot".into()));
    }
    // A report now would leave every trial blind, and a warning that comes once would never come again.
    let log = guest::kernel_log(dir).map_err(|error| Unfit::Cut(Cut::Broken(error.to_string())))?;
    if let Some(report) = hotplug_kreport::scan(&log).first() {
        return Err(Unfit::Flaw(format!("its boot reports: {}", report.title)));
    }
    let lock_order = if layout.is_ok() {
        let collected = vm.unless_cut(async { locks::collect(vm, layout).await.map_err(Cut::Broken) }).await;
        let order = collected.map_err(Unfit::Cut)?.order;
        let broken = |error: Error| Unfit::Cut(Cut::Broken(error.to_string()));
        write_json_compact(&dir.join(hotplug_lockorder::FILE), &order).map_err(broken)?;
        Some(Arc::new(order))
    } else {
        None
    };
    Ok((booted, lock_order))
}

/// What a checkpoint depends on: the command line, and everything that it names or that runs it. `program` is QEMU's hash.
fn key(setting: &Setting, program: &str, side: Side) -> Result<String> {
    let host_cpu = match setting.accelerator {
        // `-cpu host`: another host's guest would find other features than it booted with.
        Accelerator::Kvm => Some(&setting.host_cpu),
        Accelerator::Tcg => None,
    };
    let parts = serde_json::json!({
        "format": FORMAT,
        "protocol": hotplug_protocol::VERSION,
        "command-line": setting.command_line(Start::Template),
        "kernel": setting.kernels.of(side).hash()?,
        "initramfs": setting.initrd.hash()?,
        "qemu": [setting.qemu.version.to_string(), program],
        "host-cpu": host_cpu,
        "listens": listening::in_checkpoints_of(&setting.scenario),
    });
    Ok(blake3::hash(parts.to_string().as_bytes()).to_hex()[..32].to_owned())
}

/// Locks the checkpoint in `folder` for us alone.
async fn lock(folder: PathBuf) -> Result<Flock<File>> {
    let locked = tokio::task::spawn_blocking(move || {
        loop {
            fs_err::create_dir_all(&folder)?;
            // None: a prune took the folder away in between.
            if let Some(lock) = crate::kernel::try_lock(&folder.join("lock"), FlockArg::LockExclusive)? {
                return Ok(lock);
            }
        }
    });
    locked.await.unwrap_or_else(|error| Err(Error::infrastructure(error)))
}

fn copy_evidence(from: &Path, to: &Path) -> Result<()> {
    for name in EVIDENCE {
        fs_err::copy(from.join(name), to.join(name))?;
    }
    if from.join(hotplug_lockorder::FILE).exists() {
        fs_err::copy(from.join(hotplug_lockorder::FILE), to.join(hotplug_lockorder::FILE))?;
    }
    Ok(())
}

//! Checkpoints. A checkpoint is a booted, idle guest, stored as a file of its memory and 300 KiB of
//! state. Trials are restored from it.
//!
//! The memory is a file that the guest maps shared while it boots, and that no migration includes
//! (`x-ignore-shared`). Each restored guest maps the file privately. It starts within milliseconds,
//! whatever its size, and allocates only the pages that it writes to.
//!
//! ```text
//! ~/.cache/hotplug/checkpoints/<key>/
//!   lock, checkpoint.json           the lock of its users; its description, written last
//!   memory, state                   of the guest
//!   kmsg.log, serial.log, qemu.cmd  the logs of its boot, and QEMU's command line
//!   lock-order.json                 the lock order that its lockdep recorded, if it can be read
//!   boots/<n>/                      the same of further boots, if two kernels differ: [`Boot`]
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

use super::rest::Beginning;
use super::standing::StandingValues;
use super::vm::{Cut, Origin, Vm};
use super::{StaleBreakpoint, TrialContext, emulator, housekeeping_cpu, locks};
use crate::bytes::Bytes;
use crate::event_log::EventLog;
use crate::files::{write_json, write_json_compact};
use crate::host::Accelerator;
use crate::kernel::{Cache, blocking};
use crate::limits::limits;
use crate::unavailable::Unavailable;
use crate::vmm::{LaunchMode, Scratch, Sealed};
use crate::{Error, Result, guest};

/// The version of the files. It is raised when files of an older harness would be misread.
const FORMAT: u32 = 2;

/// How often a boot is tried if its infrastructure failed or it hung (see [`super::pool`]). Trials
/// that boot try more often.
const ATTEMPTS: u32 = 2;

/// The files that are kept from the boot, in addition to the guest itself.
const EVIDENCE: [&str; 3] = ["kmsg.log", "serial.log", "qemu.cmd"];

/// A booted, idle guest.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(super) memory: Sealed,
    pub(super) state: Sealed,
    about: About,
    /// `None` if its kernel's lock order cannot be read.
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

/// The properties of the saved guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Booted {
    /// The agent's description of itself and of the guest.
    hello: Hello,
    /// The guest's memory and CPUs when it was saved, and so those that a restored guest begins
    /// with.
    baseline: Snapshot,
    /// The values of its kernel's state. Checkpoints of older versions lack them.
    #[serde(default)]
    standing: Option<StandingValues>,
    /// Whether lockdep was checking. `None` for a kernel without it.
    lockdep_armed: Option<bool>,
    /// The sequence number of the last kernel record of the boot.
    newest_record: Option<u64>,
}

impl Checkpoint {
    /// What every guest that is restored from it begins with.
    pub(super) fn beginning(&self) -> Beginning {
        let Booted { hello, baseline, standing, lockdep_armed, .. } = &self.about.booted;
        Beginning {
            hello: hello.clone(),
            baseline: baseline.clone(),
            standing: standing.clone(),
            armed: *lockdep_armed,
        }
    }

    pub(super) fn newest_record(&self) -> Option<u64> {
        self.about.booted.newest_record
    }

    pub(super) fn lock_order(&self) -> Option<&LockOrder> {
        self.lock_order.as_deref()
    }

    /// The host memory that all guests restored from it share.
    pub fn taken(&self) -> Result<Bytes> {
        self.memory.taken()
    }

    /// Loads the checkpoint in `folder`, if it is complete. With `with_locks`, the lock order must
    /// be there too.
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
        // The file's modification time is the time of the checkpoint's last use.
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

/// The boot of a kernel that a checkpoint is from. Trials begin with the first boot. All of them
/// share what chance decided in it, such as how full the slabs are. Trials from further boots show
/// what depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot(pub u32);

impl Boot {
    /// The boot that trials begin with.
    pub const FIRST: Self = Self(1);
}

/// The checkpoints of this boot for both kernels of `context`, from the cache or newly made. The
/// logs of their boots are written below `evidence`, one folder for each side.
///
/// `Unavailable` means that a side's boot hung, panicked or printed a report, or that the scenario
/// begins with the boot. Trials must then boot. Errors only on Ctrl-C or a disk error.
pub async fn prepare(
    context: &TrialContext,
    cache: &Cache,
    number: Boot,
    evidence: &Path,
    cancel: &CancellationToken,
) -> Result<Result<Box<Sides<Checkpoint>>, Unavailable>> {
    if context.scenario.start == crate::scenario::Start::Boot {
        return Ok(Err(Unavailable::because("the scenario begins with the boot")));
    }
    let program = blake3::hash(&fs_err::read(&context.qemu.path)?).to_hex().to_string();
    let keys =
        Sides { before: key(context, &program, Side::Before)?, after: key(context, &program, Side::After)? };
    let one = async |side: Side| {
        let folder = cache.checkpoints().join(keys.of(side));
        one(context, side, &folder, number, &evidence.join(side.to_string()), cancel).await
    };
    let (before, after) = if keys.before == keys.after {
        let before = one(Side::Before).await?;
        let after = before.clone();
        (before, after)
    } else {
        tokio::try_join!(one(Side::Before), one(Side::After))?
    };
    Ok(match (before, after) {
        (Ok(before), Ok(after)) => Ok(Box::new(Sides { before, after })),
        (Err(why), _) => Err(Unavailable::because(format!("the before kernel: {why}"))),
        (_, Err(why)) => Err(Unavailable::because(format!("the after kernel: {why}"))),
    })
}

/// The checkpoint of one side, in `folder` of the cache, or why there is none.
async fn one(
    context: &TrialContext,
    side: Side,
    folder: &Path,
    number: Boot,
    evidence: &Path,
    cancel: &CancellationToken,
) -> Result<Result<Checkpoint, Unavailable>> {
    fs_err::create_dir_all(evidence)?;
    // This waits for any other process that makes a checkpoint of this kernel now. A prune does not
    // remove what is locked.
    let lock = tokio::select! {
        lock = lock(folder.to_owned()) => lock?,
        () = cancel.cancelled() => return Err(Error::interrupted()),
    };
    let place = match number {
        Boot::FIRST => folder.to_owned(),
        Boot(number) => folder.join("boots").join(number.to_string()),
    };
    fs_err::create_dir_all(&place)?;
    let with_locks = context.lock_layouts.of(side).is_ok();
    // This reads some 50 MB. The other side's checkpoint is read at the same time.
    let kept = place.clone();
    let kept = blocking(move || Ok(Checkpoint::load(&kept, with_locks))).await?;
    if let Some(checkpoint) = kept {
        copy_evidence(&place, evidence)?;
        return Ok(Ok(checkpoint));
    }
    // The checkpoint is stale or incomplete. Without this file it does not count as one.
    let _ = std::fs::remove_file(place.join("checkpoint.json"));
    let mut why = String::new();
    for attempt in 1..=ATTEMPTS {
        match make(context, side, evidence, cancel).await? {
            Ok(checkpoint) => {
                checkpoint.save(&place, evidence)?;
                drop(lock);
                return Ok(Ok(checkpoint));
            }
            Err(Unfit::Flaw(flaw)) => return Ok(Err(Unavailable::because(flaw))),
            Err(Unfit::Cut(cut @ Cut::Panicked)) => return Ok(Err(Unavailable::because(cut.words()))),
            Err(Unfit::Cut(cut)) => why = format!("{} (in {attempt} boots)", cut.words()),
        }
    }
    Ok(Err(Unavailable::because(why)))
}

/// Whether there is no checkpoint, for this reason, because a kernel panicked or hung at boot.
pub(crate) fn is_failed_boot(why: &str) -> bool {
    why.ends_with(&Cut::Panicked.words()) || why.ends_with(&format!("(in {ATTEMPTS} boots)"))
}

/// The reason why a boot gave no checkpoint.
enum Unfit {
    /// The boot ended early. Another boot may succeed.
    Cut(Cut),
    /// The booted guest is not suitable, and no boot of this kernel will be.
    Flaw(String),
}

/// Boots a guest, waits until it is idle, checks that it is suitable, and saves it.
async fn make(
    context: &TrialContext,
    side: Side,
    dir: &Path,
    cancel: &CancellationToken,
) -> Result<Result<Checkpoint, Unfit>> {
    let memory = Scratch::new(context.scenario.machine.memory)?;
    let state = Scratch::new(Bytes(0))?;
    let origin = Origin::Template { memory: &memory, state: &state };
    let event_log = EventLog::create(&dir.join("events.jsonl"))?;
    let heard = event_log.listen();
    let whole = async {
        let vm = match Vm::start(context, side, origin, dir, &event_log).await {
            Ok(vm) => vm,
            Err(error) => return Ok(Err(Unfit::Cut(Cut::Broken(error.to_string())))),
        };
        let listens = housekeeping_cpu::in_checkpoints_of(&context.scenario);
        let led = match lead(&vm, heard, listens, dir, context.lock_layouts.of(side)).await {
            Ok(booted) => vm.save().await.map_err(Unfit::Cut).map(|()| booted),
            Err(unfit) => Err(unfit),
        };
        let cut = match &led {
            Err(Unfit::Cut(cut)) => Some(cut),
            _ => None,
        };
        vm.shut_down(cut).await?;
        Ok::<_, Error>(led.map_err(|unfit| of_emulator(unfit, context, side, dir)))
    };
    let led = tokio::select! {
        led = whole => led?,
        () = cancel.cancelled() => return Err(Error::interrupted()),
        () = event_log.failed() => return Err(event_log.check().err().unwrap_or_else(Error::interrupted)),
    };
    event_log.check()?;
    let (booted, lock_order) = match led {
        Ok(booted) => booted,
        Err(unfit) => return Ok(Err(unfit)),
    };
    let (memory, state) = (memory.seal()?, state.seal()?);
    let about = About { memory_hash: memory.hash()?, state_hash: state.hash()?, booted };
    Ok(Ok(Checkpoint { memory, state, about, lock_order }))
}

/// The reason, unless a fault of the emulator is behind it: then another boot may succeed.
fn of_emulator(unfit: Unfit, context: &TrialContext, side: Side, dir: &Path) -> Unfit {
    // A log that cannot be read has told nothing.
    let log = guest::kernel_log(dir).unwrap_or_default();
    let reports = hotplug_kreport::scan_own(&log);
    match emulator::find(context, side, &reports, &log) {
        Some((0, stale @ StaleBreakpoint::Emulator { .. })) => Unfit::Cut(Cut::Broken(stale.to_string())),
        _ => unfit,
    }
}

async fn lead(
    vm: &Vm,
    heard: crate::event_log::Subscription,
    listens: Option<u32>,
    dir: &Path,
    layout: &Result<Arc<Layout>, Unavailable>,
) -> Result<(Booted, Option<Arc<LockOrder>>), Unfit> {
    let hello = vm.boot(heard).await.map_err(Unfit::Cut)?;
    if let Some(cpu) = listens {
        vm.unless_cut(housekeeping_cpu::on(vm, cpu, limits().questions)).await.map_err(Unfit::Cut)?;
    }
    let settled = async {
        vm.kmsg.silent_for(limits().settled).await;
        let broken = |error: guest::AgentError| Cut::Broken(error.to_string());
        let baseline = vm.agent.snapshot().await.map_err(broken)?;
        let standing = Some(StandingValues::read(&vm.agent).await.map_err(broken)?);
        let stats = vm.agent.lockdep_stats().await.map_err(broken)?;
        let lockdep_armed = stats.and_then(|stats| stats.armed());
        let newest_record = vm.agent.drain().await.map_err(broken)?;
        if let Some(newest) = newest_record {
            vm.kmsg.reached(newest, limits().questions).await;
        }
        Ok(Booted { hello, baseline, standing, lockdep_armed, newest_record })
    };
    let in_time = async {
        let settled = tokio::time::timeout(limits().questions, settled).await;
        settled.unwrap_or_else(|_| Err(Cut::Hung("does not become idle after its boot".into())))
    };
    let booted = vm.unless_cut(in_time).await.map_err(Unfit::Cut)?;
    if booted.lockdep_armed == Some(false) {
        return Err(Unfit::Flaw("lockdep is off after the boot".into()));
    }
    // A report during the boot would make every trial blind, and a warning that is printed only
    // once would never be printed again.
    let log = guest::kernel_log(dir).map_err(|error| Unfit::Cut(Cut::Broken(error.to_string())))?;
    if let Some(report) = hotplug_kreport::scan_own(&log).first() {
        return Err(Unfit::Flaw(format!("its boot printed a report: {}", report.title)));
    }
    let lock_order = if layout.is_ok() {
        let collected = vm
            .unless_cut(async {
                locks::collect(vm, layout).await.map_err(|why| Cut::Broken(why.to_string()))
            })
            .await;
        let order = collected.map_err(Unfit::Cut)?.order;
        let broken = |error: Error| Unfit::Cut(Cut::Broken(error.to_string()));
        write_json_compact(&dir.join(hotplug_lockorder::FILE), &order).map_err(broken)?;
        Some(Arc::new(order))
    } else {
        None
    };
    Ok((booted, lock_order))
}

/// The key of a checkpoint: a hash of everything that it depends on. These are the command line,
/// all files that it names, and the program that runs it. `program` is the hash of QEMU.
fn key(context: &TrialContext, program: &str, side: Side) -> Result<String> {
    let host_cpu = match context.accelerator {
        // With `-cpu host`, a guest on another host would find other features than it booted with.
        Accelerator::Kvm => Some(&context.host_cpu),
        Accelerator::Tcg => None,
    };
    let parts = serde_json::json!({
        "format": FORMAT,
        "protocol": hotplug_protocol::VERSION,
        "command-line": context.command_line(LaunchMode::Template),
        "kernel": context.kernels.of(side).hash()?,
        "initramfs": context.initrd.of(side).hash()?,
        "qemu": [context.qemu.version.to_string(), program],
        "host-cpu": host_cpu,
        "listens": housekeeping_cpu::in_checkpoints_of(&context.scenario),
    });
    Ok(blake3::hash(parts.to_string().as_bytes()).to_hex()[..32].to_owned())
}

/// Locks the checkpoint in `folder` exclusively.
async fn lock(folder: PathBuf) -> Result<Flock<File>> {
    let locked = tokio::task::spawn_blocking(move || {
        loop {
            fs_err::create_dir_all(&folder)?;
            // `None` means that a prune removed the folder in the meantime.
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

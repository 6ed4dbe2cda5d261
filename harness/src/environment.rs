//! What surrounds the trials of a run: the host and its QEMU, the context that all trials share, and the inputs of an
//! earlier run, which are found again.

use std::path::Path;
use std::sync::Arc;

use hotplug_lockorder::Layout;
use hotplug_side::{Side, Sides};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::bytes::Bytes;
use crate::events::{Builds, Event, Listener};
use crate::host::{self, Acceleration, Accelerator, AcceleratorRequest, System};
use crate::kernel::{self, Cache, Kernel, KernelPair, PairRequest, PairSpec, build_pair};
use crate::qemu::{Identity, Platform, Sealed, has_sandbox, shell_word};
use crate::record::{Host, KernelNote, Run, RunFolder, Start};
use crate::rendezvous::Places;
use crate::scenario::{Clock, Scenario};
use crate::spec::RunningSpec;
use crate::trial::checkpoint::{self, Boot, Checkpoints};
use crate::trial::{OnDisk, Setting};
use crate::{Error, Result};

/// What every command that runs trials works with.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// Where kernels and checkpoints are.
    pub cache: &'a Cache,
    /// Receives what happens.
    pub events: &'a dyn Listener,
    /// Ends the work early: Ctrl-C.
    pub cancel: &'a CancellationToken,
    /// The command that was given, which `run.json` keeps.
    pub command: &'a [String],
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Env<'_> {
    /// Tells the listener of a part of the work.
    pub(crate) fn note(&self, label: &str, text: &str) {
        self.events.event(&Event::Note { label, text });
    }

    /// Builds, or finds, the kernels of a pair.
    pub(crate) async fn build(&self, request: &PairRequest) -> Result<KernelPair> {
        build_pair(self.cache, request, &Builds(self.events), self.cancel).await
    }

    /// Builds the first of many kernels, and finds the accelerator with its image. With them come the note of the host,
    /// and `running` with that accelerator, so that no inner run looks for it again.
    pub(crate) async fn settle(
        &self,
        running: &RunningSpec,
        first: &PairSpec,
    ) -> Result<(Kernel, Host, RunningSpec)> {
        let host = HostEnv::detect().await?;
        let kernel = self.build(&first.request()?).await?.before;
        let probed = self.accelerator(host, running.accelerator_request(), &kernel.image).await?;
        let running = RunningSpec { found: Some(probed.accelerator), ..running.clone() };
        Ok((kernel, host.note(&probed), running))
    }

    /// The accelerator that is asked for, tried with a kernel's image.
    pub(crate) async fn accelerator(
        &self,
        host: &HostEnv,
        asked: AcceleratorRequest,
        image: &Path,
    ) -> Result<Acceleration> {
        host::find_accelerator(&host.qemu, asked, Some(image), self.cache, self.cancel).await
    }
}

/// This machine, and its QEMU.
#[derive(Debug)]
pub struct HostEnv {
    /// The machine.
    pub host: host::Host,
    /// Its QEMU.
    pub qemu: host::Qemu,
}

/// They are the same as long as the process lives.
static DETECTED: OnceCell<HostEnv> = OnceCell::const_new();

/// Documentation/admin-guide/mm/hugetlbpage.rst
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

impl HostEnv {
    /// Finds them, once a process. The user's error: there is no QEMU that serves.
    pub async fn detect() -> Result<&'static Self> {
        DETECTED
            .get_or_try_init(async || {
                let host = host::survey(&System::this_machine()).await?;
                let qemu = host.qemu()?.clone();
                Ok(Self { host, qemu })
            })
            .await
    }

    /// What a result says of it.
    pub(crate) fn note(&self, acceleration: &Acceleration) -> Host {
        Host {
            qemu: self.qemu.version.to_string(),
            accelerator: acceleration.accelerator.to_string(),
            accelerator_reason: acceleration.to_string(),
            cores: self.host.cores,
            cpu: self.host.cpu.clone(),
            kernel: self.host.kernel.clone(),
        }
    }

    /// What the scenario does, this QEMU can do.
    pub(crate) fn fits(&self, scenario: &Scenario, accelerator: Accelerator) -> Result<()> {
        if scenario.removes_cpus() {
            self.qemu.check_cpu_removal(accelerator)?;
        }
        let (started, max) = (scenario.cpus_ever_started(), scenario.machine.max_cpus);
        if accelerator == Accelerator::Tcg && started > max {
            let what = format!(
                "scenario {} starts {started} vCPUs in a trial, counting every plug; under TCG QEMU starts at most max_cpus = {max} in its life",
                scenario.name
            );
            return Err(Error::user(what).help(format!("max_cpus = {started}, or fewer repeats")));
        }
        let free = fs_err::read_to_string(FREE).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let (need, free) = (scenario.huge_pages(), free.unwrap_or(0));
        if need > free {
            let what = format!(
                "a guest of scenario {} takes {need} huge pages of 2 MiB, this machine has {free} free",
                scenario.name
            );
            return Err(Error::user(what)
                .help(format!("sysctl vm.nr_hugepages={need}, and as many for each further guest at once")));
        }
        Ok(())
    }

    /// Guests at once: as asked, or one for each processor, as long as all of them find room when everything is
    /// plugged and touched.
    pub(crate) fn workers(&self, asked: Option<u32>, scenario: &Scenario) -> usize {
        /// What a QEMU needs beside its guest's memory: 60 MiB resident, and the translated code of a busy guest.
        const QEMU_ITSELF: Bytes = Bytes(256 * Bytes::MIB);
        if let Some(asked) = asked {
            return usize::try_from(asked).unwrap_or(1);
        }
        let one = scenario.largest().0 + QEMU_ITSELF.0;
        // A quarter is left to whoever else is there.
        let room = self.host.memory_available.0 / 4 * 3 / one;
        self.host.cores.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
    }

    /// What all trials share, checkpoints aside. Both sides' releases make the machine, whichever of them is booted.
    pub(crate) async fn context(
        &self,
        scenario: Scenario,
        accelerator: Accelerator,
        kernels: &Sides<Kernel>,
        run: &Run,
        initramfs: &[u8],
        places: Option<Sides<Arc<Places>>>,
    ) -> Result<Setting> {
        self.fits(&scenario, accelerator)?;
        // Each of these takes a tenth of a second, most of it waiting for another process or on another processor.
        let (sandbox, lock_layouts) = tokio::join!(has_sandbox(&self.qemu.path), lock_layouts(kernels));
        let images = Sides { before: &*kernels.before.image, after: &*kernels.after.image };
        let releases = [&*run.kernels.before.release, &*run.kernels.after.release];
        Ok(Setting {
            initrd: Sealed::of(initramfs)?,
            kernels: Sides { before: Sealed::copy_of(images.before)?, after: Sealed::copy_of(images.after)? },
            on_disk: OnDisk::new(images, initramfs)?,
            identity: Identity::choose(accelerator)?,
            sandbox,
            qemu: self.qemu.clone(),
            accelerator,
            host_cpu: self.host.cpu.clone(),
            platform: Platform::for_releases(releases),
            loops_per_jiffy: loops_per_jiffy(accelerator, kernels),
            clock: Clock::Wall,
            scenario,
            checkpoints: None,
            lock_layouts,
            counted: None,
            watched: None,
            places,
        })
    }
}

/// Where both kernels have the places that the scenario names; none where it names none.
pub(crate) fn places(kernels: &Sides<Kernel>, scenario: &Scenario) -> Result<Option<Sides<Arc<Places>>>> {
    if scenario.holds.is_empty() {
        return Ok(None);
    }
    let one = |side: Side| {
        let vmlinux = kernels.of(side).vmlinux.as_ref().ok_or_else(|| {
            Error::user(format!(
                "nobody can be held: the kernel {side} was given as an image, without a vmlinux"
            ))
            .help("give its source, and have it built")
        })?;
        Ok::<_, Error>(Arc::new(Places::find(vmlinux, side, scenario.holds.points())?))
    };
    let before = one(Side::Before)?;
    let after = if kernels.before.id == kernels.after.id { before.clone() } else { one(Side::After)? };
    Places::check(&before, &after)?;
    Ok(Some(Sides { before, after }))
}

/// Where both kernels keep their lock order, or why that is not known.
async fn lock_layouts(kernels: &Sides<Kernel>) -> Sides<std::result::Result<Arc<Layout>, String>> {
    if kernels.before.id == kernels.after.id {
        let before = lock_layout(&kernels.before).await;
        return Sides { after: before.clone(), before };
    }
    let (before, after) = tokio::join!(lock_layout(&kernels.before), lock_layout(&kernels.after));
    Sides { before, after }
}

async fn lock_layout(kernel: &Kernel) -> std::result::Result<Arc<Layout>, String> {
    let vmlinux = kernel.vmlinux.clone().ok_or("its kernel was given as an image, without a vmlinux")?;
    match kernel::blocking(move || Ok(Layout::of(&vmlinux)?)).await {
        Ok(Some(layout)) => Ok(Arc::new(layout)),
        Ok(None) => Err("its kernel has no lockdep (CONFIG_PROVE_LOCKING)".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What a guest's delay loops count between two ticks of its timer: one figure for both sides, or none.
fn loops_per_jiffy(accelerator: Accelerator, kernels: &Sides<Kernel>) -> Option<u64> {
    let hz = kernels.before.hz().filter(|hz| *hz > 0 && kernels.after.hz() == Some(*hz))?;
    (accelerator == Accelerator::Tcg).then(host::tsc_hz).flatten().map(|tsc| tsc / hz)
}

/// Has checkpoints made where trials are to be restored, what their boots said below `evidence`; says how trials start.
pub(crate) async fn start(
    cold: bool,
    setting: &mut Setting,
    evidence: &Path,
    env: &Env<'_>,
) -> Result<Start> {
    if cold {
        return Ok(Start::Cold { why: "--cold".into() });
    }
    // Boxed: two boots at once are a large future, and every command would carry it.
    match Box::pin(checkpoint::prepare(setting, env.cache, Boot::FIRST, evidence, env.cancel)).await? {
        Checkpoints::Ready(checkpoints) => {
            setting.checkpoints = Some(*checkpoints);
            Ok(Start::Restored)
        }
        Checkpoints::None(why) => Ok(Start::Cold { why: format!("no checkpoint: {why}") }),
    }
}

/// What a result says of a kernel.
pub(crate) fn note(kernel: &Kernel) -> KernelNote {
    let source = match &kernel.record {
        Some(record) => record.source.clone(),
        None => kernel.image.display().to_string(),
    };
    KernelNote {
        id: kernel.id.as_str().to_owned(),
        release: kernel.release.clone(),
        source,
        built: kernel.built.to_string(),
        image_hash: kernel.image_hash.clone(),
        image: kernel.image.clone(),
    }
}

/// The scenario of an earlier run, as it is kept in its folder, and its text.
pub fn kept_scenario(folder: &Path, run: &Run) -> Result<(Scenario, String)> {
    let path = folder.join("scenario.toml");
    let text = fs_err::read_to_string(&path)
        .map_err(|error| Error::user(format!("the run's scenario is gone: {error}")))?;
    if blake3::hash(text.as_bytes()).to_hex().as_str() != run.scenario_hash {
        return Err(Error::user(format!("{} is no more what the run read", path.display()))
            .help("put it back as it was"));
    }
    Ok((Scenario::parse(&format!("{}.toml", run.scenario), &text)?, text))
}

/// A kernel of an earlier run, the same bit for bit.
pub(crate) fn same_kernel(cache: &Cache, run: &Run, side: Side) -> Result<Kernel> {
    let note = run.kernels.of(side);
    kernel::recall(cache, &note.id, &note.image, &note.image_hash)?.ok_or_else(|| {
        let what = format!(
            "the run's {side} kernel, {} ({}), is no more: there is no image with its hash at {}",
            note.release,
            note.source,
            note.image.display()
        );
        let (patches, options) = run.spec.kernels.words();
        let words: Vec<String> = patches.iter().chain(&options).map(|word| shell_word(word)).collect();
        Error::user(what)
            .detail("the same source, config and compiler give the same image again, bit for bit")
            .help(format!("hotplug kernel build {}", words.join(" ")).trim_end())
    })
}

/// Checks that trials run here are like those of an earlier run; the accelerator that it had.
pub(crate) fn check_same_environment(run: &Run, here: &HostEnv, initramfs: &[u8]) -> Result<Accelerator> {
    let differs = |what: &str, was: &str, is: &str, help: &str| {
        let text = format!("the run's trials had {what} {was}, here it is {is}: they would not be alike");
        Err(Error::user(text).help(help))
    };
    let qemu = here.qemu.version.to_string();
    if run.host.qemu != qemu {
        let help = format!("set {} to a QEMU {}, or compare anew", host::OVERRIDE, run.host.qemu);
        return differs("QEMU", &run.host.qemu, &qemu, &help);
    }
    let hash = blake3::hash(initramfs).to_hex();
    if run.initramfs_hash != hash.as_str() {
        let help = format!("use the hotplug {} that began it, or compare anew", run.hotplug);
        return differs(
            "the guest agent",
            &run.initramfs_hash[..12.min(run.initramfs_hash.len())],
            &hash[..12],
            &help,
        );
    }
    if run.host.accelerator != Accelerator::Kvm.to_string() {
        return Ok(Accelerator::Tcg);
    }
    // `-cpu host`: a guest sees the processor.
    if run.host.cpu != here.host.cpu {
        return differs(
            "the processor",
            &run.host.cpu,
            &here.host.cpu,
            "go on where it began, or compare anew",
        );
    }
    Ok(Accelerator::Kvm)
}

/// Keeps in the folder of a run what its trials are made of, beside the kernels.
pub(crate) fn save_inputs(folder: &RunFolder, scenario: &str, initramfs: &[u8]) -> Result<()> {
    fs_err::write(folder.path().join("scenario.toml"), scenario)?;
    Ok(fs_err::write(folder.path().join(OnDisk::INITRAMFS), initramfs)?)
}

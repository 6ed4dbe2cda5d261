//! The environment of a run's trials: the host and its QEMU, the context that all trials share, and
//! the inputs of an earlier run.

use std::path::Path;
use std::sync::Arc;

use hotplug_lockorder::Layout;
use hotplug_side::{Side, Sides};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::arch::{Architecture, Platform};
use crate::bytes::Bytes;
use crate::events::{Builds, Listener, RunEvent};
use crate::host::{self, Acceleration, Accelerator, AcceleratorRequest, System};
use crate::kernel::{self, Cache, Kernel, KernelPair, PairRequest, PairSpec, build_pair};
use crate::program_files;
use crate::record::{HostRecord, KernelNote, Run, RunFolder};
use crate::rendezvous::Places;
use crate::scenario::{Clock, Scenario};
use crate::spec::RunningSpec;
use crate::trial::checkpoint::{self, Boot};
use crate::trial::{OnDisk, TrialContext, TrialStart};
use crate::unavailable::Unavailable;
use crate::vmm::{Identity, Sealed, has_sandbox, shell_word};
use crate::{Error, Result, image};

/// The environment of every command that runs trials.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// The cache of kernels and checkpoints.
    pub cache: &'a Cache,
    /// Receives all events.
    pub events: &'a dyn Listener,
    /// Ends the work early, on Ctrl-C.
    pub cancel: &'a CancellationToken,
    /// The command line, which is stored in `run.json`.
    pub command: &'a [String],
    /// The options that a configuration file set, which are stored there, too.
    pub settings: &'a [String],
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Env<'_> {
    /// Sends a note about a part of the work to the listener.
    pub(crate) fn note(&self, label: &str, text: &str) {
        self.events.event(&RunEvent::Note { label, text });
    }

    /// Sends the start of further trials to the listener: the number of all, and of those left to
    /// run.
    pub(crate) fn trials_begin(&self, all: u64, left: usize) {
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        let done = all.saturating_sub(left);
        self.events.event(&RunEvent::TrialsBegin { label: "trials", all: Some(all), done });
    }

    /// Sends the end of these trials to the listener.
    pub(crate) fn trials_end(&self) {
        self.events.event(&RunEvent::TrialsEnd);
    }

    /// Builds the kernels of a pair, or finds them in the cache.
    pub(crate) async fn build(&self, request: &PairRequest) -> Result<KernelPair> {
        build_pair(self.cache, request, &Builds(self.events), self.cancel).await
    }

    /// Builds the first of many kernels, and determines the accelerator with its image. Also
    /// returns the record of the host, and `running` with that accelerator, so that no inner run
    /// probes again.
    pub(crate) async fn settle(
        &self,
        running: &RunningSpec,
        first: &PairSpec,
    ) -> Result<(Kernel, HostRecord, RunningSpec)> {
        let host = HostEnv::detect(first.arch.unwrap_or_default()).await?;
        let kernel = self.build(&first.request()?).await?.before;
        let probed = self.accelerator(host, running.accelerator_request(), &kernel.image).await?;
        let running = RunningSpec { found: Some(probed.accelerator), ..running.clone() };
        Ok((kernel, host.note(&probed), running))
    }

    /// Determines the accelerator for a request, by a probe with a kernel's image.
    pub(crate) async fn accelerator(
        &self,
        host: &HostEnv,
        asked: AcceleratorRequest,
        image: &Path,
    ) -> Result<Acceleration> {
        host::find_accelerator(&host.qemu, host.host.arch, asked, Some(image), self.cache, self.cancel).await
    }
}

/// This machine and its QEMU.
#[derive(Debug)]
pub struct HostEnv {
    /// The machine.
    pub host: host::Host,
    /// Its QEMU.
    pub qemu: host::Qemu,
}

/// Both stay the same for the life of the process. One for each architecture.
static DETECTED: [OnceCell<HostEnv>; Architecture::ALL.len()] =
    [const { OnceCell::const_new() }; Architecture::ALL.len()];

/// The kernel documents this file in Documentation/admin-guide/mm/hugetlbpage.rst.
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

impl HostEnv {
    /// Detects both, once per process. Fails with a user error if there is no usable QEMU for guests
    /// of `arch`.
    pub async fn detect(arch: Architecture) -> Result<&'static Self> {
        let place = Architecture::ALL.iter().position(|one| *one == arch).unwrap_or(0);
        DETECTED[place]
            .get_or_try_init(async || {
                let host = host::survey(&System::this_machine(), arch).await?;
                let qemu = host.qemu()?.clone();
                Ok(Self { host, qemu })
            })
            .await
    }

    /// The initramfs of its guests. Fails with a user error if this binary has no agent for them.
    pub(crate) fn initramfs(&self) -> Result<&'static [u8]> {
        image::initramfs(self.host.arch)
    }

    /// The record of the host in a result.
    pub(crate) fn note(&self, acceleration: &Acceleration) -> HostRecord {
        HostRecord {
            qemu: self.qemu.version.to_string(),
            accelerator: acceleration.accelerator.to_string(),
            accelerator_reason: acceleration.to_string(),
            cores: self.host.cores,
            cpu: self.host.cpu.clone(),
            kernel: self.host.kernel.clone(),
        }
    }

    /// The record of the host in a result without guests.
    pub(crate) fn note_without_guests(&self) -> HostRecord {
        HostRecord {
            qemu: self.qemu.version.to_string(),
            accelerator: "none".into(),
            accelerator_reason: "no guest was started".into(),
            cores: self.host.cores,
            cpu: self.host.cpu.clone(),
            kernel: self.host.kernel.clone(),
        }
    }

    /// Checks that this QEMU and this machine can run the scenario.
    pub(crate) fn fits(&self, scenario: &Scenario, accelerator: Accelerator) -> Result<()> {
        if scenario.removes_cpus() {
            self.qemu.check_cpu_removal(accelerator)?;
            if scenario.changes_memory() {
                self.qemu.check_memory_after_cpu_removal(scenario.machine.kind.arch().id)?;
            }
        }
        let (started, max) = (scenario.cpus_ever_started(), scenario.machine.max_cpus);
        if accelerator == Accelerator::Tcg && started > max {
            let what = format!(
                "scenario {} starts {started} vCPUs in a trial, counting every plug; under TCG QEMU starts at most max_cpus = {max} in its life",
                scenario.name
            );
            return Err(Error::user(what).help(format!("max_cpus = {started}, or fewer repeats")));
        }
        self.qemu.check_devices(&scenario.machine.devices)?;
        let free = fs_err::read_to_string(FREE).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let (need, free) = (scenario.huge_pages(), free.unwrap_or(0));
        if need > free {
            let what = format!(
                "a guest of scenario {} takes {need} huge pages of 2 MiB, but this machine has {free} free",
                scenario.name
            );
            return Err(Error::user(what)
                .help(format!("sysctl vm.nr_hugepages={need}, and as many for each further guest at once")));
        }
        Ok(())
    }

    /// The number of guests that run at once. The default is one for each processor, as long as the
    /// memory suffices for all of them when everything is plugged and touched.
    pub(crate) fn workers(&self, asked: Option<u32>, scenario: &Scenario) -> usize {
        /// The memory of a QEMU beside its guest's memory: 60 MiB resident, and the translated code
        /// of a busy guest.
        const QEMU_ITSELF: Bytes = Bytes(256 * Bytes::MIB);
        if let Some(asked) = asked {
            return usize::try_from(asked).unwrap_or(1);
        }
        let one = scenario.largest().0 + QEMU_ITSELF.0;
        // A quarter is left to the other processes of the machine.
        let room = self.host.memory_available.0 / 4 * 3 / one;
        self.host.cores.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
    }

    /// The context that all trials share, without checkpoints. The releases of both sides determine
    /// the machine, whichever of them is booted.
    pub(crate) async fn context(
        &self,
        scenario: Scenario,
        accelerator: Accelerator,
        kernels: &Sides<Kernel>,
        run: &Run,
        initramfs: &[u8],
        places: Option<Sides<Arc<Places>>>,
    ) -> Result<TrialContext> {
        self.fits(&scenario, accelerator)?;
        // Each of these takes a tenth of a second, most of it spent waiting for another process or
        // on another processor.
        let (sandbox, lock_layouts) = tokio::join!(has_sandbox(&self.qemu.path), lock_layouts(kernels));
        let images = Sides { before: &*kernels.before.image, after: &*kernels.after.image };
        let modules =
            Sides { before: kernels.before.modules.as_deref(), after: kernels.after.modules.as_deref() };
        let releases = [&*run.kernels.before.release, &*run.kernels.after.release];
        Ok(TrialContext {
            initrd: initrds(initramfs, kernels, &scenario)?,
            kernels: Sides { before: Sealed::copy_of(images.before)?, after: Sealed::copy_of(images.after)? },
            vmlinux: Sides { before: kernels.before.vmlinux.clone(), after: kernels.after.vmlinux.clone() },
            on_disk: OnDisk::new(images, initramfs, modules)?,
            identity: Identity::choose()?,
            sandbox,
            qemu: self.qemu.clone(),
            accelerator,
            host_cpu: self.host.cpu.clone(),
            platform: Platform::for_releases(scenario.machine.kind.arch().id, releases),
            loops_per_jiffy: loops_per_jiffy(accelerator, kernels),
            clock: Clock::Wall,
            scenario,
            lock_layouts,
            places,
            never_ended: Arc::default(),
        })
    }
}

/// The initramfs of each kernel for a scenario: the agent's, the kernel's modules, and the files of
/// the scenario's programs.
pub(crate) fn initrds(
    initramfs: &[u8],
    kernels: &Sides<Kernel>,
    scenario: &Scenario,
) -> Result<Sides<Sealed>> {
    let files = scenario.files.as_ref().map_or(&[][..], |files| files.bytes());
    let one = |kernel: &Kernel| {
        let modules = kernel.modules.as_ref().map(fs_err::read).transpose()?.unwrap_or_default();
        Sealed::of(&[initramfs, &modules, files].concat())
    };
    Ok(Sides { before: one(&kernels.before)?, after: one(&kernels.after)? })
}

/// Checks that both kernels have the options without which the scenario's loads and operations
/// cannot run. Those of an image are not known. Fails with a user error that names them.
pub(crate) fn has_options(kernels: &Sides<Kernel>, scenario: &Scenario) -> Result<()> {
    let needed = scenario.kernel_options();
    for kernel in [&kernels.before, &kernels.after] {
        let missing = kernel.missing_options(&needed)?;
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(|name| format!("CONFIG_{name}")).collect();
            let what = format!("scenario {} needs options that these kernels lack", scenario.name);
            let names = names.join(", ");
            return Err(if kernel.is_built() {
                Error::user(format!("{what} and --wide may have: {names}"))
                    .help("give --wide, or a fragment with --config")
            } else {
                Error::user(format!("{what}, or have as modules that guests do not load: {names}"))
            });
        }
    }
    Ok(())
}

/// The addresses, in both kernels, of the places that the scenario names; `None` if it names none.
pub(crate) fn places(kernels: &Sides<Kernel>, scenario: &Scenario) -> Result<Option<Sides<Arc<Places>>>> {
    if scenario.holds.is_empty() {
        return Ok(None);
    }
    let one = |side: Side| {
        let vmlinux = kernels.of(side).vmlinux.as_ref().ok_or_else(|| {
            Error::user(format!("cannot set breakpoints: the {side} kernel was given without a vmlinux"))
                .help("give its source instead, so that hotplug builds it, or the symbols of its package")
        })?;
        Ok::<_, Error>(Arc::new(Places::find(vmlinux, side, scenario.holds.points())?))
    };
    let before = one(Side::Before)?;
    let after = if kernels.before.id == kernels.after.id { before.clone() } else { one(Side::After)? };
    Places::check(&before, &after)?;
    Ok(Some(Sides { before, after }))
}

/// The memory layout of both kernels' lock order, or the reason why it is unknown.
async fn lock_layouts(kernels: &Sides<Kernel>) -> Sides<std::result::Result<Arc<Layout>, Unavailable>> {
    if kernels.before.id == kernels.after.id {
        let before = lock_layout(&kernels.before).await;
        return Sides { after: before.clone(), before };
    }
    let (before, after) = tokio::join!(lock_layout(&kernels.before), lock_layout(&kernels.after));
    Sides { before, after }
}

async fn lock_layout(kernel: &Kernel) -> std::result::Result<Arc<Layout>, Unavailable> {
    let given = || Unavailable::because("its kernel was given without a vmlinux");
    let vmlinux = kernel.vmlinux.clone().ok_or_else(given)?;
    match kernel::blocking(move || Ok(Layout::of(&vmlinux)?)).await {
        Ok(Some(layout)) => Ok(Arc::new(layout)),
        Ok(None) => Err(Unavailable::because("its kernel has no lockdep (CONFIG_PROVE_LOCKING)")),
        Err(error) => Err(Unavailable::because(error)),
    }
}

/// The number of delay loops of a guest between two ticks of its timer (`lpj`): one figure for both
/// sides, or none.
fn loops_per_jiffy(accelerator: Accelerator, kernels: &Sides<Kernel>) -> Option<u64> {
    let hz = kernels.before.hz().filter(|hz| *hz > 0 && kernels.after.hz() == Some(*hz))?;
    (accelerator == Accelerator::Tcg).then(host::tsc_hz).flatten().map(|tsc| tsc / hz)
}

/// Determines how trials start. Unless each trial boots, this makes the checkpoints, with the logs
/// of their boots below `evidence`.
pub(crate) async fn start(
    cold: bool,
    context: &TrialContext,
    evidence: &Path,
    env: &Env<'_>,
) -> Result<TrialStart> {
    if cold {
        return Ok(TrialStart::Cold { why: "--cold".into() });
    }
    if let Some(why) = context.qemu.cannot_restore(context.scenario.machine.kind.arch().id) {
        return Ok(TrialStart::Cold { why });
    }
    env.note("start", &format!("checkpoints of {}", context.scenario.name));
    // Boxed: two concurrent boots are a large future, and every command would carry it.
    let checkpoints = Box::pin(checkpoint::prepare(context, env.cache, Boot::FIRST, evidence, env.cancel));
    Ok(match checkpoints.await? {
        Ok(checkpoints) => TrialStart::Restored(checkpoints),
        Err(why) => TrialStart::Cold { why: format!("no checkpoint: {why}") },
    })
}

/// The record of a kernel in a result.
pub(crate) fn note(kernel: &Kernel) -> KernelNote {
    let source = match &kernel.record {
        Some(record) => record.source.clone(),
        None => kernel.image.display().to_string(),
    };
    KernelNote {
        id: kernel.id.as_str().to_owned(),
        arch: kernel.arch,
        release: kernel.release.clone(),
        source,
        built: kernel.built.to_string(),
        image_hash: kernel.image_hash.clone(),
        image: kernel.image.clone(),
        left_out: kernel.left_out().to_vec(),
        basis: kernel.basis().cloned(),
        lacks: kernel.lacks().to_vec(),
    }
}

/// The scenario `name` of an earlier run, as stored in its folder, and its text. An empty name
/// means the only scenario of the run.
pub fn kept_scenario(folder: &Path, run: &Run, name: &str) -> Result<(Scenario, String)> {
    let all = run.scenarios();
    let known = all.iter().find(|note| note.name == name || name.is_empty() && all.len() == 1);
    let note = known.ok_or_else(|| Error::user(format!("the run has no scenario `{name}`")))?;
    let path = folder.join(run.scenario_file(&note.name));
    let text = fs_err::read_to_string(&path)
        .map_err(|error| Error::user(format!("cannot read the run's scenario: {error}")))?;
    if blake3::hash(text.as_bytes()).to_hex().as_str() != note.hash {
        return Err(Error::user(format!("{} has changed since the run began", path.display()))
            .help("restore the original file"));
    }
    let mut scenario = Scenario::parse(&format!("{}.toml", note.name), &text)?;
    if scenario.has_program_files() {
        let named = run.spec.scenarios.paths(run.kernels.before.arch);
        let file = named.iter().find(|file| file.file_stem().is_some_and(|stem| stem == &*note.name));
        scenario = scenario.with_paths_from(file.and_then(|file| file.parent()).unwrap_or(Path::new("")));
        let files = program_files::kept(folder, &note.name)?.ok_or_else(|| {
            Error::user(format!(
                "the run lacks the files of its programs, {}",
                program_files::place(&note.name).display()
            ))
        })?;
        scenario.files = Some(Arc::new(files));
    }
    Ok((scenario, text))
}

/// What the scenarios of an earlier run test, in words.
pub fn about(folder: &Path, run: &Run) -> Result<String> {
    let all = run.scenarios();
    match all.as_slice() {
        [one] => Ok(kept_scenario(folder, run, &one.name)?.0.about),
        many => {
            let names: Vec<_> =
                many.iter().filter(|n| n.left_out.is_none()).map(|n| n.name.as_str()).collect();
            Ok(names.join(", "))
        }
    }
}

/// The kernel of an earlier run, bit for bit.
pub(crate) fn same_kernel(cache: &Cache, run: &Run, side: Side) -> Result<Kernel> {
    let note = run.kernels.of(side);
    kernel::recall(cache, &note.id, &note.image, &note.image_hash)?.ok_or_else(|| {
        let what = format!(
            "the run's {side} kernel, {} ({}), is gone: there is no image with its hash at {}",
            note.release,
            note.source,
            note.image.display()
        );
        let (patches, options) = run.spec.kernels.words();
        let words: Vec<String> = patches.iter().chain(&options).map(|word| shell_word(word)).collect();
        Error::user(what)
            .detail("the same source, config and compiler reproduce the image, bit for bit")
            .help(format!("hotplug kernel build {}", words.join(" ")).trim_end())
    })
}

/// Checks that trials run here are comparable with those of an earlier run. Returns that run's
/// accelerator.
pub(crate) fn check_same_environment(run: &Run, here: &HostEnv, initramfs: &[u8]) -> Result<Accelerator> {
    let differs = |what: &str, was: &str, is: &str, help: &str| {
        let text = format!(
            "the run's trials had {what} {was}, here it is {is}: the new trials would not be comparable"
        );
        Err(Error::user(text).help(help))
    };
    let qemu = here.qemu.version.to_string();
    if run.host.qemu != qemu {
        let help = format!("set {} to a QEMU {}, or start a new comparison", host::OVERRIDE, run.host.qemu);
        return differs("QEMU", &run.host.qemu, &qemu, &help);
    }
    let hash = blake3::hash(initramfs).to_hex();
    if run.initramfs_hash != hash.as_str() {
        let help = format!("use the hotplug {} that began it, or start a new comparison", run.hotplug);
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
    // `-cpu host`: the guest sees the host's processor model.
    if run.host.cpu != here.host.cpu {
        return differs(
            "the processor",
            &run.host.cpu,
            &here.host.cpu,
            "continue on the machine where it began, or start a new comparison",
        );
    }
    Ok(Accelerator::Kvm)
}

/// Stores the inputs of the trials, except the kernels, in the run's folder. `scenarios` have their
/// texts.
pub(crate) fn save_inputs<'a>(
    folder: &RunFolder,
    run: &Run,
    scenarios: impl IntoIterator<Item = (&'a Scenario, &'a str)>,
    initramfs: &[u8],
) -> Result<()> {
    let write = |place: &Path, bytes: &[u8]| {
        let path = folder.path().join(place);
        fs_err::create_dir_all(path.parent().unwrap_or(folder.path()))?;
        fs_err::write(path, bytes)
    };
    for (scenario, text) in scenarios {
        write(Path::new(&run.scenario_file(&scenario.name)), text.as_bytes())?;
        if let Some(files) = &scenario.files {
            write(&program_files::place(&scenario.name), files.bytes())?;
        }
    }
    Ok(fs_err::write(folder.path().join(OnDisk::INITRAMFS), initramfs)?)
}

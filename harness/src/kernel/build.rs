//! Builds the two kernels of a request and stores them in the cache.

mod run;

use hotplug_side::{Side, Sides};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::future::LocalBoxFuture;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::arch::Arch;
use crate::{Error, Result};

use super::apply::{self, Overlay};
use super::artifacts::{self, Built, Kernel, KernelId, KernelPair, PatchRecord, Record};
use super::base::Base;
use super::cache::Cache;
use super::config::{self, Config};
use super::diagnose::kbuild_step;
use super::make::Make;
use super::objects::{self, Objects};
use super::patch::{self, Patch};
use super::progress::{BuildEvent, BuildListener, IgnoreBuild};
use super::request::{PairRequest, Wanted};
use super::source::{self, Located, Source, blocking};
use super::toolchain::Toolchain;
use super::worktree::Tree;
use super::{checkout, gcov};
use run::Run;

/// Part of every kernel's id. It must change with every change to the way kernels are built.
const BUILDER: &str = "hotplug kernel builder 2";

/// Compiler option for `lockdep.o`. Reduced debug information (`-femit-struct-debug-baseonly`)
/// omits lockdep's own structures, but [`hotplug_lockorder`] needs them to read the lock order from
/// a guest's memory. The option does not change the generated code.
const LOCKDEP_TYPES: &str = "CFLAGS_lockdep.o=-femit-struct-debug-detailed=any";

/// Number of files compiled for the default config: the `CC` and `AS` lines of make's output for
/// 6.1.192 (1147 and 37). Only the progress bar uses it.
const TYPICAL: u32 = 1184;

/// The state that the builds of both sides share.
struct Context<'a> {
    cache: &'a Cache,
    config: &'a Config,
    jobs: usize,
    tools: Toolchain,
    /// The source that was located last.
    located: Mutex<Option<(Source, Arc<Located>)>>,
    events: &'a dyn BuildListener,
    cancel: &'a CancellationToken,
}

/// A kernel to build or to find in the cache.
struct Plan {
    which: Side,
    located: Arc<Located>,
    patches: Vec<Patch>,
    /// Files that are compiled with gcov counters if possible. Empty for a kernel of the judged
    /// trials.
    touched: Vec<String>,
    id: KernelId,
}

/// Builds the two kernels of `request`, or finds them in the cache.
///
/// The before kernel is built first. The after kernel reuses its objects, so the pair costs little
/// more than one kernel. With a patch to a header, nearly every file is compiled once for each side
/// (see `objects`). If both kernels are in the cache, nothing is unpacked or locked. If both sides
/// are the same kernel, it is built once. Errors in sources, patches and fragments are found before
/// anything is compiled.
pub fn build_pair<'a>(
    cache: &'a Cache,
    request: &'a PairRequest,
    events: &'a (dyn BuildListener + 'a),
    cancel: &'a CancellationToken,
) -> LocalBoxFuture<'a, Result<KernelPair>> {
    Box::pin(async move {
        let context = Context::new(cache, request, events, cancel).await?;
        let mut given = Vec::new();
        let mut plans = Vec::new();
        for (which, side) in [(Side::Before, &request.before), (Side::After, &request.after)] {
            match side {
                Wanted::Ready { image, symbols } => {
                    given.push((which, Kernel::given(image, symbols.as_deref())?));
                }
                Wanted::Packaged(package) => given.push((which, package.kernel(cache, cancel).await?)),
                Wanted::Build { source, patches } => plans.push(context.plan(which, source, patches).await?),
            }
        }
        let built = context.build_all(&plans).await?;
        let side = |which| {
            let given = given.iter().find(|(side, _)| *side == which).map(|(_, kernel)| kernel);
            let built = || plans.iter().position(|plan| plan.which == which).and_then(|at| built.get(at));
            given
                .or_else(built)
                .cloned()
                .ok_or_else(|| Error::infrastructure(format!("the {which} kernel was lost")))
        };
        Ok(KernelPair { before: side(Side::Before)?, after: side(Side::After)? })
    })
}

/// Builds the two kernels of `request` with gcov counters in the C files in which they differ
/// ([`Kernel::touched`] lists them). Fails with a user error if a side is a given image, or if the
/// config has no `CONFIG_GCOV_KERNEL`.
pub async fn build_counted(
    cache: &Cache,
    request: &PairRequest,
    events: &dyn BuildListener,
    cancel: &CancellationToken,
) -> Result<KernelPair> {
    let (Wanted::Build { source: old, patches: first }, Wanted::Build { source: new, patches: second }) =
        (&request.before, &request.after)
    else {
        return Err(Error::user(
            "a kernel that was given as an image or a package cannot be built with counters",
        ));
    };
    let context = Context::new(cache, request, events, cancel).await?;
    if context.tools.is_clang() {
        return Err(Error::user("the counters of clang are not read: only gcc's are"));
    }
    let mut plans =
        [context.plan(Side::Before, old, first).await?, context.plan(Side::After, new, second).await?];
    // A patch that both sides have is no difference.
    let [before, after] = [&plans[0].patches, &plans[1].patches];
    let patches = before
        .iter()
        .filter(|one| !after.contains(one))
        .chain(after.iter().filter(|one| !before.contains(one)));
    let touched = gcov::touched(patches, [&plans[0].located, &plans[1].located], cancel).await?;
    for plan in &mut plans {
        plan.touched.clone_from(&touched);
        plan.id = context.id(&plan.located, &plan.patches, &touched);
    }
    match <[Kernel; 2]>::try_from(context.build_all(&plans).await?) {
        Ok([before, after]) => Ok(KernelPair { before, after }),
        Err(_) => Err(Error::infrastructure("a kernel was lost")),
    }
}

/// An error where `request` no longer asks for `kernels`: a source, a patch, the config or the
/// compiler is not what it was when they were built. Nothing is built.
pub async fn still_asks_for(
    cache: &Cache,
    request: &PairRequest,
    kernels: &Sides<Kernel>,
    cancel: &CancellationToken,
) -> Result<()> {
    let context = Context::new(cache, request, &IgnoreBuild, cancel).await?;
    for (which, side) in [(Side::Before, &request.before), (Side::After, &request.after)] {
        let (id, source) = match side {
            Wanted::Ready { image, symbols } => {
                (Kernel::given(image, symbols.as_deref())?.id, image.display().to_string())
            }
            Wanted::Packaged(package) => (package.id().await?, package.path.display().to_string()),
            Wanted::Build { source, patches } => {
                (context.plan(which, source, patches).await?.id, source.to_string())
            }
        };
        let was = &kernels.of(which).id;
        if id != *was {
            return Err(Error::user(format!(
                "{source} no longer yields the {which} kernel {was}, but a different one, {id}"
            ))
            .help("start a new run: the source, patches, config or compiler of this run has changed"));
        }
    }
    Ok(())
}

/// Copies the files of a built kernel from its objects into the folder to install. Returns the hash of
/// the image.
async fn keep(arch: &'static Arch, from: PathBuf, to: PathBuf) -> Result<blake3::Hash> {
    let files = BTreeSet::from([
        (arch.image_path, arch.image),
        ("vmlinux", "vmlinux"),
        ("System.map", "System.map"),
        (".config", "config"),
    ]);
    blocking(move || {
        for (file, name) in files {
            fs_err::copy(from.join(file), to.join(name))?;
        }
        Ok(blake3::hash(&fs_err::read(to.join(arch.image))?))
    })
    .await
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn hash_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        // The length marks where a part ends, so that different lists of parts cannot hash alike.
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

impl<'a> Context<'a> {
    async fn new(
        cache: &'a Cache,
        request: &'a PairRequest,
        events: &'a dyn BuildListener,
        cancel: &'a CancellationToken,
    ) -> Result<Self> {
        let builds =
            [&request.before, &request.after].iter().any(|side| matches!(side, Wanted::Build { .. }));
        // A machine that only runs given images needs no compiler.
        let tools = if builds {
            Toolchain::ask(&request.config.variables(), cancel).await?
        } else {
            Toolchain::default()
        };
        Ok(Self {
            cache,
            config: &request.config,
            jobs: request.jobs.unwrap_or_else(processors).max(1),
            tools,
            located: Mutex::default(),
            events,
            cancel,
        })
    }

    async fn plan(&self, which: Side, source: &Source, patches: &[PathBuf]) -> Result<Plan> {
        let patches = patch::read(patches, self.cancel).await?;
        let located = self.locate(source).await?;
        let id = self.id(&located, &patches, &[]);
        Ok(Plan { which, located, patches, touched: Vec::new(), id })
    }

    /// Locates a source. Both sides usually have the same source. It must be read to name its
    /// contents, so the last result is kept and the source is read once.
    async fn locate(&self, source: &Source) -> Result<Arc<Located>> {
        let mut last = self.located.lock().await;
        if let Some((same, located)) = &*last
            && same == source
        {
            return Ok(located.clone());
        }
        let located = Arc::new(source::locate(source, self.cache, self.cancel).await?);
        *last = Some((source.clone(), located.clone()));
        Ok(located)
    }

    fn id(&self, located: &Located, patches: &[Patch], touched: &[String]) -> KernelId {
        let config = self.config.key();
        let fixed = [BUILDER, &located.content, &config, &self.tools.compiler, &self.tools.linker];
        // The diffs are hashed without their mails: a reworded message does not change the kernel.
        let diffs = patches.iter().map(|patch| patch.diff.as_str());
        let counted = (!touched.is_empty()).then_some(gcov::OPTIONS).into_iter();
        let counted = counted.chain(touched.iter().map(String::as_str));
        KernelId::new(hash_parts(fixed.into_iter().chain(diffs).chain(counted)))
    }

    fn tell(&self, which: Side, event: BuildEvent) {
        self.events.event(which, event);
    }

    fn cached(&self, plan: &Plan) -> Result<Option<Kernel>> {
        let kernel = artifacts::load(self.cache, &plan.id, Built::Cached)?;
        if kernel.is_some() {
            self.tell(plan.which, BuildEvent::Cached);
        }
        Ok(kernel)
    }

    /// Builds or finds the kernels of `plans` and returns them in the same order.
    async fn build_all(&self, plans: &[Plan]) -> Result<Vec<Kernel>> {
        let mut kernels: Vec<Kernel> = Vec::new();
        let mut held: Option<(&str, Tree)> = None;
        for (at, plan) in plans.iter().enumerate() {
            if let Some(same) = plans[..at].iter().position(|earlier| earlier.id == plan.id) {
                kernels.push(kernels[same].clone());
                continue;
            }
            if let Some(kernel) = self.cached(plan)? {
                kernels.push(kernel);
                continue;
            }
            if held.as_ref().is_none_or(|(id, _)| *id != plan.located.tree) {
                // The old lock is released before the wait for the new one. Otherwise two runs
                // could deadlock.
                drop(held.take());
                let waiting = |tree| self.tell(plan.which, BuildEvent::Waiting { tree });
                let tree = Tree::acquire(self.cache, &plan.located.tree, waiting, self.cancel).await?;
                held = Some((&plan.located.tree, tree));
            }
            let Some((_, tree)) = &held else { continue };
            // Another run may have built the kernel while this run waited for the lock.
            if let Some(kernel) = self.cached(plan)? {
                kernels.push(kernel);
                continue;
            }
            let tell = |event| self.tell(plan.which, event);
            checkout::sync(tree, &plan.located, &tell, self.cancel).await?;
            for later in plans[at + 1..].iter().filter(|later| later.located.content == plan.located.content)
            {
                self.overlay(tree, later).await?;
            }
            kernels.push(self.build_one(tree, plan).await?);
        }
        Ok(kernels)
    }

    async fn overlay(&self, tree: &Tree, plan: &Plan) -> Result<Overlay> {
        if plan.patches.is_empty() {
            return Ok(Overlay::default());
        }
        self.tell(plan.which, BuildEvent::Patching { patches: plan.patches.len() });
        apply::overlay(&plan.patches, &tree.source(), &tree.work("patch")?, self.cancel).await
    }

    /// A hash of all inputs of the final `.config`: the source, the patched Kconfig files and the
    /// patched scripts that Kconfig calls, the fragments, the compiler and the linker. If an object
    /// folder was configured with the same hash, its `.config` is reused, because making the same
    /// file again would take 6 s.
    fn configured_by(&self, plan: &Plan, overlay: &Overlay) -> String {
        let decides = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.starts_with("Kconfig")
                || name.ends_with(".config")
                || name.starts_with("Makefile")
                || path.starts_with("scripts/")
        };
        let config = self.config.key();
        let mut hasher = blake3::Hasher::new();
        let parts = [plan.located.content.as_str(), &config, &self.tools.compiler, &self.tools.linker];
        hasher.update(hash_parts(parts).as_bytes());
        for change in overlay.changes.iter().filter(|change| decides(&change.path)) {
            hasher.update(hash_parts([change.path.as_str()]).as_bytes());
            hasher.update(blake3::hash(change.now.as_ref().map_or(&[], |now| &now.bytes)).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Builds in `tree`, which holds the plan's source. Restores the source afterwards.
    async fn build_one(&self, tree: &Tree, plan: &Plan) -> Result<Kernel> {
        let overlay = self.overlay(tree, plan).await?;
        let applied = if overlay.changes.is_empty() { Ok(()) } else { tree.apply(&overlay) };
        let result = match applied {
            Ok(()) => self.make(tree, plan, &self.configured_by(plan, &overlay)).await,
            Err(error) => Err(error),
        };
        tree.undo()?;
        let (record, folder) = result?;
        artifacts::install(self.cache, &folder, &record)?;
        self.tell(plan.which, BuildEvent::Finished { seconds: record.seconds });
        let built = Built::Now { seconds: record.seconds, incremental: record.incremental };
        artifacts::load(self.cache, &plan.id, built)?
            .ok_or_else(|| Error::infrastructure(format!("the new kernel {} is not in the cache", plan.id)))
    }

    /// Configures and compiles the kernel. Returns its record and the folder to install.
    async fn make(&self, tree: &Tree, plan: &Plan, configured_by: &str) -> Result<(Record, PathBuf)> {
        let start = Instant::now();
        let source = tree.source();
        let config = self.config.key();
        let copying = || self.tell(plan.which, BuildEvent::CopyingObjects);
        let Objects { folder: objects, is_whole: incremental, compiled: before } =
            objects::ready(tree, &hash_parts([config.as_str()]).to_hex()[..16], copying, self.cancel).await?;
        let arch = self.config.arch();
        let variables = self.config.variables();
        let folder = tree.work("install")?;
        let log = folder.join("build.log");
        objects::making(&objects)?;
        let mut run = Run {
            context: self,
            plan,
            make: Make {
                source: &source,
                objects: Some(&objects),
                variables: &variables,
                lock: tree.lock(),
                jobs: self.jobs,
            },
            log: fs_err::File::create(&log)?.into_parts().0,
            log_path: &log,
        };

        run.configure(&objects, configured_by).await?;
        let text = fs_err::read_to_string(objects.join(".config"))?;
        let basis = self.config.basis(&objects::plain_config(&objects), &text)?;
        let mut checked = self.config.check(&text, &source);
        if !plan.touched.is_empty() && !config::options(&text).contains_key("GCOV_KERNEL") {
            checked = checked.and(Err(Error::user("the kernel's config has no CONFIG_GCOV_KERNEL")
                .help("set it in a fragment of yours (--config FILE), or compare with --no-coverage")));
        }
        let left_out = match checked {
            Ok(left_out) => left_out,
            Err(error) => {
                objects::made(&objects)?;
                return Err(error);
            }
        };

        // The number of files of another configuration is not known.
        let own = *self.config.base() == Base::Tiny;
        let expected = (!incremental && own).then(|| TYPICAL.saturating_sub(before).max(1));
        let (mut done, mut linking) = (0, false);
        self.tell(plan.which, BuildEvent::Compiling { done, expected });
        let mut targets = vec![arch.image.to_owned()];
        targets.extend((!self.tools.is_clang()).then(|| LOCKDEP_TYPES.to_owned()));
        targets.extend(gcov::variables(&source, &plan.touched));
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let made = run
            .make(&targets, |line| match kbuild_step(line) {
                // The files compiled after the start of linking are kallsyms tables and boot code.
                Some(("CC" | "AS", _)) if linking => done += 1,
                Some(("CC" | "AS", _)) => {
                    done += 1;
                    self.tell(plan.which, BuildEvent::Compiling { done, expected });
                }
                Some(("LD", "vmlinux.o")) => {
                    linking = true;
                    self.tell(plan.which, BuildEvent::Linking);
                }
                _ => {}
            })
            .await;
        // Only the next progress bar uses the count, so a failure here must not hide make's error.
        let _ = objects::count(&objects, before + done);
        made?;
        objects::made(&objects)?;

        if !plan.touched.is_empty() {
            gcov::keep(&source, &objects, &plan.touched, &folder.join(gcov::FOLDER))?;
        }
        let image_hash = keep(arch, objects.clone(), folder.clone()).await?;
        let patches = plan.patches.iter();
        let record = Record {
            id: plan.id.clone(),
            arch: arch.id,
            release: super::image::identify(&folder.join(arch.image))?.1,
            source: plan.located.name.clone(),
            content: plan.located.content.clone(),
            patches: patches
                .map(|p| PatchRecord { file: p.name.clone(), subject: p.subject.clone() })
                .collect(),
            left_out,
            basis,
            lacks: config::missing_checkers(&text),
            compiler: self.tools.compiler.clone(),
            linker: self.tools.linker.clone(),
            built_at: jiff::Timestamp::now(),
            seconds: start.elapsed().as_secs_f64(),
            incremental,
            compiled: done,
            image_hash: image_hash.to_hex().to_string(),
        };
        Ok((record, folder))
    }
}

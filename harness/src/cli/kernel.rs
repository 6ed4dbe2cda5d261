//! `hotplug kernel build|list|prune`.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use clap::{Args, Subcommand};
use hotplug_side::Side;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::kernel::{
    BuildEvent, Cache, Change, Config, Events, Kernel, KernelPair, Listing, PairRequest, Prune, Pruned,
    Source, Wanted, build_pair, list, prune,
};

/// Builds kernel pairs, and looks after those that were built.
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Build the kernels before and after a patch.
    Build(Box<BuildArgs>),
    /// List the kernels in the cache.
    List(ListArgs),
    /// Remove kernels and sources that were not used for a while.
    Prune(PruneArgs),
}

/// Which two kernels: for every subcommand that needs a pair.
#[derive(Debug, Clone, Default, Args)]
pub struct PairArgs {
    /// Patches: files, mboxes or folders of a series, applied in order.
    #[arg(value_name = "PATCH")]
    pub patches: Vec<PathBuf>,
    /// A patch that both kernels have, below the others; can be given several times
    #[arg(long, value_name = "PATCH", conflicts_with_all = ["before", "before_image"])]
    pub base_patch: Vec<PathBuf>,
    /// Kernel source: linux-source-6.1, a tarball, a folder, or repository@revision [default: linux-source-6.1, else the newest installed]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Revision of the source's repository for the before side.
    #[arg(long, value_name = "REV", requires = "after", conflicts_with = "before_image")]
    pub before: Option<String>,
    /// Revision for the after side.
    #[arg(long, value_name = "REV", requires = "before", conflicts_with_all = ["after_image", "patches"])]
    pub after: Option<String>,
    /// A bzImage to take as the before side.
    #[arg(long, value_name = "FILE")]
    pub before_image: Option<PathBuf>,
    /// A bzImage to take as the after side.
    #[arg(long, value_name = "FILE", conflicts_with = "patches")]
    pub after_image: Option<PathBuf>,
    /// Config fragment over the harness's own; can be given several times, the last one wins.
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Leave the harness's own fragment out: tinyconfig and what --config gives.
    #[arg(long)]
    pub no_default_config: bool,
    /// Compilations at once [default: number of processors]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<usize>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Options of `hotplug kernel build`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug kernel build my.patch
  hotplug kernel build --source linux-source-6.12 --config debug.config my.patch")]
pub struct BuildArgs {
    /// The two kernels.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Print the pair as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `hotplug kernel list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `hotplug kernel prune`.
#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// Remove what was not used for this many days.
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub days: u32,
    /// Remove everything, whatever version of hotplug made it.
    #[arg(long, conflicts_with = "days")]
    pub all: bool,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl PairArgs {
    /// The cache they name.
    pub fn open_cache(&self) -> Result<Cache> {
        Cache::open(cache_path(self.cache.as_deref())?)
    }

    /// The words that ask for the same pair again, wherever they are typed: the patches, then options; without the cache.
    pub fn words(&self) -> Vec<String> {
        let absolute =
            |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string();
        let mut words: Vec<String> = self.patches.iter().map(absolute).collect();
        let mut option = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [format!("--{name}"), value]));
        };
        let source = self.source.as_ref().map(PathBuf::from);
        option("source", source.map(|s| if s.exists() { absolute(&s) } else { s.display().to_string() }));
        option("before", self.before.clone());
        option("after", self.after.clone());
        option("before-image", self.before_image.as_ref().map(absolute));
        option("after-image", self.after_image.as_ref().map(absolute));
        for patch in &self.base_patch {
            option("base-patch", Some(absolute(patch)));
        }
        for file in &self.config {
            option("config", Some(absolute(file)));
        }
        if self.no_default_config {
            words.push("--no-default-config".into());
        }
        words
    }

    /// The same, the source by its full name where none or only `linux-source` is given and one is needed: which one that is
    /// depends on what is installed.
    pub fn with_source_named(mut self) -> Result<Self> {
        if self.before_image.is_none() || self.after_image.is_none() {
            self.source = Some(self.parsed_source()?.with_version()?.to_string());
        }
        Ok(self)
    }

    fn parsed_source(&self) -> Result<Source> {
        self.source.as_deref().map_or(Ok(Source::Package { version: None }), Source::parse)
    }

    /// What they ask for.
    pub fn request(&self) -> Result<PairRequest> {
        let source = self.parsed_source()?;
        let (source, change) = match (&self.before, &self.after) {
            (Some(before), Some(after)) => (source.at(before)?, Change::Revision(after.clone())),
            _ if self.patches.is_empty() => (source, Change::Nothing),
            _ => (source, Change::Patches(self.patches.clone())),
        };
        let mut request = PairRequest::new(source, change)?;
        for side in [&mut request.before, &mut request.after] {
            if let Wanted::Build { patches, .. } = side {
                patches.splice(..0, self.base_patch.iter().cloned());
            }
        }
        if let Some(image) = &self.before_image {
            request.before = Wanted::Ready(image.clone());
        }
        if let Some(image) = &self.after_image {
            request.after = Wanted::Ready(image.clone());
        }
        let base = if self.no_default_config { Config::bare() } else { Config::default() };
        request.config = base.with_files(&self.config)?;
        request.jobs = self.jobs;
        Ok(request)
    }
}

pub(super) fn cache_path(given: Option<&std::path::Path>) -> Result<PathBuf> {
    given.map_or_else(Cache::default_path, |path| Ok(path.to_owned()))
}

/// Runs the subcommand; its result goes to `out`, what it is at to standard error.
pub async fn run(
    command: &KernelCommand,
    out: &mut dyn std::io::Write,
    cancel: &CancellationToken,
) -> Result<()> {
    match command {
        KernelCommand::Build(args) => {
            let events = BuildReporter::new();
            let pair = build_pair(&args.pair.open_cache()?, &args.pair.request()?, &events, cancel).await?;
            drop(events);
            if args.json { json(out, &pair) } else { Ok(write!(out, "{}", pair_text(&pair))?) }
        }
        KernelCommand::List(args) => {
            let listing = list(&Cache::open(cache_path(args.cache.as_deref())?)?)?;
            if args.json { json(out, &listing) } else { Ok(write!(out, "{}", listing_text(&listing))?) }
        }
        KernelCommand::Prune(args) => {
            let root = cache_path(args.cache.as_deref())?;
            let age = Duration::from_secs(u64::from(args.days) * 24 * 3600);
            let pruned = prune(&root, if args.all { Prune::All } else { Prune::Unused(age) })?;
            Ok(write!(out, "{}", pruned_text(&pruned))?)
        }
    }
}

fn json(out: &mut dyn std::io::Write, value: &impl serde::Serialize) -> Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

fn pair_text(pair: &KernelPair) -> String {
    let line = |which: Side, kernel: &Kernel| {
        let Kernel { id, release, built, image, .. } = kernel;
        format!("{which:<7} {id}  {release}  {:<18} {}\n", built.to_string(), image.display())
    };
    let mut text = line(Side::Before, &pair.before) + &line(Side::After, &pair.after);
    if pair.same_image() && pair.before.id != pair.after.id {
        text.push_str("the two images are the same, bit for bit\n");
    }
    text
}

fn gigabytes(bytes: u64) -> String {
    format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10)
}

fn listing_text(listing: &Listing) -> String {
    let mut text = String::new();
    for kernel in &listing.kernels {
        let record = &kernel.record;
        let used = kernel.used.strftime("%Y-%m-%d %H:%M");
        let megabytes = kernel.bytes / 1_000_000;
        let _ = write!(
            text,
            "{}  {:<12} {megabytes:>4} MB  used {used}  {}",
            record.id, record.release, record.source
        );
        for patch in &record.patches {
            let _ = write!(text, " + {}", patch.subject.as_deref().unwrap_or(&patch.file));
        }
        text.push('\n');
    }
    for tree in &listing.trees {
        let used = tree.used.strftime("%Y-%m-%d %H:%M");
        let objects = gigabytes(tree.object_bytes);
        let _ = match tree.object_folders {
            1 => writeln!(text, "source {}, used {used}, 1 object folder, {objects}", tree.id),
            folders => writeln!(text, "source {}, used {used}, {folders} object folders, {objects}", tree.id),
        };
    }
    if text.is_empty() {
        text.push_str("the kernel cache is empty\n");
    }
    text
}

fn pruned_text(pruned: &Pruned) -> String {
    let folders = match pruned.removed.len() {
        1 => "1 folder".to_owned(),
        number => format!("{number} folders"),
    };
    let mut text = format!("removed {folders}, {}\n", gigabytes(pruned.bytes));
    for folder in &pruned.in_use {
        let _ = writeln!(text, "left {}: a run uses it", folder.display());
    }
    text
}

/// Shows a build: a bar on a terminal, else a line a stage, both on standard error.
#[derive(Debug)]
pub struct BuildReporter {
    bar: Option<ProgressBar>,
    /// The stage told last, so that each is told once.
    stage: Mutex<String>,
}

impl BuildReporter {
    /// Looks at standard error to decide.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
        Self { bar, stage: Mutex::default() }
    }

    fn stage(&self, text: String) {
        let Ok(mut stage) = self.stage.lock() else { return };
        if *stage == text {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_style(spinner());
            bar.set_message(text.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            // Standard error may be closed; a build goes on without it.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        *stage = text;
    }
}

impl Default for BuildReporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for BuildReporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Events for BuildReporter {
    fn event(&self, which: Side, event: BuildEvent) {
        match event {
            BuildEvent::Waiting { tree } => {
                self.stage(format!("{which}: waiting for another run that builds in {}", tree.display()));
            }
            BuildEvent::Unpacking { from } => self.stage(format!("{which}: unpacking {}", from.display())),
            BuildEvent::Syncing { from } => self.stage(format!("{which}: reading {from}")),
            BuildEvent::Patching { patches: 1 } => self.stage(format!("{which}: applying 1 patch")),
            BuildEvent::Patching { patches } => self.stage(format!("{which}: applying {patches} patches")),
            BuildEvent::CopyingObjects => self.stage(format!("{which}: copying objects")),
            BuildEvent::Configuring => self.stage(format!("{which}: configuring")),
            BuildEvent::Compiling { done, expected } => {
                self.stage(format!("{which}: compiling"));
                let Some(bar) = &self.bar else { return };
                if let Some(expected) = expected {
                    let style =
                        ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} files, {eta} left");
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.set_length(u64::from(expected.max(done)));
                    bar.set_position(u64::from(done));
                } else {
                    bar.set_message(format!("{which}: compiling, {done} files"));
                }
            }
            BuildEvent::Linking => self.stage(format!("{which}: linking")),
            BuildEvent::Finished { seconds } => self.stage(format!("{which}: built in {seconds:.0} s")),
            BuildEvent::Cached => self.stage(format!("{which}: cached")),
        }
    }
}

//! `hotplug kernel build|fetch|list|prune`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use hotplug_side::Side;
use tokio_util::sync::CancellationToken;

use hotplug::Result;
use hotplug::arch::Architecture;
use hotplug::host::fetch;
use hotplug::kernel::{
    Cache, Kernel, KernelPair, Listing, PairSpec, Prune, Pruned, Wish, build_pair, list, prune, understood,
};
use hotplug::present::build::BuildReporter;

/// Subcommands of `hotplug kernel`.
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Build the kernels before and after a patch
    Build(Box<BuildArgs>),
    /// Download a kernel or its source of another Debian suite, and print the file
    Fetch(FetchArgs),
    /// List the kernels and sources in the cache
    List(ListArgs),
    /// Remove kernels and sources that have not been used for some time
    Prune(PruneArgs),
}

/// The options that select the two kernels, for every subcommand that needs a pair.
#[derive(Debug, Clone, Default, Args)]
pub struct PairArgs {
    /// Patches: files, mboxes, folders with a series, `-`, message ids or links to
    /// lore.kernel.org, applied in order; or revisions as A..B
    #[arg(value_name = "PATCH")]
    pub patches: Vec<PathBuf>,
    /// Patch for both kernels, applied before the others; can be given several times
    #[arg(long, value_name = "PATCH", conflicts_with_all = ["before", "before_image"])]
    pub base_patch: Vec<PathBuf>,
    /// Kernel source: linux-source-6.1, a tarball, a package (.deb), a folder, or
    /// repository@revision
    /// [default: the kernel tree in which hotplug is started, or linux-source-6.1, or the newest
    /// installed]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<String>,
    /// Revision of the source's repository for the before kernel
    #[arg(long, value_name = "REV", requires = "after", conflicts_with = "before_image")]
    pub before: Option<String>,
    /// Revision of the source's repository for the after kernel; without --before it is compared
    /// with what its branch forked from, or with its parent
    #[arg(long, value_name = "REV", conflicts_with_all = ["after_image", "patches"])]
    pub after: Option<String>,
    /// bzImage to use as the before kernel
    #[arg(long, value_name = "FILE")]
    pub before_image: Option<PathBuf>,
    /// bzImage to use as the after kernel
    #[arg(long, value_name = "FILE", conflicts_with = "patches")]
    pub after_image: Option<PathBuf>,
    /// Architecture of the kernels and guests [default: that of the scenarios]
    #[arg(long, value_name = "x86_64|ppc64le")]
    pub arch: Option<Architecture>,
    /// Distribution's package with the before kernel, or a folder with vmlinuz, config and
    /// lib/modules
    #[arg(long, value_name = "DEB|DIR", conflicts_with_all = ["before_image", "before", "base_patch"])]
    pub before_package: Option<PathBuf>,
    /// Distribution's package with the after kernel, or a folder with its files
    #[arg(long, value_name = "DEB|DIR", conflicts_with_all = ["after_image", "after", "patches"])]
    pub after_package: Option<PathBuf>,
    /// vmlinux of the before image or package, or the package with its debug information [default:
    /// the one beside the image]
    #[arg(long, value_name = "DEB|FILE")]
    pub before_symbols: Option<PathBuf>,
    /// vmlinux of the after image or package, or the package with its debug information [default:
    /// the one beside the image]
    #[arg(long, value_name = "DEB|FILE")]
    pub after_symbols: Option<PathBuf>,
    /// Config fragment over the harness's own; can be given several times, the last one wins
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Configuration to judge in place of the harness's own: a whole .config, or a target of the
    /// source's make, such as defconfig. Only what hotplug cannot do without is laid over it
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "no_default_config")]
    pub defconfig: Option<String>,
    /// Variable for the kernel's make, such as LLVM=1, CC=gcc-11 or W=1; can be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub make: Vec<String>,
    /// Omit the harness's own fragment: the config is tinyconfig with the --config fragments
    #[arg(long)]
    pub no_default_config: bool,
    /// Build more of the code that registers callbacks of hotplug into the kernels
    #[arg(long, conflicts_with = "no_default_config")]
    pub wide: bool,
    /// Put the types of all structures into the kernels' debug information, for crash and gdb. The
    /// kernels run the same code, and take longer to build
    #[arg(long)]
    pub full_debug_info: bool,
    /// Parallel compilations [default: number of processors]
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
  hotplug kernel build --source linux-source-6.12 --config debug.config my.patch
  hotplug kernel build --source ~/src/linux --defconfig x86_64_defconfig --make LLVM=1 my.patch")]
pub struct BuildArgs {
    /// Options that select the two kernels.
    #[command(flatten)]
    pub pair: PairArgs,
    /// Print the pair as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `hotplug kernel fetch`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug kernel fetch trixie-backports
  hotplug compare --source \"$(hotplug kernel fetch sid)\" my.patch
  hotplug kernel fetch trixie linux-image-amd64

Nothing is installed, and root is not needed: the package is kept in the cache, as a file.")]
pub struct FetchArgs {
    /// Suite of the archive of this machine's release, such as trixie-backports or sid
    #[arg(value_name = "SUITE")]
    pub suite: String,
    /// Package, such as linux-source-6.12 or linux-image-amd64 [default: the newest kernel's source]
    #[arg(value_name = "PACKAGE")]
    pub package: Option<String>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Options of `hotplug kernel list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `hotplug kernel prune`.
#[derive(Debug, Clone, Args)]
pub struct PruneArgs {
    /// Remove what has not been used for N days
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub days: u32,
    /// Remove everything, including what other versions of hotplug made
    #[arg(long, conflicts_with = "days")]
    pub all: bool,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl PairArgs {
    /// The cache that these options name.
    pub fn open_cache(&self) -> Result<Cache> {
        Cache::open(cache_path(self.cache.as_deref())?)
    }

    /// The pair that these options name.
    pub fn spec(&self) -> PairSpec {
        PairSpec {
            arch: self.arch,
            patches: self.patches.clone(),
            base_patches: self.base_patch.clone(),
            source: self.source.clone(),
            before: self.before.clone(),
            after: self.after.clone(),
            before_image: self.before_image.clone(),
            after_image: self.after_image.clone(),
            before_package: self.before_package.clone(),
            after_package: self.after_package.clone(),
            before_symbols: self.before_symbols.clone(),
            after_symbols: self.after_symbols.clone(),
            config: self.config.clone(),
            defconfig: self.defconfig.clone(),
            make: self.make.clone(),
            no_default_config: self.no_default_config,
            wide: self.wide,
            full_debug_info: self.full_debug_info,
            jobs: self.jobs,
            notes: Vec::new(),
            given_as: std::collections::BTreeMap::new(),
        }
    }

    /// The pair that these options name, with the files that had to be made of them. They are
    /// removed when the folder is dropped.
    pub(super) async fn understood(
        &self,
        wish: Wish,
        cancel: &CancellationToken,
    ) -> Result<(PairSpec, Option<tempfile::TempDir>)> {
        understood(self.spec(), wish, &std::env::current_dir()?, cancel).await
    }
}

pub(super) fn cache_path(given: Option<&std::path::Path>) -> Result<PathBuf> {
    given.map_or_else(Cache::default_path, |path| Ok(path.to_owned()))
}

/// Runs the subcommand. Its result goes to `out`, its progress to standard error.
pub async fn run(
    command: &KernelCommand,
    out: &mut dyn std::io::Write,
    cancel: &CancellationToken,
) -> Result<()> {
    match command {
        KernelCommand::Build(args) => {
            let (spec, _files) = args.pair.understood(Wish::Any, cancel).await?;
            let events = BuildReporter::new();
            for note in &spec.notes {
                eprintln!("note      {note}");
            }
            let pair = build_pair(&args.pair.open_cache()?, &spec.request()?, &events, cancel).await?;
            drop(events);
            if args.json { json(out, &pair) } else { Ok(write!(out, "{}", pair_text(&pair))?) }
        }
        KernelCommand::Fetch(args) => {
            let cache = Cache::open(cache_path(args.cache.as_deref())?)?;
            let file = fetch(&cache, &args.suite, args.package.as_deref(), cancel).await?;
            Ok(writeln!(out, "{}", file.display())?)
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
        let left_out: Vec<_> = kernel.left_out().iter().map(|name| format!("CONFIG_{name}")).collect();
        let left_out = match left_out.as_slice() {
            [] => String::new(),
            names => format!("        not in this source: {}\n", names.join(", ")),
        };
        let basis = kernel.basis().map_or_else(String::new, |basis| format!("        {}\n", basis.words()));
        format!(
            "{which:<7} {id}  {release}  {:<18} {}\n{left_out}{basis}",
            built.to_string(),
            image.display()
        )
    };
    let mut text = line(Side::Before, &pair.before) + &line(Side::After, &pair.after);
    if pair.same_image() && pair.before.id != pair.after.id {
        text.push_str("the two images are the same, bit for bit\n");
    }
    text
}

pub(super) fn gigabytes(bytes: u64) -> String {
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

pub(super) fn pruned_text(pruned: &Pruned) -> String {
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

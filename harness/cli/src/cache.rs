//! `hotplug cache`: what the cache of kernels takes, and how it is kept small.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::kernel::{cache_path, gigabytes, pruned_text};
use hotplug::Result;
use hotplug::bytes::Bytes;
use hotplug::kernel::{Prune, prune, sizes};

/// Options of `hotplug cache`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug cache
  hotplug cache --prune-to 8G

hotplug kernel list names the kernels, and hotplug kernel prune removes them by their age.")]
pub struct CacheArgs {
    /// Remove what was not used for longest, until the cache has at most this size. What a run uses
    /// is kept
    #[arg(long, value_name = "SIZE")]
    pub prune_to: Option<Bytes>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Prints to `out`. Returns the exit status: 1 if the cache is still larger than asked.
pub fn run(args: &CacheArgs, out: &mut dyn Write) -> Result<u8> {
    let root = cache_path(args.cache.as_deref())?;
    if let Some(most) = args.prune_to {
        write!(out, "{}", pruned_text(&prune(&root, Prune::To(most))?))?;
    }
    let sizes = sizes(&root);
    let all: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
    writeln!(out, "{}: {}", root.display(), gigabytes(all))?;
    for (part, bytes) in sizes.iter().filter(|(_, bytes)| *bytes > 0) {
        writeln!(out, "  {part:<13} {:>8}", gigabytes(*bytes))?;
    }
    Ok(u8::from(args.prune_to.is_some_and(|most| all > most.0)))
}

//! `hotplug locks atlas`: what all runs on this machine know of the lock order of each kernel.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use hotplug_lockorder::{Union, forecast};
use hotplug_side::Side;

use super::kernel::cache_path;
use super::locks::Form;
use hotplug::analysis::lock_order;
use hotplug::atlas::{self, Atlas};
use hotplug::kernel::Cache;
use hotplug::record::read_run;
use hotplug::text::harmless;
use hotplug::{Error, Result};

/// Options of `hotplug locks atlas`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  hotplug locks atlas
  hotplug locks atlas 0287e740
  hotplug locks atlas --add results/2026-11-26T15-33-29-v1.patch
  hotplug locks atlas --merge /mnt/worker-2/lock-orders/0287e740.../atlas.json")]
pub struct AtlasArgs {
    /// The beginning of the hash of a kernel's image, or the image. Without it, all kernels are listed
    #[arg(value_name = "KERNEL")]
    pub kernel: Option<String>,
    /// Add what the guests of this comparison showed, such as one of a fleet
    #[arg(long, value_name = "RESULT")]
    pub add: Vec<PathBuf>,
    /// Add the guests of another machine's atlas of the same kernel
    #[arg(long, value_name = "FILE")]
    pub merge: Vec<PathBuf>,
    /// Kernel cache [default: ~/.cache/hotplug]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Adds to the atlases as requested, and returns the text. `found` finds the folder of a comparison.
pub(super) fn text(
    args: &AtlasArgs,
    form: Form,
    found: impl Fn(&PathBuf) -> Result<PathBuf>,
) -> Result<String> {
    if form != Form::Text {
        return Err(Error::user("an atlas is not drawn").help("omit --as"));
    }
    let cache = Cache::open(&cache_path(args.cache.as_deref())?)?;
    // All files are read first, so that a bad one leaves nothing half added.
    let runs = args.add.iter().map(|run| {
        let folder = found(run)?;
        Ok((read_run(&folder)?, folder))
    });
    let runs = runs.collect::<Result<Vec<_>>>()?;
    let others = args.merge.iter().map(|file| {
        let atlas = Atlas::read(file)?;
        atlas.map_err(|why| {
            Error::user(why).help("name the atlas.json of a kernel, of this version of hotplug")
        })
    });
    let others = others.collect::<Result<Vec<Atlas>>>()?;
    for (run, folder) in &runs {
        atlas::add_run(&cache, folder, run)?;
    }
    for other in &others {
        atlas::merge(&cache, other)?;
    }
    match &args.kernel {
        None => list(&cache),
        Some(kernel) => Ok(whole(&Atlas::named(&cache, kernel)?)),
    }
}

/// One line for each kernel.
fn list(cache: &Cache) -> Result<String> {
    let all = Atlas::all(cache)?;
    let mut out = String::new();
    if all.is_empty() {
        out += "no run with a lock order so far\n";
    }
    for one in all {
        match one {
            Ok(atlas) => out += &head(&atlas),
            Err(why) => {
                let _ = writeln!(out, "not used: {}", harmless(&why, 200));
            }
        }
    }
    Ok(out)
}

fn head(atlas: &Atlas) -> String {
    let hash = atlas.image_hash.get(..12).unwrap_or(&atlas.image_hash);
    let (edges, guests) = (atlas.edges(), atlas.guests.len());
    let mut line =
        format!("{hash}  {}  {edges} dependencies, from {guests} guests", harmless(&atlas.release, 40));
    if atlas.left_out > 0 {
        let _ = write!(line, "; {} more were dropped or left out", atlas.left_out);
    }
    line + "\n"
}

/// The guests of one kernel, and what they foresee together.
fn whole(atlas: &Atlas) -> String {
    let mut out = head(atlas);
    let mut union = Union::default();
    out += "\nnew dependencies   guest\n";
    for guest in &atlas.guests {
        let name = harmless(&guest.name, 120);
        let _ = writeln!(out, "{:>16}   {name}", guest.order.edges.len());
        union.add_elsewhere(Side::Before, &guest.example(), &guest.order);
    }
    let forecasts = forecast(&union, Side::Before);
    let _ = writeln!(out, "\nforeseen: {}", forecasts.len());
    for forecast in &forecasts {
        let _ = writeln!(out, "  {}", lock_order::title(forecast));
        out += &lock_order::steps(forecast);
    }
    out
}

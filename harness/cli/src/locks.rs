//! `hotplug locks`: the lock order of a run's kernels.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use hotplug_lockorder::Union;
use hotplug_side::Side;

use super::atlas::{self, AtlasArgs};
use super::results::ResultsArgs;
use hotplug::analysis::lock_order;
use hotplug::compare::{Elsewhere, LockOrderDiff, LockOrders};
use hotplug::drawing::{self, Drawing};
use hotplug::record::{add_locks, further_boot, read_locks, read_result};
use hotplug::{Error, Result};

/// Options of `hotplug locks`.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  hotplug locks last
  hotplug locks diff results/2026-11-26T15-33-29-v1.patch last
  hotplug locks atlas"
)]
pub struct LocksArgs {
    /// Folder of a comparison, the beginning of its name below results/, or `last`
    #[arg(value_name = "RESULT", required = true)]
    pub result: Option<PathBuf>,
    /// The folder of the results.
    #[command(flatten)]
    pub at: ResultsArgs,
    /// Print which locks are taken under this one, and under which locks it is taken, on both sides
    #[arg(long, value_name = "LOCK")]
    pub around: Option<String>,
    /// Output format
    #[arg(long = "as", value_enum, value_name = "FORM", default_value_t, global = true)]
    pub form: Form,
    /// The subcommand, if one is given.
    #[command(subcommand)]
    pub command: Option<LocksCommand>,
}

/// The output format of a lock order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Form {
    /// Plain text
    #[default]
    Text,
    /// Graph for Graphviz
    Dot,
    /// Drawing
    Svg,
}

/// Subcommands on several runs.
#[derive(Debug, Clone, Subcommand)]
pub enum LocksCommand {
    /// Compare the after kernels of two runs, such as a patch and its next version
    Diff {
        /// The first comparison
        #[arg(value_name = "RESULT")]
        before: PathBuf,
        /// The second comparison
        #[arg(value_name = "RESULT")]
        after: PathBuf,
    },
    /// Show what all runs on this machine know of the lock order of each kernel
    Atlas(AtlasArgs),
}

/// Prints to `out`. Returns the exit status.
pub fn run(args: &LocksArgs, out: &mut dyn Write) -> Result<u8> {
    let found = |folder: &PathBuf| args.at.found(folder);
    let result = args.result.as_ref().map(found).transpose()?;
    let text = match (&args.command, &result, &args.around) {
        (Some(LocksCommand::Atlas(atlas)), ..) => atlas::text(atlas, args.form, found)?,
        (Some(LocksCommand::Diff { before, after }), ..) => diff(&found(before)?, &found(after)?, args.form)?,
        (None, Some(folder), Some(lock)) => around(folder, lock, args.form)?,
        (None, Some(folder), None) => difference(folder, args.form)?,
        (None, None, _) => return Err(Error::user("no run is named").help("hotplug locks results/RUN")),
    };
    out.write_all(text.as_bytes())?;
    Ok(0)
}

/// The difference between the two kernels of one run.
fn difference(folder: &Path, form: Form) -> Result<String> {
    let diff = read_result(folder)?.lock_order.ok_or_else(|| {
        Error::user(format!("{} has no comparison of the lock order", folder.display()))
            .help("name a comparison that ended; a control and hotplug prove do not compare the lock order")
    })?;
    told(&diff, form)
}

/// The difference between the after kernels of two runs. It rests on the further boots that both
/// runs have.
fn diff(before: &Path, after: &Path, form: Form) -> Result<String> {
    let runs = [(Side::Before, before), (Side::After, after)];
    let both = |place: &dyn Fn(&Path) -> PathBuf| -> Result<Union> {
        let mut union = Union::default();
        for (side, run) in runs {
            let folder = place(run);
            add_locks(&mut union, &folder, |of| (of == Side::After).then_some(side))?
                .map_err(|why| none(&folder, &why))?;
        }
        Ok(union)
    };
    let mut orders = LockOrders::new(both(&Path::to_owned)?);
    while let Some(number) = orders.next_boot()
        && runs.iter().all(|(_, run)| further_boot(run, number).exists())
    {
        orders.add_boot(&both(&|run| further_boot(run, number))?);
    }
    if orders.next_boot().is_some() {
        eprintln!(
            "hotplug: some candidates need more boots of both kernels than the two runs made; compare one patch with the other"
        );
    }
    told(&orders.diff(&Elsewhere::default()), form)
}

fn told(diff: &LockOrderDiff, form: Form) -> Result<String> {
    Ok(match form {
        Form::Text => lock_order::full(diff),
        Form::Dot => drawing::dot(&Drawing::of_difference(diff)),
        Form::Svg => svg(&Drawing::of_difference(diff))?,
    })
}

/// Fails with a user error if the drawing is too large.
fn svg(drawing: &Drawing) -> Result<String> {
    let arrows = drawing.arrows.len();
    if arrows > Drawing::MOST {
        return Err(Error::user(format!(
            "{arrows} dependencies are too many to draw, at most {}",
            Drawing::MOST
        ))
        .help("--around LOCK draws the locks beside one, and --as dot is for Graphviz"));
    }
    Ok(drawing::svg(drawing))
}

fn none(folder: &Path, why: &str) -> Error {
    Error::user(format!("{} has no lock order: {why}", folder.display()))
        .help("name a run of this version of hotplug, with kernels that hotplug built")
}

fn around(folder: &Path, lock: &str, form: Form) -> Result<String> {
    let union = read_locks(folder)?.map_err(|why| none(folder, &why))?;
    let named = named(&union, lock);
    if named.is_empty() {
        let mut alike: Vec<&str> =
            union.classes().iter().map(|class| &*class.name).filter(|name| name.contains(lock)).collect();
        alike.sort_unstable();
        alike.dedup();
        alike.truncate(8);
        let error = Error::user(format!("no trial of {} took a lock called {lock}", folder.display()));
        return Err(if alike.is_empty() {
            error.help("use lockdep's name of the lock, such as mem_hotplug_lock")
        } else {
            error.help(format!("similar names: {}", alike.join(", ")))
        });
    }
    Ok(match form {
        Form::Text => lock_order::neighbourhood(&union, &named),
        Form::Dot => drawing::dot(&Drawing::around(&union, &named)),
        Form::Svg => svg(&Drawing::around(&union, &named))?,
    })
}

/// The classes with this name, of any subclass.
fn named(union: &Union, lock: &str) -> Vec<u32> {
    let places = (0..).zip(union.classes());
    places
        .filter(|(place, class)| class.name == lock || union.name(*place) == lock)
        .map(|(place, _)| place)
        .collect()
}

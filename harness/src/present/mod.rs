//! The output of a run for readers and programs. All forms are made from the same record.

pub mod bisect;
pub mod build;
pub mod cases;
mod evidence;
pub mod fleet;
pub mod formats;
pub mod github;
pub mod gitlab;
pub mod history;
pub mod junit;
pub mod kcidb;
pub mod ktap;
pub mod mail;
pub mod page;
pub mod patchwork;
mod progress;
pub mod prove;
pub mod replay;
pub mod scan;
mod scan_notes;
pub mod series;
pub mod shrink;
pub mod stream;
pub mod terminal;
mod vmcores;
pub mod watch;

pub use progress::Progress;

use hotplug_side::Sides;
use hotplug_statistics::detectable_rate;

use crate::compare::{Tally, lacking};
use crate::record::{HostRecord, KernelNote, RunResult};
use crate::text::harmless;

/// The line about the machine, on every screen.
fn host_line(host: &HostRecord) -> String {
    format!("host      QEMU {}, {}, {} cores", host.qemu, host.accelerator_reason, host.cores)
}

/// The architecture of a kernel after its release, unless it is the default one.
fn of_arch(kernel: &KernelNote) -> String {
    if kernel.arch.is_default() { String::new() } else { format!(", {}", kernel.arch) }
}

/// What is to be known of the kernels' configuration, a line each.
fn about_kernels(kernels: &Sides<KernelNote>) -> impl Iterator<Item = String> {
    [left_out(kernels), basis(kernels), lacks(kernels)].into_iter().flatten()
}

/// The options of the config that the kernels lack because their source does not define them, in
/// words. `None` if there are none.
fn left_out(kernels: &Sides<KernelNote>) -> Option<String> {
    let words = |names: &[String]| {
        names.iter().map(|name| format!("CONFIG_{}", harmless(name, 80))).collect::<Vec<_>>().join(", ")
    };
    let (before, after) = (&kernels.before.left_out, &kernels.after.left_out);
    if before == after {
        return (!before.is_empty()).then(|| format!("not in this source: {}", words(before)));
    }
    let side = |names: &[String], side| {
        (!names.is_empty()).then(|| format!("not in the {side} source: {}", words(names)))
    };
    let both: Vec<_> = [side(before, "before"), side(after, "after")].into_iter().flatten().collect();
    Some(both.join("; "))
}

/// In how many trials lockdep was armed to the end, in words.
fn armed(trials: &Sides<Tally>) -> String {
    let Sides { before, after } = trials;
    if before.lacks_lockdep() && after.lacks_lockdep() {
        return "without lockdep".into();
    }
    let lacking = lacking(trials).map_or_else(String::new, |lacking| format!(" ({lacking})"));
    format!("lockdep armed to the end in {} + {}{lacking}", before.armed, after.armed)
}

/// The number of guests that took the trials, if some took several, such as ` (8 + 8 guests)`.
fn guests(trials: &Sides<Tally>) -> String {
    let Sides { before, after } = trials;
    if before.shares_guests() || after.shares_guests() {
        return format!(" ({} + {} guests)", before.guests, after.guests);
    }
    String::new()
}

/// What the silence of trials means that shared guests, in words. `None` if each had its own.
fn silence_of_guests(result: &RunResult) -> Option<String> {
    let guests = result.least_guests()?;
    let rate = detectable_rate(guests) * 100.0;
    Some(format!(
        "these trials ran in {guests} guests a side: a report that depends on the guest may have been missed if fewer than {rate:.0} % of guests have it"
    ))
}

/// Guests that did not return to their beginning, in words. `None` if there are none.
fn not_at_rest(trials: &Sides<Tally>) -> Option<String> {
    let number = trials.before.not_at_rest + trials.after.not_at_rest;
    let guests = if number == 1 { "guest" } else { "guests" };
    (number > 0).then(|| {
        format!("{number} {guests} took no further trial: something was left of a clean one (left_over in trial.json)")
    })
}

/// Faults of the emulator, in words. `None` if there were none.
fn emulator_faults(trials: &Sides<Tally>) -> Option<String> {
    let (before, after) = (trials.before.emulator_faults, trials.after.emulator_faults);
    let faults = if before + after == 1 { "fault" } else { "faults" };
    (before + after > 0).then(|| {
        format!(
            "{before} + {after} {faults} of the emulator: it ran a breakpoint that the kernel had removed"
        )
    })
}

/// The options that would print reports and that a kernel does not have, in words. `None` if both
/// have all.
fn lacks(kernels: &Sides<KernelNote>) -> Option<String> {
    let mut names: Vec<&String> = kernels.before.lacks.iter().chain(&kernels.after.lacks).collect();
    names.sort();
    names.dedup();
    let names: Vec<_> = names.iter().map(|name| format!("CONFIG_{}", harmless(name, 80))).collect();
    (!names.is_empty()).then(|| format!("without {}: what they would report is not known", names.join(", ")))
}

/// What became of a configuration that is not the harness's own, in words. `None` if it is the
/// harness's.
fn basis(kernels: &Sides<KernelNote>) -> Option<String> {
    let words = |note: &KernelNote| note.basis.as_ref().map(|basis| harmless(&basis.words(), 4000));
    let (before, after) = (words(&kernels.before), words(&kernels.after));
    match (before, after) {
        (Some(before), Some(after)) if before == after => Some(before),
        (Some(before), Some(after)) => Some(format!("before: {before}; after: {after}")),
        (before, after) => before.or(after),
    }
}

/// Formats seconds as `8 s` or `2 m 51 s`.
pub fn duration(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and not negative")]
    let whole = seconds.max(0.0).round() as u64;
    if whole < 60 { format!("{whole} s") } else { format!("{} m {} s", whole / 60, whole % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_a_source_lacks() {
        let note = |left_out: &[&str]| KernelNote {
            left_out: left_out.iter().map(|name| (*name).to_owned()).collect(),
            ..KernelNote::default()
        };
        let said = |before: &[&str], after: &[&str]| {
            left_out(&Sides { before: note(before), after: note(after) }).unwrap_or_default()
        };
        assert_eq!(said(&[], &[]), "");
        assert_eq!(said(&["A", "B"], &["A", "B"]), "not in this source: CONFIG_A, CONFIG_B");
        assert_eq!(said(&[], &["A"]), "not in the after source: CONFIG_A");
        assert_eq!(
            said(&["A"], &["B"]),
            "not in the before source: CONFIG_A; not in the after source: CONFIG_B"
        );
    }

    #[test]
    fn durations() {
        assert_eq!(duration(8.4), "8 s");
        assert_eq!(duration(170.9), "2 m 51 s");
    }
}

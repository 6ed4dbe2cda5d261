//! The output of the lock order analysis: the dependencies that differ.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hotplug_lockorder::{Danger, Forecast, Union, function_of};
use hotplug_side::{Side, Sides};

use maud::{Markup, html};

use crate::compare::{EdgeDiff, Extent, Judgement, LockOrderDiff, Reversal, Weight};
use crate::conclusion::{Case, Conclusion, labelled, unavailable_line};
use crate::drawing::{self, Drawing};
use crate::text::harmless;

/// Widest line, in characters.
const WIDTH: usize = 100;

/// Lines of each list on the screen of a comparison. `hotplug locks` prints all.
const SHOWN: usize = 4;

impl Conclusion for LockOrderDiff {
    fn screen(&self) -> Vec<String> {
        short(self)
    }

    fn weight(&self, _: &Judgement) -> Weight {
        let Some(first) = self.reversed.first() else { return Weight::Nothing };
        let more = match self.reversed.len() {
            1 => String::new(),
            n => format!(", and {} more", n - 1),
        };
        Weight::Unproven(format!("lock order reversed: {}{more}", reversed(first)))
    }

    fn case(&self) -> Option<Case> {
        None
    }

    fn page(&self, _: &Path) -> Markup {
        html! {
            section aria-labelledby="locks" {
                h2 id="locks" { "Lock order" }
                @if let Some(why) = &self.none { p { "Not compared: " (&**why) } } @else {
                    @for one in &self.reversed { p { "Reversed: " (reversed(one)) "." } }
                    @for text in limits(self) { p { (text) "." } }
                    p { (self.gone.len()) " dependencies gone, " (self.new.len()) " new, beyond chance; " (self.undecided) " more may be chance." }
                    @if let Some(image) = drawn(self) {
                        div.drawing tabindex="0" role="region" aria-label="drawing of the lock order" {
                            img src=(image) alt="Locks as boxes, with an arrow from each lock to the locks that were taken under it; the text below lists the same.";
                        }
                    }
                    details { summary { "as text, with call paths" } pre tabindex="0" { (full(self)) } }
                }
            }
        }
    }
}

/// The difference as an image with a `data:` address. The styles of an inline image would apply to
/// the whole page.
fn drawn(diff: &LockOrderDiff) -> Option<String> {
    let drawing = Drawing::of_difference(diff);
    let is_drawn = (1..=Drawing::MOST).contains(&drawing.arrows.len());
    let svg = is_drawn.then(|| drawing::svg(&drawing))?;
    Some(format!("data:image/svg+xml;base64,{}", STANDARD.encode(svg)))
}

/// The lines of a comparison's screen.
fn short(diff: &LockOrderDiff) -> Vec<String> {
    if let Some(why) = &diff.none {
        return unavailable_line("locks", "not compared", why);
    }
    let mut lines: Vec<String> =
        diff.reversed.iter().take(SHOWN).map(|one| format!("reversed  {}", reversed(one))).collect();
    for (word, edges) in [("gone", &diff.gone), ("new", &diff.new)] {
        let groups = groups(edges);
        lines.extend(groups.iter().take(SHOWN).map(|group| format!("{word:<4}  {}", group.line(WIDTH - 17))));
        if groups.len() > SHOWN {
            lines.push(format!("      and {} more {word}", groups.len() - SHOWN));
        }
    }
    let limits = limits(diff);
    if diff.gone.is_empty() && diff.new.is_empty() {
        let (before, after) = (diff.extent.before.edges, diff.extent.after.edges);
        lines.push(if limits.is_empty() {
            format!("no dependency differs beyond chance; {before} + {after} seen")
        } else {
            format!("{before} + {after} dependencies seen, and not compared to the end")
        });
    }
    lines.extend(limits);
    lines.extend(diff.elsewhere.unused.iter().map(|why| harmless(why, WIDTH)));
    if let Some(first) = diff.forecast.first() {
        let more = match diff.forecast.len() {
            1 => String::new(),
            n => format!(", and {} more", n - 1),
        };
        let only = if first.new { " only" } else { "" };
        lines.push(format!("foreseen, {}{only}: {}{more}", first.side, title(first)));
    }
    labelled("locks", lines)
}

/// Two locks in the other order.
fn reversed(one: &Reversal) -> String {
    let (first, second) = (harmless(&one.first, 60), harmless(&one.second, 60));
    format!("{second} -> {first}, the other way round before")
}

/// What the comparison cannot say.
fn limits(diff: &LockOrderDiff) -> Vec<String> {
    let Sides { before, after } = diff.extent;
    let is_blind = |extent: Extent| extent.trials == 0 && extent.blind > 0;
    let mut lines = Vec::new();
    match (is_blind(before), is_blind(after)) {
        (true, true) => lines.push(format!(
            "lockdep went off in all {} + {} guests: nothing can be said to be new or gone",
            before.blind, after.blind
        )),
        (true, false) => lines.push(format!(
            "lockdep went off in all {} before guests: nothing can be said to be new",
            before.blind
        )),
        (false, true) => lines.push(format!(
            "lockdep went off in all {} after guests: nothing can be said to be gone",
            after.blind
        )),
        (false, false) => {}
    }
    // What is listed was decided.
    if let Some(needed) = diff.needed.filter(|_| diff.gone.is_empty() && diff.new.is_empty()) {
        let guests = format!("{} + {} guests", before.trials + before.blind, after.trials + after.blind);
        let words = format!("{guests} cannot decide {} differences; {needed} a side could", diff.undecided);
        lines.push(words);
    }
    lines
}

/// The full text.
pub fn full(diff: &LockOrderDiff) -> String {
    let mut out = String::new();
    if let Some(why) = &diff.none {
        let _ = writeln!(out, "the lock order was not compared: {}", harmless(why, 200));
        return out;
    }
    for (side, extent) in [("before", diff.extent.before), ("after", diff.extent.after)] {
        let _ = write!(out, "{side:<7} {} dependencies in {} guests", extent.edges, extent.trials);
        if extent.boots > 0 {
            let _ = write!(out, " and {} further boots", extent.boots);
        }
        if extent.blind > 0 {
            let _ = write!(out, "; {} more were blind: they are no evidence of absence", extent.blind);
        }
        out.push('\n');
    }
    for text in limits(diff) {
        let _ = writeln!(out, "{text}");
    }
    if !diff.reversed.is_empty() {
        let _ = writeln!(out, "\nreversed: {}", diff.reversed.len());
    }
    for one in &diff.reversed {
        let _ = writeln!(out, "  {}   p = {:.2e}", reversed(one), one.p);
        for (side, example, frames) in [
            ("before", &one.example_before, &one.path_before),
            ("after", &one.example_after, &one.path_after),
        ] {
            let _ = writeln!(out, "      {side}: {}", harmless(example, 60));
            out += &path(frames);
        }
    }
    for (title, edges) in [("gone", &diff.gone), ("new", &diff.new)] {
        let _ = writeln!(out, "\n{title}, beyond chance: {}", edges.len());
        for edge in edges {
            out += &whole(edge);
        }
    }
    let _ = writeln!(out, "\n{} dependencies that only one side showed may be chance", diff.undecided);
    let _ = writeln!(out, "\nforeseen: {}", diff.forecast.len());
    let Sides { before, after } = diff.elsewhere.guests;
    if before + after > 0 {
        let _ = writeln!(out, "  with what {before} + {after} guests of other runs showed");
    }
    for why in &diff.elsewhere.unused {
        let _ = writeln!(out, "  {}", harmless(why, 2 * WIDTH));
    }
    for forecast in &diff.forecast {
        out += &foreseen(forecast);
    }
    out
}

/// The locks that are taken under these classes, and those that these classes are taken under, with
/// the number of trials of each side.
pub fn neighbourhood(union: &Union, classes: &[u32]) -> String {
    let mut out = String::new();
    for &class in classes {
        let known = &union.classes()[class as usize];
        let _ = write!(out, "{}", harmless(&union.name(class), 80));
        let of = [known.key.as_deref(), known.file.as_deref()].into_iter().flatten().collect::<Vec<_>>();
        let key = if of.is_empty() { "its key was allocated".to_owned() } else { of.join(", ") };
        let _ = writeln!(out, "   ({})", harmless(&key, 80));
        let mut lines = |title: &str, pick: &dyn Fn((u32, u32)) -> Option<u32>| {
            let mut all: Vec<String> = union
                .edges()
                .filter_map(|(ends, sides)| {
                    let count = |side: Side| union.often(side, &sides.of(side).shown);
                    let other = harmless(&union.name(pick(ends)?), 60);
                    let how = sides.before.how().and(sides.after.how());
                    let (before, after) = (count(Side::Before), count(Side::After));
                    Some(format!("    {other:<60} before {before:<7} after {after:<7} {how}"))
                })
                .collect();
            all.sort();
            let _ = writeln!(out, "  {title}: {}", all.len());
            for line in all {
                let _ = writeln!(out, "{line}");
            }
        };
        lines("taken under it", &|(from, to)| (from == class).then_some(to));
        lines("it is taken under", &|(from, to)| (to == class).then_some(from));
    }
    out
}

/// One dependency with its statistics and the call path that made it.
fn whole(edge: &EdgeDiff) -> String {
    let mut out = format!("  {} -> {}", harmless(&edge.from, 60), harmless(&edge.to, 60));
    if let Some(whole) = &edge.within {
        let _ = write!(out, "   (part of {})", harmless(whole, 60));
    }
    let _ = write!(out, "\n      guests {} -> {}", edge.before, edge.after);
    if let Some(boots) = &edge.boots {
        let _ = write!(out, "   boots {} -> {}", boots.before, boots.after);
    }
    let _ = writeln!(out, "   p = {:.2e}   {}", edge.p, edge.how);
    if edge.within.is_none() {
        out += &path(&edge.path);
    }
    out
}

/// A forecast deadlock of a comparison, and the origin of each of its steps.
fn foreseen(forecast: &Forecast) -> String {
    let mut out = format!("  {} kernel: {}\n", forecast.side, title(forecast));
    if forecast.likelihood > 0.0 {
        let _ = writeln!(out, "      one guest in {:.0} would show all of it", 1.0 / forecast.likelihood);
    } else {
        out += "      no guest of this run showed all of its parts\n";
    }
    out + &steps(forecast)
}

/// The steps of a forecast deadlock, and the origin of each.
pub fn steps(forecast: &Forecast) -> String {
    let mut out = String::new();
    for step in &forecast.steps {
        let guests = match (&step.conjectured, step.seen) {
            (Some(function), _) => format!("as {} seems to take them, in", harmless(function, 60)),
            (None, 0) => "in a guest of another run,".to_owned(),
            (None, seen) => format!("in {seen} guests, such as"),
        };
        let _ = writeln!(
            out,
            "      {} -> {}   {}   {guests} {}{}",
            harmless(&step.from, 60),
            harmless(&step.to, 60),
            step.how,
            harmless(&step.example, 80),
            if step.new { "; new" } else { "" }
        );
        out += &path(&step.path);
    }
    out
}

/// A forecast deadlock, in one line.
pub fn title(forecast: &Forecast) -> String {
    foreseen_title(forecast.danger, &forecast.locks, 2 * WIDTH)
}

/// A forecast deadlock in at most `width` characters.
pub(crate) fn foreseen_title(danger: Danger, locks: &[String], width: usize) -> String {
    let locks: Vec<String> = locks.iter().map(|lock| harmless(lock, 40)).collect();
    harmless(&format!("{danger}: {}", locks.join(" -> ")), width)
}

/// Functions that only take the lock. Their callers are more informative.
const TAKING: [&str; 12] = [
    "lock_acquire",
    "__lock_acquire",
    "down_read",
    "down_write",
    "percpu_down_write",
    "percpu_down_read",
    "cpus_read_lock",
    "__mutex_lock",
    "mutex_lock_nested",
    "_raw_spin_lock",
    "_raw_spin_lock_irqsave",
    "_raw_spin_lock_irq",
];

/// A call path, caller first, without the functions that only take a lock.
fn path(frames: &[String]) -> String {
    let names = frames.iter().map(|frame| function_of(frame));
    let mut names: Vec<&str> = names.skip_while(|name| TAKING.contains(name)).take(7).collect();
    names.reverse();
    if names.is_empty() {
        return String::new();
    }
    format!("      by {}\n", harmless(&names.join(" > "), 2 * WIDTH))
}

/// Dependencies on one lock that have the same counts.
struct Group<'a> {
    to: &'a str,
    from: Vec<&'a str>,
    edge: &'a EdgeDiff,
}

impl Group<'_> {
    fn line(&self, width: usize) -> String {
        let counts = format!("{} -> {}", self.edge.before, self.edge.after);
        let to = harmless(self.to, 40);
        let room = width.saturating_sub(counts.len() + to.chars().count() + 7);
        let mut from = String::new();
        for (place, name) in self.from.iter().enumerate() {
            let name = harmless(name, 40);
            let left = self.from.len() - place;
            if place > 0 && from.chars().count() + name.chars().count() + 6 > room {
                let _ = write!(from, ", +{left}");
                break;
            }
            from = if place == 0 { name } else { format!("{from}, {name}") };
        }
        let edge = format!("{from} -> {to}");
        format!("{edge:<0$}  {counts}", width.saturating_sub(counts.len() + 2))
    }
}

/// Groups the dependencies. A part of a lock is covered by the lock itself.
fn groups(edges: &[EdgeDiff]) -> Vec<Group<'_>> {
    let mut all: BTreeMap<(&str, String), Group<'_>> = BTreeMap::new();
    for edge in edges.iter().filter(|edge| edge.within.is_none()) {
        let counts = format!("{} {}", edge.before, edge.after);
        let group =
            all.entry((&edge.to, counts)).or_insert_with(|| Group { to: &edge.to, from: Vec::new(), edge });
        group.from.push(&edge.from);
    }
    let mut all: Vec<Group<'_>> = all.into_values().collect();
    // The dependencies of the boot come first, because they are closest to the patch itself. Then
    // those that come from many places.
    all.sort_by_key(|group| {
        (!group.edge.example.starts_with("checkpoints/"), std::cmp::Reverse(group.from.len()))
    });
    all
}

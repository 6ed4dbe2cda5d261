//! Drawings of a lock order: locks as boxes, and an arrow from each lock to the locks that were
//! taken under it.

use hotplug_lockorder::Union;
use hotplug_side::Side;
use rustc_hash::FxHashMap;

use crate::compare::{EdgeDiff, LockOrderDiff};
use crate::text::harmless;

/// The longest name that is drawn, in characters.
const NAME: usize = 40;

/// A drawing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drawing {
    /// The title above the drawing.
    pub title: String,
    /// The names of the locks.
    pub locks: Vec<String>,
    /// The dependencies.
    pub arrows: Vec<Arrow>,
}

/// A dependency: one lock was taken while another was held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrow {
    /// The lock that was held, as an index into the locks.
    pub from: usize,
    /// The lock that was taken, as an index into the locks.
    pub to: usize,
    /// The effect of the patch on it.
    pub change: DependencyChange,
    /// The number of trials that showed it.
    pub note: String,
}

/// The effect of a patch on a dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DependencyChange {
    /// The patch removed it.
    Gone,
    /// The patch added it.
    New,
    /// Both kernels have it.
    Common,
    /// It is a step of a forecast deadlock.
    Foreseen,
}

impl DependencyChange {
    /// All changes, in the order of the legend.
    pub const ALL: [Self; 4] = [Self::Gone, Self::New, Self::Common, Self::Foreseen];

    /// The name in the legend and in the style sheet.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::New => "new",
            Self::Common => "common",
            Self::Foreseen => "foreseen",
        }
    }
}

impl Drawing {
    /// The most arrows of an SVG drawing. The time of the layout grows with the square of their number,
    /// and nobody can follow more.
    pub const MOST: usize = 120;

    /// The differences between two kernels, and their forecast deadlocks. A part of a lock is
    /// covered by the lock itself.
    pub fn of_difference(diff: &LockOrderDiff) -> Self {
        let mut pen = Pen::default();
        for (change, edges) in [(DependencyChange::Gone, &diff.gone), (DependencyChange::New, &diff.new)] {
            for edge in edges.iter().filter(|edge| edge.within.is_none()) {
                pen.draw(&edge.from, &edge.to, change, counts(edge));
            }
        }
        for forecast in &diff.forecast {
            for step in &forecast.steps {
                let note = format!("{} kernel, in {} trials", forecast.side, step.seen);
                pen.draw(&step.from, &step.to, DependencyChange::Foreseen, note);
            }
        }
        pen.drawing.title = "What the patch changes in the lock order".into();
        pen.drawing
    }

    /// The locks that are taken under these classes of `union`, and those that the classes are
    /// taken under. A dependency that only one side has may be chance.
    pub fn around(union: &Union, classes: &[u32]) -> Self {
        let mut pen = Pen::default();
        for ((from, to), sides) in union.edges() {
            if !classes.contains(&from) && !classes.contains(&to) {
                continue;
            }
            let ever = |side: Side| sides.of(side).shown.ever();
            let change = match (ever(Side::Before), ever(Side::After)) {
                (true, true) => DependencyChange::Common,
                (true, false) => DependencyChange::Gone,
                (false, true) => DependencyChange::New,
                (false, false) => continue,
            };
            let count = |side: Side| union.often(side, &sides.of(side).shown);
            let note = format!("before {}, after {}", count(Side::Before), count(Side::After));
            pen.draw(&union.name(from), &union.name(to), change, note);
        }
        let names: Vec<String> = classes.iter().map(|class| harmless(&union.name(*class), NAME)).collect();
        pen.drawing.title = format!("Around {}", names.join(", "));
        pen.drawing
    }
}

fn counts(edge: &EdgeDiff) -> String {
    let boots = edge.boots.map(|boots| format!(", {} -> {} boots", boots.before, boots.after));
    format!("{} -> {} trials{}", edge.before, edge.after, boots.unwrap_or_default())
}

#[derive(Default)]
struct Pen {
    drawing: Drawing,
    places: FxHashMap<String, usize>,
    drawn: FxHashMap<(usize, usize, DependencyChange), usize>,
}

impl Pen {
    fn lock(&mut self, name: &str) -> usize {
        *self.places.entry(name.to_owned()).or_insert_with(|| {
            self.drawing.locks.push(harmless(name, NAME));
            self.drawing.locks.len() - 1
        })
    }

    /// Adds an arrow once. Two deadlocks may share a step.
    fn draw(&mut self, from: &str, to: &str, change: DependencyChange, note: String) {
        let (from, to) = (self.lock(from), self.lock(to));
        let arrows = &mut self.drawing.arrows;
        self.drawn.entry((from, to, change)).or_insert_with(|| {
            arrows.push(Arrow { from, to, change, note });
            arrows.len() - 1
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::drawing::{dot, svg};

    fn drawing(locks: &[&str], arrows: &[(usize, usize, DependencyChange)]) -> Drawing {
        let arrow = |(from, to, change): &(usize, usize, DependencyChange)| Arrow {
            from: *from,
            to: *to,
            change: *change,
            note: "10/10 -> 0/10 trials".into(),
        };
        Drawing {
            title: "A <title>".into(),
            locks: locks.iter().map(|name| (*name).into()).collect(),
            arrows: arrows.iter().map(arrow).collect(),
        }
    }

    #[test]
    fn a_name_cannot_leave_its_place() {
        let odd = drawing(&["a\"] x [", "</text><script>\\"], &[(0, 1, DependencyChange::Gone)]);
        let dot = dot(&odd);
        assert!(dot.contains(r#"n0 [label="a\"] x ["];"#), "{dot}");
        assert!(dot.contains(r#"n1 [label="</text><script>\\"];"#), "{dot}");
        let svg = svg(&odd);
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;"), "{svg}");
    }

    #[test]
    fn each_lock_and_each_arrow_is_drawn_once() {
        let all = drawing(
            &["cpu_hotplug_lock", "mem_hotplug_lock", "slab_mutex"],
            &[
                (0, 1, DependencyChange::Gone),
                (2, 1, DependencyChange::New),
                (2, 0, DependencyChange::Common),
                (0, 2, DependencyChange::Foreseen),
            ],
        );
        let svg = svg(&all);
        for name in &all.locks {
            assert_eq!(svg.matches(&format!(">{name}</text>")).count(), 1, "{name}: {svg}");
        }
        for change in DependencyChange::ALL {
            assert_eq!(svg.matches(&format!("<g class=\"arrow {}\"", change.word())).count(), 1, "{svg}");
        }
    }

    #[test]
    fn nothing_is_drawn_where_nothing_differs() {
        let none = Drawing::of_difference(&LockOrderDiff::default());
        assert_eq!((none.locks.len(), none.arrows.len()), (0, 0));
        assert!(svg(&none).contains("nothing to draw"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// The layout comes from another crate, so arbitrary graphs are tried: with cycles, and
        /// with locks that are taken under themselves.
        #[test]
        fn any_graph_is_drawn(arrows in prop::collection::vec((0_usize..30, 0_usize..30, 0_usize..4), 0..60)) {
            let names: Vec<String> = (0..30).map(|number| format!("lock{number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let arrows: Vec<_> = arrows.iter().map(|(from, to, change)| (*from, *to, DependencyChange::ALL[*change])).collect();
            let svg = svg(&drawing(&names, &arrows));
            prop_assert_eq!(svg.matches("<g class=\"arrow ").count(), arrows.len());
            prop_assert_eq!(svg.matches("<rect class=\"lock\"").count(), names.len());
        }
    }
}

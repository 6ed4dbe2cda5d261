//! Which lines of a file a patch changes: its two versions are compared, because a patch's own line numbers are those of
//! the file that it was made for.

use hotplug_side::{Side, Sides};
use similar::{ChangeTag, TextDiff};

/// What changes in one file. Lines count from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Lines that only the one side has, with their text.
    pub lines: Sides<Vec<(u32, String)>>,
    /// Lines at which the two differ: those above, and where only the other side has lines, the last one before them.
    pub places: Sides<Vec<u32>>,
}

/// What differs between `before` and `after`.
pub fn changed(before: &str, after: &str) -> Changed {
    let mut changed = Changed::default();
    let mut at = Sides { before: 0, after: 0 };
    for change in TextDiff::from_lines(before, after).iter_all_changes() {
        let side = match change.tag() {
            ChangeTag::Equal => {
                at.before += 1;
                at.after += 1;
                continue;
            }
            ChangeTag::Delete => Side::Before,
            ChangeTag::Insert => Side::After,
        };
        *at.of_mut(side) += 1;
        changed.lines.of_mut(side).push((*at.of(side), change.value().trim_end().to_owned()));
        for side in Side::BOTH {
            let (line, places) = (*at.of(side), changed.places.of_mut(side));
            if places.last() != Some(&line) {
                places.push(line);
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_their_own_file() {
        let before = "int f(void)\n{\n\tlock();\n\twork();\n\tunlock();\n}\n";
        let after = "int f(void)\n{\n\twork();\n\tmore();\n}\n";
        let changed = changed(before, after);
        assert_eq!(changed.lines.before, [(3, "\tlock();".to_owned()), (5, "\tunlock();".to_owned())]);
        assert_eq!(changed.lines.after, [(4, "\tmore();".to_owned())]);
        assert_eq!(changed.places.before, [3, 5]);
        // Line 2 is the brace after which lock() is gone.
        assert_eq!(changed.places.after, [2, 3, 4]);
    }

    #[test]
    fn a_new_file_is_all_new() {
        let changed = changed("", "a\nb\n");
        assert_eq!(changed.lines.after.len(), 2);
        assert!(changed.lines.before.is_empty());
    }
}

//! Finds the lines of a file that a patch changes. The two versions of the file are compared,
//! because the patch's own line numbers refer to the file for which it was made.

use hotplug_side::{Side, Sides};
use similar::{ChangeTag, TextDiff};

/// The changes in one file. Lines are numbered from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedLines {
    /// Lines that only this side has, with their text.
    pub lines: Sides<Vec<(u32, String)>>,
    /// Line numbers at which the sides differ: those of `lines` and, where only the other side has
    /// lines, the last line before them.
    pub places: Sides<Vec<u32>>,
}

/// Compares `before` and `after`.
pub fn changed(before: &str, after: &str) -> ChangedLines {
    let mut changed = ChangedLines::default();
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
        // Line 2 is the brace after which lock() was removed.
        assert_eq!(changed.places.after, [2, 3, 4]);
    }

    #[test]
    fn a_new_file_is_all_new() {
        let changed = changed("", "a\nb\n");
        assert_eq!(changed.lines.after.len(), 2);
        assert!(changed.lines.before.is_empty());
    }
}

//! Revisions and which contains which.

use std::collections::HashMap;

/// Revisions from the last good one, number 0, on; parents come before their children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// For each, all that it contains, itself too, a bit each.
    contains: Vec<Vec<u64>>,
}

impl History {
    /// One after the other: `revisions` behind the good one.
    pub fn line(revisions: usize) -> Self {
        Self::of((0..revisions).map(|one| vec![one]))
    }

    /// From the parents of each revision behind the good one, whose own number is 0. Parents that have no number yet do not
    /// count; who has none left descends from the good one.
    pub fn of(parents: impl IntoIterator<Item = Vec<usize>>) -> Self {
        let parents: Vec<Vec<usize>> = parents.into_iter().collect();
        let words = (parents.len() + 1).div_ceil(64);
        let mut contains = vec![vec![0; words]];
        contains[0][0] = 1;
        for (before, parents) in parents.iter().enumerate() {
            let own = before + 1;
            let mut all = contains[0].clone();
            for parent in parents.iter().filter(|parent| **parent < own) {
                all.iter_mut().zip(&contains[*parent]).for_each(|(all, of)| *all |= of);
            }
            all[own / 64] |= 1 << (own % 64);
            contains.push(all);
        }
        Self { contains }
    }

    /// From a list as `git rev-list --topo-order --reverse --parents bad ^good` gives, a revision and its parents a line; and
    /// the names, the good one's first.
    pub fn of_rev_list(good: &str, text: &str) -> (Self, Vec<String>) {
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let names: Vec<String> = std::iter::once(good)
            .chain(lines.iter().filter_map(|l| l.first().copied()))
            .map(str::to_owned)
            .collect();
        let numbers: HashMap<&str, usize> =
            names.iter().enumerate().map(|(at, name)| (&**name, at)).collect();
        let parents = lines
            .iter()
            .filter(|line| !line.is_empty())
            .map(|line| line[1..].iter().filter_map(|parent| numbers.get(parent).copied()).collect());
        (Self::of(parents), names)
    }

    /// Revisions, the good one among them.
    pub fn revisions(&self) -> usize {
        self.contains.len()
    }

    /// Whether `revision` has what `other` brought.
    pub fn contains(&self, revision: usize, other: usize) -> bool {
        self.contains[revision][other / 64] >> (other % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_contains_what_came_before() {
        let line = History::line(70);
        assert_eq!(line.revisions(), 71);
        for (revision, other) in [(0, 0), (70, 0), (70, 69), (65, 64), (1, 1)] {
            assert!(line.contains(revision, other));
            assert_eq!(line.contains(other, revision), revision == other);
        }
    }

    #[test]
    fn a_merge_contains_both_sides_and_neither_side_the_other() {
        let (history, names) = History::of_rev_list("g", "a g\nb a\nc g\nm b c\n");
        assert_eq!(names, ["g", "a", "b", "c", "m"]);
        assert!(history.contains(2, 1) && history.contains(4, 3) && history.contains(4, 1));
        assert!(!history.contains(3, 1) && !history.contains(2, 3) && history.contains(3, 0));
    }
}

//! Revisions, and which revision contains which others.

use std::collections::HashMap;

/// The revisions from the last good one on, which has number 0. Parents come before their children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionGraph {
    /// For each revision, a bit for each revision that it contains, including itself.
    contains: Vec<Vec<u64>>,
}

impl RevisionGraph {
    /// A linear history: `revisions` revisions after the good one.
    pub fn line(revisions: usize) -> Self {
        Self::of((0..revisions).map(|one| vec![one]))
    }

    /// The graph of these parents, one list for each revision after the good one, whose number is
    /// 0. A parent that has no number yet is ignored. A revision without a parent descends from the
    /// good one.
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

    /// The graph of a list in the form of
    /// `git rev-list --topo-order --reverse --parents bad ^good`, which has a revision and its
    /// parents on each line. Also returns the names, that of the good revision first.
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

    /// The number of revisions, including the good one.
    pub fn revisions(&self) -> usize {
        self.contains.len()
    }

    /// Whether `revision` contains `other`.
    pub fn contains(&self, revision: usize, other: usize) -> bool {
        self.contains[revision][other / 64] >> (other % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_contains_what_came_before() {
        let line = RevisionGraph::line(70);
        assert_eq!(line.revisions(), 71);
        for (revision, other) in [(0, 0), (70, 0), (70, 69), (65, 64), (1, 1)] {
            assert!(line.contains(revision, other));
            assert_eq!(line.contains(other, revision), revision == other);
        }
    }

    #[test]
    fn a_merge_contains_both_sides_and_neither_side_the_other() {
        let (history, names) = RevisionGraph::of_rev_list("g", "a g\nb a\nc g\nm b c\n");
        assert_eq!(names, ["g", "a", "b", "c", "m"]);
        assert!(history.contains(2, 1) && history.contains(4, 3) && history.contains(4, 1));
        assert!(!history.contains(3, 1) && !history.contains(2, 3) && history.contains(3, 0));
    }
}

//! Groups reports by bug.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Kind, Report, Signature, same_bug};

/// The bugs seen so far, numbered from 0 in the order of first appearance. It takes reports one by
/// one, so that its memory depends on the number of bugs and not of reports.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Bugs {
    /// The first report of each bug.
    firsts: Vec<Report>,
    by_key: HashMap<String, usize>,
}

impl Bugs {
    /// The number of the bug that `report` is about. One `Bugs` must get the reports of all kernels
    /// that are compared: only then do two prints of one lock cycle have one number (see
    /// [`same_bug`]).
    pub fn number(&mut self, report: &Report) -> usize {
        if let Some(known) = self.by_key.get(&report.signature.key) {
            return *known;
        }
        let cycle = report.kind == Kind::LockdepCircular;
        let same = |first: &Report| cycle && same_bug(first, report);
        let number = self.firsts.iter().position(same).unwrap_or(self.firsts.len());
        if number == self.firsts.len() {
            self.firsts.push(report.clone());
        }
        self.by_key.insert(report.signature.key.clone(), number);
        number
    }
}

/// All reports of one bug.
#[derive(Debug, Clone)]
pub struct Folded<'a> {
    /// The signature of the first report. Others of the group may have another one, see
    /// [`same_bug`].
    pub signature: &'a Signature,
    /// The number of reports.
    pub count: usize,
    /// The first report.
    pub first: &'a Report,
    /// The indices of the reports in the input, in its order.
    pub members: Vec<usize>,
}

/// Groups reports by bug, in the order of first appearance.
pub fn fold<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Vec<Folded<'a>> {
    let mut bugs = Bugs::default();
    let mut groups: Vec<Folded<'a>> = Vec::new();
    for (index, report) in reports.into_iter().enumerate() {
        if let Some(group) = groups.get_mut(bugs.number(report)) {
            group.count += 1;
            group.members.push(index);
        } else {
            groups.push(Folded {
                signature: &report.signature,
                count: 1,
                first: report,
                members: vec![index],
            });
        }
    }
    groups
}

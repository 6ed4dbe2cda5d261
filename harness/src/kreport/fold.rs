//! Many reports, few bugs.

use std::collections::HashMap;

use super::{Kind, Report, Signature, same_bug};

/// All reports of one bug.
#[derive(Debug, Clone)]
pub struct Folded<'a> {
    /// The first report's signature; others of the group may have another, see [`same_bug`].
    pub signature: &'a Signature,
    /// How many reports.
    pub count: usize,
    /// The first of them.
    pub first: &'a Report,
    /// Indices into the folded list, in its order.
    pub members: Vec<usize>,
}

/// Groups reports by bug, in the order of first appearance. Fold the reports of both sides of a pair together:
/// only then are two prints of one lock cycle seen as one.
pub fn fold<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Vec<Folded<'a>> {
    let mut groups: Vec<Folded<'a>> = Vec::new();
    let mut by_key: HashMap<&'a str, usize> = HashMap::new();
    for (index, report) in reports.into_iter().enumerate() {
        let known = by_key.get(report.signature.key.as_str()).copied().or_else(|| {
            let cycle = report.kind == Kind::LockdepCircular;
            cycle.then(|| groups.iter().position(|group| same_bug(group.first, report))).flatten()
        });
        let group = known.unwrap_or(groups.len());
        by_key.insert(&report.signature.key, group);
        if let Some(group) = groups.get_mut(group) {
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

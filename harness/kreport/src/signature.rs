//! Makes and compares signatures. `docs/kernel-reports.md` gives the reasons.

use super::{Kind, Lock, Locks, Report, Signature};

/// The parts of a report that identify the bug.
pub(super) struct Facts<'a> {
    pub kind: Kind,
    /// The text of the checker, without addresses and numbers.
    pub detail: Option<&'a str>,
    /// The source file of a WARNING or BUG, without the line: lines move between builds.
    pub file: Option<&'a str>,
    pub blame: Option<&'a str>,
    /// For assertions: the assertion, and the caller of the function that lacks the lock.
    pub assertion: Option<(&'a str, Option<&'a str>)>,
    pub locks: Option<&'a Locks>,
}

/// Makes the signature.
pub(super) fn sign(facts: &Facts<'_>) -> Signature {
    let mut key = facts.kind.name().to_owned();
    let mut add = |part: &str| {
        key.push_str(" | ");
        key.push_str(part);
    };
    let name = |lock: &Option<Lock>| lock.as_ref().map_or_else(|| "?".to_owned(), Lock::name);
    let nothing = Locks::default();
    let locks = facts.locks.unwrap_or(&nothing);
    match facts.kind {
        // Which side of a cycle reports, and from which function, is chance: the bug is the set of
        // locks.
        Kind::LockdepCircular if !locks.cycle.is_empty() || locks.wanted.is_some() => {
            add(&ring(locks).join(" + "));
        }
        Kind::LockdepUnsafeOrder if locks.cycle.len() == 2 => {
            add(&format!("{} > {}", locks.cycle[0].name(), locks.cycle[1].name()));
        }
        Kind::LockdepIrqInversion if locks.wanted.is_some() => {
            let mut pair = [name(&locks.wanted), name(&locks.held)];
            pair.sort();
            add(&pair.join(" + "));
        }
        Kind::LockdepInconsistent if locks.wanted.is_some() => {
            add(&name(&locks.wanted));
            add(facts.detail.unwrap_or("?"));
        }
        _ => {
            if let Some(lock) = &locks.wanted {
                add(&lock.name());
            }
            if facts.kind == Kind::LockdepHeldAtUserReturn {
                for lock in &locks.held_by_task {
                    add(&lock.name());
                }
            }
            if let Some(detail) = facts.detail {
                add(detail);
            }
            if let Some((assertion, caller)) = facts.assertion {
                add(assertion);
                add(&[facts.blame.unwrap_or("?"), caller.unwrap_or("?")].join(" < "));
            } else if facts.kind == Kind::Kcsan && facts.detail.is_some_and(|detail| detail.contains(" / ")) {
                // `detail` has both functions already; which of them is printed first is chance.
            } else {
                match (facts.blame, facts.file) {
                    (Some(function), _) => add(function),
                    (None, Some(file)) => add(file),
                    (None, None) => {}
                }
            }
        }
    }
    let hash = blake3::hash(key.as_bytes()).to_hex()[..12].to_owned();
    Signature { hash, key }
}

/// The classes of a cycle, in an order that does not depend on the reporting task.
fn ring(locks: &Locks) -> Vec<String> {
    let mut names: Vec<String> =
        locks.cycle.iter().chain(&locks.wanted).chain(&locks.held).map(Lock::name).collect();
    names.sort();
    names.dedup();
    names
}

/// Whether two reports are the same bug: equal signatures, or two prints of one lock cycle.
///
/// Lockdep prints a cycle with the first chain that its search finds, so the locks *between* differ
/// from kernel to kernel and from run to run. The edge that closes the cycle is always the same.
/// Two cycles are one bug if the closing edge of either (held, then wanted, at the same function)
/// is an edge of the other.
pub fn same_bug(a: &Report, b: &Report) -> bool {
    if a.signature == b.signature {
        return true;
    }
    if a.kind != Kind::LockdepCircular || b.kind != Kind::LockdepCircular {
        return false;
    }
    let (Some(left), Some(right)) = (&a.locks, &b.locks) else { return false };
    closes(left, right) || closes(right, left)
}

/// Whether the edge that closes `a` is an edge of `b`.
fn closes(a: &Locks, b: &Locks) -> bool {
    let (Some(held), Some(wanted)) = (&a.held, &a.wanted) else { return false };
    let at = a.cycle.first().and_then(|lock| lock.at.as_deref());
    let count = b.cycle.len();
    (0..count).any(|i| {
        let before = &b.cycle[(i + count - 1) % count];
        let this = &b.cycle[i];
        before.name() == held.name()
            && this.name() == wanted.name()
            && at.is_some()
            && this.at.as_deref() == at
    })
}

//! Reads the locks in the text of lockdep: the lock that a task wants, and the locks that are held
//! (kernel/locking/lockdep.c).

use super::frame::{self, plain_name};
use super::{Kind, Lock, Locks, Stack};

/// The role of the lock on the next line that has one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    Nothing,
    Wanted,
    Held,
    Ring,
}

/// Reads the locks in the lines of a report. `None` if there are none.
pub(super) fn read<'a>(kind: Kind, texts: impl Iterator<Item = &'a str>, stacks: &[Stack]) -> Option<Locks> {
    let mut locks = Locks::default();
    let mut ring = Vec::new();
    let mut next = Next::Nothing;
    let mut scenario = false;
    for text in texts {
        let bare = text.trim();
        if let Some(after) = announced(bare) {
            next = after;
            scenario = false;
        }
        if bare.starts_with("Possible unsafe locking scenario")
            || bare.starts_with("Possible interrupt unsafe")
        {
            scenario = true;
            continue;
        }
        if scenario {
            scenario = !bare.starts_with("*** DEADLOCK");
            if scenario && !bare.is_empty() {
                locks.scenario.push(text.trim_end().to_owned());
            }
            continue;
        }
        let Some(lock) = lock(bare) else {
            if let Some(name) = released(bare) {
                locks.wanted.get_or_insert(name);
            }
            continue;
        };
        if bare.starts_with("-> #") {
            locks.cycle.push(with_stack(lock, bare, stacks));
        } else if bare.starts_with('#') {
            locks.held_by_task.push(lock);
        } else {
            match next {
                Next::Wanted => drop(locks.wanted.get_or_insert(lock)),
                Next::Held => drop(locks.held.get_or_insert(lock)),
                Next::Ring => ring.push(lock),
                Next::Nothing => {}
            }
            next = Next::Nothing;
        }
    }
    // Lockdep prints from #n down to #0. #0 was taken last, under #n, and each #k+1 was taken under
    // #k.
    locks.cycle.reverse();
    if locks.cycle.is_empty() && !ring.is_empty() {
        locks.cycle = ring;
    }
    let found = locks.wanted.is_some() || locks.held.is_some() || !locks.cycle.is_empty();
    (found || kind.is_lockdep() && !locks.held_by_task.is_empty()).then_some(locks)
}

/// The role that a sentence announces for the lock after it.
fn announced(bare: &str) -> Option<Next> {
    const WANTED: [&str; 6] = [
        "is trying to acquire lock:",
        "is trying to acquire:",
        "is trying to lock:",
        "] takes:",
        "just changed the state of lock:",
        "is trying to release lock",
    ];
    if WANTED.iter().any(|end| bare.ends_with(end)) {
        Some(Next::Wanted)
    } else if bare.ends_with("is already holding lock:")
        || bare.ends_with("is already holding:")
        || bare.starts_with("but this lock took another, ")
        || bare.starts_with("but this lock was taken by another, ")
    {
        Some(Next::Held)
    } else if bare.starts_with("but this new dependency connects a ")
        || bare.starts_with("to a ") && bare.ends_with("lock:")
    {
        Some(Next::Ring)
    } else {
        None
    }
}

/// `comm/pid is trying to release lock (&x->lock) at:` and `... to contend lock (&x->lock) at:`.
fn released(bare: &str) -> Option<Lock> {
    let at =
        bare.find(" is trying to release lock (").or_else(|| bare.find(" is trying to contend lock ("))?;
    let open = at + bare[at..].find('(')?;
    let end = bare.rfind(')').filter(|end| *end > open)?;
    Some(named(&bare[open + 1..end], ""))
}

/// `ffff88 (&x->lock#2/1){+.+.}-{3:3}, at: f+0x1/0x2`, with or without the parts around the name.
pub(super) fn lock(text: &str) -> Option<Lock> {
    let open = text.find('(')?;
    let close = open + text[open..].find("){")?;
    let rest = &text[close + 2..];
    let mask_end = rest.find('}')?;
    let mask = &rest[..mask_end];
    // A usage mask has '.', '+', '-' and '?' (get_usage_char()). With other characters, the braces
    // hold another text.
    if mask.is_empty() || !mask.bytes().all(|b| b".+-?:0123456789".contains(&b)) {
        return None;
    }
    let mut lock = named(&text[open + 1..close], mask);
    let rest = &rest[mask_end + 1..];
    if let Some(wait) = rest.strip_prefix("-{") {
        lock.wait = wait.find('}').map(|end| format!("{{{}}}", &wait[..end]));
    }
    lock.at = rest
        .find("at: ")
        .and_then(|at| frame::find(&rest[at + 4..]))
        .map(|f| plain_name(&f.function).to_owned());
    Some(lock)
}

fn named(name: &str, mask: &str) -> Lock {
    let (class, subclass) = class(name);
    Lock { class, subclass, mask: mask.to_owned(), wait: None, at: None, frames: Vec::new() }
}

/// Removes `#N` and `/N` from the name of a class (`__print_lock_name()`), and the instance number
/// from that of a workqueue.
fn class(name: &str) -> (String, u32) {
    let (name, subclass) = match name.rsplit_once('/') {
        Some((class, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            (class, digits.parse().unwrap_or(0))
        }
        _ => (name, 0),
    };
    let name = match name.rsplit_once('#') {
        Some((class, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => class,
        _ => name,
    };
    if name.starts_with("(wq_completion)") {
        return (name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(), subclass);
    }
    (name.to_owned(), subclass)
}

fn with_stack(mut lock: Lock, heading: &str, stacks: &[Stack]) -> Lock {
    let title = heading.trim_end_matches(':');
    if let Some(stack) = stacks.iter().find(|stack| stack.title == title) {
        lock.frames.clone_from(&stack.frames);
        lock.at = super::blame::blame(Kind::LockdepCircular, &stack.frames).map(str::to_owned);
    }
    lock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_apart() {
        let lock =
            lock("ffff888004 (&sb->s_type->i_mutex_key#14/1){+.+.}-{3:3}, at: foo.constprop.0+0x1/0x2")
                .unwrap();
        assert_eq!(lock.name(), "&sb->s_type->i_mutex_key/1");
        assert_eq!((lock.mask.as_str(), lock.wait.as_deref()), ("+.+.", Some("{3:3}")));
        assert_eq!(lock.at.as_deref(), Some("foo"));
        let lock = super::lock("-> #1 ((work_completion)(&x->work)){+.+.}-{0:0}:").unwrap();
        assert_eq!(lock.class, "(work_completion)(&x->work)");
        assert_eq!(super::lock("((wq_completion)loop7#2){+.+.}").unwrap().class, "(wq_completion)loop");
        assert_eq!(super::lock("cpu_down(){foo}"), None);
    }
}

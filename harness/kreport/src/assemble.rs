//! Makes a [`Report`] from its lines.

use super::frame::plain_name;
use super::patterns::{Form, Proof};
use super::stacks::{self, Body};
use super::{Corruption, Excerpt, Frame, Kind, Locks, Report, blame, locks, signature, title};

/// The lines of one report, as the scanner collected them.
#[derive(Debug)]
pub(super) struct Gathered {
    pub form: &'static Form,
    /// The lines with their numbers. The first ones may be those between "cut here" and the
    /// headline.
    pub texts: Vec<(u64, Box<str>)>,
    /// Index of the headline in `texts`.
    pub headline: usize,
    pub first: u64,
    pub last: u64,
    pub time: Option<u64>,
    /// Set by the scanner if records were lost or the report was cut.
    pub corrupted: Option<Corruption>,
    /// The reason why it ended, for the case that it is incomplete.
    pub ended_by: Corruption,
    pub panic: Option<String>,
    pub excerpt: Excerpt,
}

/// Makes the report.
pub(super) fn assemble(gathered: Gathered) -> Report {
    let headline = gathered.texts[gathered.headline].1.to_string();
    let mut body = stacks::read(gathered.form.kind, &gathered.texts[gathered.headline..]);
    let facts = title::read(gathered.form.kind, &headline, &gathered.texts, gathered.headline);
    let kind = facts.kind;
    if let Some(ip) = &facts.function
        && body.frames.is_empty()
    {
        body.frames.push(ip.clone());
    }
    let from = match kind {
        Kind::SoftLockup | Kind::HardLockup | Kind::RcuStall => {
            &body.frames[body.interrupted.min(body.frames.len())..]
        }
        _ => &body.frames[..],
    };
    let assertion = (kind == Kind::Warning).then(|| blame::assertion(from)).flatten().map(str::to_owned);
    let named = facts.function.as_ref().map(|frame| plain_name(&frame.function).to_owned());
    let blamed = blame::blame(kind, from).map(str::to_owned);
    // For KASAN and similar kinds the headline names the function. The stack is better only if that
    // function is a helper.
    let blamed = match named {
        Some(name) if !blame::is_helper(kind, &name) => Some(name),
        _ => blamed,
    };
    let locks = locks::read(kind, gathered.texts.iter().map(|(_, text)| &**text), &body.stacks);
    let blamed = match kind {
        // The function that took the lock, not the one that detected it.
        Kind::LockdepHeldAtExit | Kind::LockdepHeldAtUserReturn => left_behind(locks.as_ref()).or(blamed),
        // The stack is that of a CPU that responded to an NMI.
        Kind::HardLockup | Kind::RcuStall if from.is_empty() => {
            body.stacks.first().and_then(|stack| blame::blame(kind, &stack.frames).map(str::to_owned))
        }
        // A lock report that was cut before its stack still has the place where the lock was
        // wanted.
        _ if kind.is_lockdep() && blamed.is_none() => {
            locks.as_ref().and_then(|locks| locks.wanted.as_ref()).and_then(|lock| lock.at.clone())
        }
        _ => blamed,
    };
    let caller = blamed.as_deref().and_then(|name| caller_of(kind, from, name));
    let signature = signature::sign(&signature::Facts {
        kind,
        detail: facts.class.as_deref(),
        file: facts.source.as_deref().and_then(|source| source.split(':').next()),
        blame: blamed.as_deref(),
        assertion: assertion.as_deref().map(|name| (name, caller.as_deref())),
        locks: locks.as_ref(),
    });
    let corrupted = gathered.corrupted.or_else(|| incomplete(kind, gathered.form, &body, gathered.ended_by));
    Report {
        kind,
        title: title::write(
            kind,
            &facts,
            blamed.as_deref(),
            assertion.as_deref(),
            locks.as_ref(),
            body.process.as_ref(),
        ),
        signature,
        lines: gathered.first..=gathered.last,
        corrupted,
        time: gathered.time,
        process: facts.process.or(body.process),
        cpu: facts.cpu.or(body.cpu),
        blame: blamed,
        assertion,
        source: facts.source,
        detail: facts.detail,
        frames: body.frames,
        stacks: body.stacks,
        locks,
        panic: gathered.panic,
        excerpt: gathered.excerpt,
    }
}

/// The report of a start of the kernel that was not announced.
pub(super) fn reboot(line: u64, time: Option<u64>) -> Report {
    let facts = title::Facts { kind: Kind::Reboot, ..title::Facts::default() };
    let signature = signature::Facts {
        kind: Kind::Reboot,
        detail: None,
        file: None,
        blame: None,
        assertion: None,
        locks: None,
    };
    Report {
        kind: Kind::Reboot,
        title: title::write(Kind::Reboot, &facts, None, None, None, None),
        signature: signature::sign(&signature),
        lines: line..=line,
        corrupted: None,
        time,
        process: None,
        cpu: None,
        blame: None,
        assertion: None,
        source: None,
        detail: None,
        frames: Vec::new(),
        stacks: Vec::new(),
        locks: None,
        panic: None,
        excerpt: Excerpt::default(),
    }
}

/// The function that took the first of the locks that a task still holds.
fn left_behind(locks: Option<&Locks>) -> Option<String> {
    locks?.held_by_task.iter().find_map(|lock| lock.at.clone())
}

fn caller_of(kind: Kind, frames: &[Frame], name: &str) -> Option<String> {
    let at = frames.iter().position(|frame| frame.reliable && plain_name(&frame.function) == name)?;
    frames[at + 1..]
        .iter()
        .find(|frame| frame.reliable && !blame::is_helper(kind, &frame.function))
        .map(|frame| plain_name(&frame.function).to_owned())
}

/// The reason why a report is incomplete: it has no stack, or only a part of it.
fn incomplete(kind: Kind, form: &Form, body: &Body, ended_by: Corruption) -> Option<Corruption> {
    // A few forms of the general kinds are a single line.
    let general = kind == Kind::Bug || kind == Kind::Warning && form.tagged;
    let lone = general && form.proof == Proof::Sure;
    let no_stack = kind.has_stack() && !lone && !body.traced;
    let unclosed = body.unclosed && !body.ended;
    match ended_by {
        Corruption::NoStack if no_stack => Some(Corruption::NoStack),
        cut if no_stack || unclosed => Some(cut),
        _ => None,
    }
}

//! From the lines of one report to a [`Report`].

use super::body::{self, Part};
use super::forms::{Form, Proof};
use super::frame::{self, plain_name};
use super::{Corruption, Frame, Kind, Process, Report, Stack, blame, locks, signature, title};

/// The lines of one report, as the scanner gathered them.
#[derive(Debug)]
pub(super) struct Gathered {
    pub form: &'static Form,
    /// Line number and text; the first may be what stood between "cut here" and the headline.
    pub texts: Vec<(u64, Box<str>)>,
    /// Index of the headline in `texts`.
    pub headline: usize,
    pub first: u64,
    pub last: u64,
    pub time: Option<u64>,
    /// Set by the scanner when something was lost or cut.
    pub corrupted: Option<Corruption>,
    /// Why it ended, should it turn out to be incomplete.
    pub ended_by: Corruption,
    pub panic: Option<String>,
}

/// What the body of a report said.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub frames: Vec<Frame>,
    pub stacks: Vec<Stack>,
    pub cpu: Option<u32>,
    pub process: Option<Process>,
    pub ip: Option<Frame>,
    /// Frames before this index ran in an interrupt that had nothing to do with what it interrupted.
    pub interrupted: usize,
    /// x86's `<TASK>` without `</TASK>`.
    pub unclosed: bool,
    pub ended: bool,
    /// A stack was printed, even an empty one.
    pub traced: bool,
}

/// Where the next frame goes.
#[derive(Clone, Copy, PartialEq)]
enum Into {
    Task,
    Named,
    Nowhere,
}

fn read_body(kind: Kind, texts: &[(u64, Box<str>)]) -> Body {
    let mut body = Body::default();
    let mut into = Into::Task;
    let mut other: Option<String> = None;
    let mut open = false;
    for (_, text) in texts {
        match body::classify(text) {
            Part::Frame(frame) => {
                body.traced |= into == Into::Task;
                match into {
                    Into::Task => body.frames.push(frame),
                    Into::Named => {
                        if let Some(stack) = body.stacks.last_mut() {
                            stack.frames.push(frame);
                        }
                    }
                    Into::Nowhere => {}
                }
            }
            Part::Trace => {
                body.traced = true;
                let others = other.take().filter(|title| !body.frames.is_empty() || title.contains("RCU"));
                into = if body.frames.is_empty() && others.is_none() {
                    Into::Task
                } else {
                    let title = others.unwrap_or_else(|| "Call Trace".to_owned());
                    body.stacks.push(Stack { title, frames: Vec::new() });
                    Into::Named
                };
            }
            Part::Heading(title) => {
                let own =
                    matches!(kind, Kind::Kcsan | Kind::Kfence | Kind::MemoryLeak) && body.frames.is_empty();
                into = if own {
                    Into::Task
                } else {
                    body.stacks.push(Stack { title, frames: Vec::new() });
                    Into::Named
                };
            }
            Part::Other(title) => {
                other = Some(title);
                into = Into::Nowhere;
            }
            Part::Enter(_) => open |= into == Into::Task,
            Part::Leave(name) => {
                if into == Into::Task {
                    open = false;
                    if name == "IRQ" || name == "NMI" {
                        body.interrupted = body.frames.len();
                    }
                    if name == "TASK" {
                        into = Into::Nowhere;
                    }
                }
            }
            Part::Cpu(cpu, process) => {
                body.cpu = body.cpu.or(cpu);
                body.process = body.process.take().or(process);
            }
            Part::Ip(frame) => {
                if into == Into::Task && !body.frames.is_empty() && open {
                    body.frames.push(frame);
                } else if body.ip.is_none() && body.frames.is_empty() {
                    body.ip = Some(frame);
                }
            }
            Part::End => body.ended = true,
            Part::Blank => {
                let filled = match into {
                    Into::Task => !body.frames.is_empty() && !open,
                    Into::Named => body.stacks.last().is_some_and(|stack| !stack.frames.is_empty()),
                    Into::Nowhere => false,
                };
                if filled {
                    into = Into::Nowhere;
                }
            }
            Part::Known | Part::Text => {}
        }
    }
    body.unclosed = open;
    body.stacks.retain(|stack| !stack.frames.is_empty());
    if let Some(ip) = body.ip.clone() {
        let name = plain_name(&ip.function);
        if !body.frames.iter().take(12).any(|frame| frame.reliable && plain_name(&frame.function) == name) {
            body.frames.insert(body.interrupted.min(body.frames.len()), ip);
        }
    }
    body
}

/// Makes the report.
pub(super) fn assemble(gathered: Gathered) -> Report {
    let headline = gathered.texts[gathered.headline].1.to_string();
    let mut body = read_body(gathered.form.kind, &gathered.texts[gathered.headline..]);
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
    // The headline names the function for KASAN and kin; the stack is only better when that is a helper.
    let blamed = match named {
        Some(name) if !blame::is_helper(kind, &name) => Some(name),
        _ => blamed,
    };
    let caller = blamed.as_deref().and_then(|name| caller_of(kind, from, name));
    let locks = locks::read(kind, gathered.texts.iter().map(|(_, text)| &**text), &body.stacks);
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
    }
}

fn caller_of(kind: Kind, frames: &[Frame], name: &str) -> Option<String> {
    let at = frames.iter().position(|frame| frame.reliable && plain_name(&frame.function) == name)?;
    frames[at + 1..]
        .iter()
        .find(|frame| frame.reliable && !blame::is_helper(kind, &frame.function))
        .map(|frame| plain_name(&frame.function).to_owned())
}

/// A report without its stack, or with half of one, is not whole.
fn incomplete(kind: Kind, form: &Form, body: &Body, ended_by: Corruption) -> Option<Corruption> {
    // A few forms of the general kind are a line and no more.
    let lone = kind == Kind::Bug && form.proof == Proof::Sure;
    let no_stack = kind.has_stack() && !lone && !body.traced;
    let unclosed = body.unclosed && !body.ended;
    match ended_by {
        Corruption::NoStack if no_stack => Some(Corruption::NoStack),
        cut if no_stack || unclosed => Some(cut),
        _ => None,
    }
}

/// A frame that a headline names, as `in func+0x1/0x2` or `in func`.
pub(super) fn named_in(text: &str) -> Option<Frame> {
    if let Some(frame) = frame::find(text) {
        return Some(frame);
    }
    let name = text.rsplit(" in ").next()?.trim();
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    plain.then(|| Frame {
        function: name.to_owned(),
        offset: None,
        size: None,
        module: None,
        reliable: true,
        source: None,
        inlined: false,
    })
}

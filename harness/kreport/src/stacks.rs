//! Reads the call stacks in the lines of a report, and assigns them to their tasks.

use super::body::{self, Part};
use super::frame::plain_name;
use super::{Frame, Kind, Process, Stack};

/// The content of the body of a report.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub frames: Vec<Frame>,
    pub stacks: Vec<Stack>,
    pub cpu: Option<u32>,
    pub process: Option<Process>,
    pub ip: Option<Frame>,
    /// Frames before this index belong to an interrupt that is unrelated to the code that it
    /// interrupted.
    pub interrupted: usize,
    /// x86's `<TASK>` was printed without `</TASK>`.
    pub unclosed: bool,
    pub ended: bool,
    /// A stack was printed, even an empty one.
    pub traced: bool,
}

/// The destination of the next frame.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Into {
    Task,
    Named,
    Nowhere,
}

/// Reads a body line by line.
#[derive(Debug)]
struct Reader {
    kind: Kind,
    body: Body,
    into: Into,
    /// The next trace belongs to this task, not to the reporting one.
    other: Option<String>,
    /// Inside `<TASK>`.
    open: bool,
}

/// Reads the lines from the headline on.
pub(super) fn read(kind: Kind, texts: &[(u64, Box<str>)]) -> Body {
    let mut reader = Reader { kind, body: Body::default(), into: Into::Task, other: None, open: false };
    for (_, text) in texts {
        let (before, part) = body::parts(text);
        for part in before.into_iter().chain([part]) {
            reader.part(part);
        }
    }
    reader.finish()
}

impl Reader {
    fn part(&mut self, part: Part) {
        let body = &mut self.body;
        match part {
            Part::Frame(frame) => self.frame(frame),
            Part::Trace => {
                body.traced = true;
                let others =
                    self.other.take().filter(|title| !body.frames.is_empty() || title.contains("RCU"));
                if body.frames.is_empty() && others.is_none() {
                    self.into = Into::Task;
                } else {
                    self.named(others.unwrap_or_else(|| "Call Trace".to_owned()));
                }
            }
            Part::Own if body.frames.is_empty() => self.into = Into::Task,
            Part::Heading(title) => {
                // These kinds print no "Call Trace:": the first named stack is that of the task.
                let own = matches!(self.kind, Kind::Kcsan | Kind::Kfence | Kind::MemoryLeak)
                    && body.frames.is_empty();
                if own {
                    self.into = Into::Task;
                } else {
                    self.named(title);
                }
            }
            Part::Other(title) => {
                self.other = Some(title);
                self.into = Into::Nowhere;
            }
            Part::Enter(name) => self.open |= self.into == Into::Task && name == "TASK",
            Part::Leave(name) if self.into == Into::Task => match name {
                "IRQ" | "NMI" => body.interrupted = body.frames.len(),
                "TASK" => {
                    self.open = false;
                    self.into = Into::Nowhere;
                }
                _ => {}
            },
            Part::Cpu(cpu, process) => {
                body.cpu = body.cpu.or(cpu);
                body.process = body.process.take().or(process);
            }
            Part::Ip(frame) => {
                if self.into == Into::Task && !body.frames.is_empty() && (self.open || body.interrupted > 0) {
                    body.frames.push(frame);
                } else if body.ip.is_none() && body.frames.is_empty() {
                    body.ip = Some(frame);
                }
            }
            Part::End => body.ended = true,
            Part::Blank => self.blank(),
            Part::Leave(_) | Part::Known | Part::Own | Part::Text => {}
        }
    }

    fn frame(&mut self, frame: Frame) {
        match self.into {
            Into::Task => {
                self.body.traced = true;
                self.body.frames.push(frame);
            }
            Into::Named => {
                if let Some(stack) = self.body.stacks.last_mut() {
                    stack.frames.push(frame);
                }
            }
            Into::Nowhere => {}
        }
    }

    fn named(&mut self, title: String) {
        self.body.stacks.push(Stack { title, frames: Vec::new() });
        self.into = Into::Named;
    }

    /// An empty line ends a stack that has begun.
    fn blank(&mut self) {
        let filled = match self.into {
            Into::Task => !self.body.frames.is_empty() && !self.open,
            Into::Named => self.body.stacks.last().is_some_and(|stack| !stack.frames.is_empty()),
            Into::Nowhere => false,
        };
        if filled {
            self.into = Into::Nowhere;
        }
    }

    fn finish(self) -> Body {
        let mut body = self.body;
        body.unclosed = self.open;
        body.stacks.retain(|stack| !stack.frames.is_empty());
        // The kernel prints the registers before the trace. The trace begins where the registers
        // were, in an interrupt or not; or it begins with the interrupt that printed it, and the
        // interrupted code follows.
        if let Some(ip) = body.ip.clone() {
            if !body.frames[..body.interrupted].iter().any(|frame| prints(plain_name(&frame.function))) {
                body.interrupted = 0;
            }
            let name = plain_name(&ip.function);
            let known = |frame: &Frame| frame.reliable && plain_name(&frame.function) == name;
            if !body.frames.iter().take(12).any(known) {
                body.frames.insert(body.interrupted.min(body.frames.len()), ip);
            }
        }
        body
    }
}

/// Whether a function belongs to an interrupt that detects stalls and prints the interrupted code
/// (kernel/watchdog.c, kernel/rcu, `lib/nmi_backtrace.c`).
fn prints(function: &str) -> bool {
    const PRINTERS: [&str; 9] = [
        "dump_stack",
        "show_stack",
        "show_regs",
        "dump_backtrace",
        "watchdog_timer_fn",
        "watchdog_overflow_callback",
        "rcu_sched_clock_irq",
        "rcu_check_callbacks",
        "nmi_cpu_backtrace",
    ];
    PRINTERS.iter().any(|printer| function.starts_with(printer))
}

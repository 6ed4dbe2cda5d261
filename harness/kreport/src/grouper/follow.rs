//! The lines after the first line of a report, and the end of a report.

use super::super::assemble::assemble;
use super::super::body::{self, Part};
use super::super::line::Line;
use super::super::partial::{mend, push};
use super::super::prefix::Caller;
use super::super::{Corruption, Kind, join};
use super::Gatherer;

/// Lines without content of the report after which it is over. The limit is higher before its
/// stack.
const IDLE_LINES: u32 = 12;
const IDLE_LINES_EARLY: u32 = 40;
/// The OOM killer lists the memory and the tasks, one line each, before it names the task that it
/// kills.
const IDLE_LINES_OOM: u32 = 400;
/// Lines after a report in which a panic counts as its consequence.
const PANIC_REACH: u32 = 120;
/// A first line that proves nothing needs registers or a stack within this number of lines.
const PROOF_LINES: u32 = 8;
/// Lines that only reports have, of which this number proves a report of a kind without a stack.
const KNOWN_LINES: u32 = 2;
/// Lines in a row without the marks of a quoted report after which it is over. A mail client may
/// break one line into several.
const STRAYS: u8 = 3;

impl Gatherer {
    /// Handles a line that begins no report: it is part of an open report, or of none.
    pub(super) fn follow(&mut self, line: &Line<'_>, text: &str, number: u64) {
        // The second half of a line that a mail client broke has no caller.
        let half = self.timed && line.time.is_none() && !self.own;
        let ends_above =
            |texts: &[(u64, Box<str>)]| half && texts.last().is_some_and(|(last, _)| last + 1 == number);
        let cut = self.cuts.iter().position(|cut| cut.caller == line.caller);
        let cut = cut.or_else(|| self.cuts.iter().position(|cut| ends_above(&cut.texts)));
        if let Some(index) = cut {
            let (width, timed) = (self.width, self.timed);
            let may_be_half = half || !timed && !self.own;
            let texts = &mut self.cuts[index].texts;
            if may_be_half
                && let Some((last, head)) = texts.last_mut()
                && join::continues(head, *last, text, number, width, timed)
            {
                *head = join::joined(head, text).into();
                *last = number;
            } else if texts.len() < 8 {
                texts.push((number, text.into()));
            } else {
                self.cuts.remove(index);
            }
        }
        let mine = self.open.iter().position(|open| open.callers.contains(&line.caller));
        let above = || self.open.iter().position(|open| ends_above(&open.gathered.texts));
        let Some(index) = mine.or_else(above) else {
            self.adopt(line, text, number);
            return;
        };
        let may_be_half = half || !self.timed && !self.own;
        if may_be_half && !self.open[index].ended {
            let timed = self.open[index].time.is_some();
            if mend(&mut self.open[index], text, number, self.width, timed) {
                return;
            }
            if self.strays(index, line) {
                return;
            }
        }
        // In a log with times, a line without time comes from a program.
        if self.open[index].time.is_some() && line.time.is_none() && !self.open[index].suspect && self.timed {
            self.grow_old(index);
            return;
        }
        let open = &mut self.open[index];
        open.time = line.time.or(open.time);
        if open.ended {
            self.grow_old(index);
            return;
        }
        let (_, part) = body::parts(text);
        push(open, text, number);
        match part {
            Part::Text | Part::Blank => {
                self.grow_old(index);
                return;
            }
            Part::Frame(_) => {
                open.stack = true;
                open.proved = true;
            }
            Part::Trace | Part::Cpu(..) | Part::Ip(_) | Part::Enter(_) => open.proved = true,
            Part::End => open.ended = true,
            Part::Known => open.known += 1,
            _ => {}
        }
        // Reports of some kinds have no stack, also in a text.
        let bare = open.spot.text && !open.gathered.form.kind.has_stack();
        open.proved |= bare && open.known >= KNOWN_LINES;
        if text.starts_with("Modules linked in") || text.starts_with("Hardware name") {
            open.proved = true;
        }
        open.gathered.last = number;
        open.idle = 0;
    }

    /// Counts the lines that lack the marks of a quoted report. Returns true for such a line.
    fn strays(&mut self, index: usize, line: &Line<'_>) -> bool {
        let open = &mut self.open[index];
        if line.quote.own || open.prefix.is_empty() {
            open.strays = 0;
            return false;
        }
        open.strays += 1;
        if open.strays > STRAYS {
            self.close(index, Corruption::NoStack);
        }
        true
    }

    /// Adds the backtrace of another CPU to the report of the stall that requested it.
    fn adopt(&mut self, line: &Line<'_>, text: &str, number: u64) {
        let answers = text.starts_with("NMI backtrace for cpu ")
            // The line above it may have been printed with the caller id of the CPU that requested
            // it.
            || text.starts_with("CPU: ") && matches!(line.caller, Some(Caller::Cpu(_)));
        if !answers {
            return;
        }
        let asks =
            |kind| matches!(kind, Kind::RcuStall | Kind::SoftLockup | Kind::HardLockup | Kind::HungTask);
        if let Some(open) =
            self.open.iter_mut().rev().find(|open| asks(open.gathered.form.kind) && !open.ended)
        {
            if open.callers.len() < 64 {
                open.callers.push(line.caller);
            }
            push(open, text, number);
            open.gathered.last = number;
            open.idle = 0;
        }
    }

    fn grow_old(&mut self, index: usize) {
        let open = &mut self.open[index];
        open.idle += 1;
        let limit = match (open.ended, open.stack) {
            _ if !open.proved => PROOF_LINES,
            _ if matches!(open.gathered.form.kind, Kind::OutOfMemory | Kind::AllocationFailure) => {
                IDLE_LINES_OOM
            }
            (true, _) => PANIC_REACH,
            (false, true) => IDLE_LINES,
            (false, false) => IDLE_LINES_EARLY,
        };
        if open.idle > limit {
            self.close(index, Corruption::NoStack);
        }
    }

    pub(super) fn close_all(&mut self, why: Corruption) {
        while !self.open.is_empty() {
            self.close(0, why);
        }
    }

    pub(super) fn close(&mut self, index: usize, why: Corruption) {
        let mut open = self.open.remove(index);
        if !open.proved {
            return;
        }
        let last = open.gathered.last;
        open.gathered.texts.retain(|(number, _)| *number <= last);
        open.gathered.ended_by = if open.ended { Corruption::NoStack } else { why };
        open.gathered.excerpt.wrapped = open.broken > 0;
        let headline = open.gathered.texts[open.gathered.headline].1.clone();
        let report = assemble(open.gathered);
        match open.spot.left_out {
            Some(reason) => self.outbox.leave_out(reason, *report.lines.start()),
            None if self.own => self.outbox.done.push(report),
            None if open.spot.undecided => self.outbox.hold(report, &headline, open.level, last),
            None => self.outbox.send(report, &headline),
        }
    }

    /// Ends the log.
    pub(in super::super) fn finish(&mut self) {
        self.close_all(Corruption::CutByEnd);
        self.outbox.end();
        self.cuts.clear();
    }
}

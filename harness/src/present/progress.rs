//! Progress of trials: on a terminal a bar with a line for each new report, otherwise a few plain
//! lines.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hotplug_side::Side;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::duration;
use crate::text::{cut, harmless};
use crate::trial::{Again, Happened, TrialOutcome, TrialRecord};

/// The width of a line, in characters, if standard error is no terminal. A log has room for the
/// function that a report names.
const WIDTH: usize = 120;

/// The characters of the bar itself.
const BAR: usize = 12;

/// The label of trials whose after kernel has planted bugs. Their reports are no reports of the
/// patch.
const PLANTED: &str = "control";

/// The interval of progress lines without a terminal.
const EVERY: Duration = Duration::from_secs(60);

/// The bar of the trials, or its plain lines.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    /// What the trials are for, in ten columns.
    label: String,
    plain: bool,
    /// The columns of the terminal when the trials began.
    width: usize,
    planned: Option<u64>,
    done: u64,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    ended: u64,
    reported: u64,
    other: u64,
    /// Trials in which lockdep was armed to the end; `None` for kernels without lockdep.
    armed: Option<u64>,
    began: Option<Instant>,
    /// The time of the last plain line.
    said: Option<Instant>,
    /// The signatures that were already printed.
    seen: BTreeSet<String>,
}

impl Tally {
    fn seconds(&self) -> f64 {
        self.began.map_or(0.0, |began| began.elapsed().as_secs_f64())
    }

    /// Trials a minute; `None` before the first has ended.
    fn rate(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "trials are few")]
        let ended = self.ended as f64;
        (self.ended > 0 && self.seconds() > 0.0).then(|| ended / self.seconds() * 60.0)
    }

    /// Formats the progress as `3 of 12 reported, 2 m 10 s left, armed in 12 of 12, 38 a minute`: as
    /// many of these, the first ones, as `room` characters hold.
    fn words(&self, left: Option<u64>, room: usize) -> String {
        #[expect(clippy::cast_precision_loss, reason = "trials are few")]
        let seconds = |rate: f64| left.map(|left| left as f64 / rate * 60.0).filter(|left| *left >= 1.0);
        let left = self.rate().and_then(seconds);
        let Self { reported, other, ended, .. } = self;
        let parts = [
            Some(format!("{reported} of {ended} reported")),
            (*other > 0).then(|| format!("{other} otherwise not clean")),
            left.map(|left| format!("{} left", duration(left))),
            self.armed.map(|armed| format!("armed in {armed} of {ended}")),
            self.rate().map(|rate| format!("{rate:.0} a minute")),
        ];
        let mut words = String::new();
        for part in parts.into_iter().flatten() {
            let comma = if words.is_empty() { "" } else { ", " };
            if words.chars().count() + comma.len() + part.chars().count() <= room {
                words = words + comma + &part;
            }
        }
        words
    }
}

impl Progress {
    /// For `trials` trials in total, or an unknown number, of which `done` ended in an earlier
    /// process.
    pub fn of_trials(label: &str, trials: Option<u64>, done: u64) -> Self {
        let label = format!("{label:<10}");
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(trials, target);
        let style = ProgressStyle::with_template(&match trials {
            Some(_) => format!("{label}[{{bar:{BAR}}}] {{pos}}/{{len}}  {{wide_msg}}"),
            None => format!("{label}{{pos}} in {{elapsed}}  {{wide_msg}}"),
        });
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_position(done);
        let size = terminal_size::terminal_size_of(std::io::stderr());
        let width = size.map_or(WIDTH, |(width, _)| usize::from(width.0));
        Self { bar, label, plain, width, planned: trials, done, tally: Mutex::default() }
    }

    /// Handles an event.
    pub fn tell(&self, happened: &Happened) {
        let Ok(mut tally) = self.tally.lock() else { return };
        match happened {
            Happened::Began(_) => {
                tally.began.get_or_insert_with(Instant::now);
                if !self.plain {
                    self.bar.enable_steady_tick(Duration::from_secs(1));
                }
            }
            Happened::Ended(record, Again::Yes) => {
                self.say(&format!("{} is tried again: {}", record.folder, harmless(&record.why, self.width)));
            }
            Happened::Ended(record, Again::No) => self.ended(record, &mut tally),
        }
    }

    fn ended(&self, record: &TrialRecord, tally: &mut Tally) {
        tally.ended += 1;
        if record.armed.start.is_some() {
            *tally.armed.get_or_insert_default() += u64::from(record.armed_to_the_end());
        }
        match record.outcome {
            TrialOutcome::Clean => {}
            TrialOutcome::Reported => tally.reported += 1,
            _ => tally.other += 1,
        }
        if record.outcome < TrialOutcome::Reported {
            let why = harmless(&record.why, self.width);
            self.say(&format!("{}: {}: {why}", record.folder, record.outcome));
        }
        // Each report is printed at its first occurrence only.
        for seen in &record.reports {
            if tally.seen.insert(seen.first.signature.hash.clone()) {
                let planted = if self.label.trim_end() == PLANTED && record.side == Side::After {
                    ", with the planted bugs"
                } else {
                    ""
                };
                let title = harmless(&seen.first.title, self.width);
                self.say(&format!("{}{planted}: {title}", record.folder));
            }
        }
        let all = self.done + tally.ended;
        let left = self.planned.map(|planned| planned.saturating_sub(all));
        self.bar.set_position(all);
        let of = self.planned.map_or_else(|| format!("{all}"), |planned| format!("{all}/{planned}"));
        // The elapsed time, in place of the bar, is shorter.
        let room = self.width.saturating_sub(self.label.len() + BAR + of.len() + "[]   ".len());
        self.bar.set_message(tally.words(left, room));
        let is_due = tally.said.or(tally.began).is_none_or(|then| then.elapsed() >= EVERY);
        if self.plain && is_due && left != Some(0) {
            tally.said = Some(Instant::now());
            let room = self.width.saturating_sub(self.label.len() + of.len() + ": ".len());
            self.say(&format!("{of}: {}", tally.words(left, room)));
        }
    }

    /// Prints a line above the bar.
    pub fn say(&self, text: &str) {
        let text = cut(text, self.width.saturating_sub(self.label.chars().count()));
        if self.plain {
            eprintln!("{}{text}", self.label);
        } else {
            self.bar.println(format!("{}{text}", self.label));
        }
    }

    /// Removes the bar. Without a terminal, it prints a summary in one line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        let Ok(tally) = self.tally.lock() else { return };
        if self.plain {
            eprintln!(
                "{}{} in {}: {} of {} reported, {} otherwise not clean",
                self.label,
                tally.ended,
                duration(tally.seconds()),
                tally.reported,
                tally.ended,
                tally.other
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_in_words() {
        let began = Instant::now().checked_sub(Duration::from_secs(60));
        let tally = Tally { ended: 30, reported: 3, armed: Some(27), began, ..Tally::default() };
        let words = tally.words(Some(15), 80);
        assert_eq!(words, "3 of 30 reported, 30 s left, armed in 27 of 30, 30 a minute");
        assert_eq!(tally.words(Some(15), 48), "3 of 30 reported, 30 s left, armed in 27 of 30");
        let odd = Tally { other: 1, armed: None, ..tally };
        assert_eq!(odd.words(None, 80), "3 of 30 reported, 1 otherwise not clean, 30 a minute");
        assert_eq!(odd.words(None, 10), "");
        assert_eq!(Tally::default().words(Some(3), 80), "0 of 0 reported");
    }
}

//! Progress of trials: on a terminal a bar with a line for each new report, otherwise a few plain
//! lines.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hotplug_side::Side;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::duration;
use crate::text::harmless;
use crate::trial::{Again, Happened, TrialOutcome, TrialRecord};

/// Longest line above the bar, in characters.
const LINE: usize = 120;

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

    /// Formats the progress as `38 a minute, armed in 12, 3 reported, 0 otherwise not clean, 2 m 10
    /// s left`.
    fn words(&self, left: Option<u64>) -> String {
        let rate = self.rate().map_or_else(String::new, |rate| format!("{rate:.0} a minute, "));
        #[expect(clippy::cast_precision_loss, reason = "trials are few")]
        let seconds = |rate: f64| left.map(|left| left as f64 / rate * 60.0).filter(|left| *left >= 1.0);
        let left = self.rate().and_then(seconds);
        let left = left.map_or_else(String::new, |left| format!(", {} left", duration(left)));
        let armed = self.armed.map_or_else(String::new, |armed| format!("armed in {armed}, "));
        let Self { reported, other, .. } = self;
        format!("{rate}{armed}{reported} reported, {other} otherwise not clean{left}")
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
            Some(_) => format!("{label}[{{bar:30}}] {{pos}}/{{len}}  {{wide_msg}}"),
            None => format!("{label}{{pos}} in {{elapsed}}  {{wide_msg}}"),
        });
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_position(done);
        Self { bar, label, plain, planned: trials, done, tally: Mutex::default() }
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
                self.say(&format!("{} is tried again: {}", record.folder, harmless(&record.why, LINE)));
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
            self.say(&format!("{}: {}: {}", record.folder, record.outcome, harmless(&record.why, LINE)));
        }
        // Each report is printed at its first occurrence only.
        for seen in &record.reports {
            if tally.seen.insert(seen.first.signature.hash.clone()) {
                let planted = if self.label.trim_end() == PLANTED && record.side == Side::After {
                    ", with the planted bugs"
                } else {
                    ""
                };
                self.say(&format!("{}{planted}: {}", record.folder, harmless(&seen.first.title, LINE)));
            }
        }
        let all = self.done + tally.ended;
        let left = self.planned.map(|planned| planned.saturating_sub(all));
        let words = tally.words(left);
        self.bar.set_position(all);
        self.bar.set_message(words.clone());
        let is_due = tally.said.or(tally.began).is_none_or(|then| then.elapsed() >= EVERY);
        if self.plain && is_due && left != Some(0) {
            tally.said = Some(Instant::now());
            let of = self.planned.map_or_else(String::new, |planned| format!("/{planned}"));
            self.say(&format!("{all}{of}: {words}"));
        }
    }

    /// Prints a line above the bar.
    pub fn say(&self, text: &str) {
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
                "{}{} in {}: {} reported, {} otherwise not clean",
                self.label,
                tally.ended,
                duration(tally.seconds()),
                tally.reported,
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
        let words = tally.words(Some(15));
        assert_eq!(words, "30 a minute, armed in 27, 3 reported, 0 otherwise not clean, 30 s left");
        let words = tally.words(None);
        assert_eq!(words, "30 a minute, armed in 27, 3 reported, 0 otherwise not clean");
        let nothing = Tally::default().words(Some(3));
        assert_eq!(nothing, "0 reported, 0 otherwise not clean");
    }
}

//! Progress while it works: bars where somebody looks, a few plain lines where nobody does.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{duration, harmless};
use crate::trial::{Again, Happened, TrialOutcome};

/// The bar of the trials, or its plain lines.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    done: u64,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    ended: u64,
    reported: u64,
    other: u64,
    began: Option<std::time::Instant>,
}

impl Progress {
    /// For `trials` trials in all, or as many as there will be, of which `done` ended in an earlier process.
    pub fn of_trials(trials: Option<u64>, done: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(trials, target);
        let style = ProgressStyle::with_template(match trials {
            Some(_) => "trials    [{bar:30}] {pos}/{len}  {msg}  {elapsed}",
            None => "trials    {pos}  {msg}  {elapsed}",
        });
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_position(done);
        Self { bar, plain, done, tally: Mutex::default() }
    }

    /// Takes note of what happened.
    pub fn tell(&self, happened: &Happened) {
        let Ok(mut tally) = self.tally.lock() else { return };
        match happened {
            Happened::Began(_) => {
                tally.began.get_or_insert_with(std::time::Instant::now);
                if !self.plain {
                    self.bar.enable_steady_tick(std::time::Duration::from_secs(1));
                }
            }
            Happened::Ended(record, again) => {
                if *again == Again::Yes {
                    self.say(&format!("{} is tried again: {}", record.folder, harmless(&record.why, 120)));
                    return;
                }
                tally.ended += 1;
                match record.outcome {
                    TrialOutcome::Clean => {}
                    TrialOutcome::Reported => tally.reported += 1,
                    _ => tally.other += 1,
                }
                if record.outcome < TrialOutcome::Reported {
                    self.say(&format!(
                        "{}: {}: {}",
                        record.folder,
                        record.outcome,
                        harmless(&record.why, 120)
                    ));
                }
                self.bar.set_position(self.done + tally.ended);
                self.bar
                    .set_message(format!("{} reported, {} otherwise not clean", tally.reported, tally.other));
            }
        }
    }

    /// A line above the bar.
    pub fn say(&self, text: &str) {
        if self.plain {
            eprintln!("trials    {text}");
        } else {
            self.bar.println(format!("trials    {text}"));
        }
    }

    /// Removes the bar; without a terminal, says in one line how it went.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        let Ok(tally) = self.tally.lock() else { return };
        if self.plain {
            let seconds = tally.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
            eprintln!(
                "trials    {} in {}: {} reported, {} otherwise not clean",
                tally.ended,
                duration(seconds),
                tally.reported,
                tally.other
            );
        }
    }
}

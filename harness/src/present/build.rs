//! The progress of a kernel's build on standard error: a bar on a terminal, otherwise one line for
//! each stage.

use std::io::{IsTerminal, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use hotplug_side::Side;
use indicatif::{ProgressBar, ProgressStyle};

use crate::kernel::{BuildEvent, BuildListener};

/// Shows the progress of a build on standard error: a bar on a terminal, otherwise one line for
/// each stage.
#[derive(Debug)]
pub struct BuildReporter {
    bar: Option<ProgressBar>,
    /// The stage that was printed last, so that each is printed once.
    stage: Mutex<String>,
}

impl BuildReporter {
    /// Chooses the form by whether standard error is a terminal.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
        Self { bar, stage: Mutex::default() }
    }

    fn stage(&self, text: String) {
        let Ok(mut stage) = self.stage.lock() else { return };
        if *stage == text {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_style(spinner());
            bar.set_message(text.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            // Standard error may be closed. The build continues without it.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        *stage = text;
    }
}

impl Default for BuildReporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for BuildReporter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl BuildListener for BuildReporter {
    fn event(&self, which: Side, event: BuildEvent) {
        match event {
            BuildEvent::Waiting { tree } => {
                self.stage(format!("{which}: waiting for another run that builds in {}", tree.display()));
            }
            BuildEvent::Unpacking { from } => self.stage(format!("{which}: unpacking {}", from.display())),
            BuildEvent::Syncing { from } => self.stage(format!("{which}: reading {from}")),
            BuildEvent::Patching { patches: 1 } => self.stage(format!("{which}: applying 1 patch")),
            BuildEvent::Patching { patches } => self.stage(format!("{which}: applying {patches} patches")),
            BuildEvent::CopyingObjects => self.stage(format!("{which}: copying objects")),
            BuildEvent::Configuring => self.stage(format!("{which}: configuring")),
            BuildEvent::Compiling { done, expected } => {
                self.stage(format!("{which}: compiling"));
                let Some(bar) = &self.bar else { return };
                if let Some(expected) = expected {
                    let style =
                        ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} files, {eta} left");
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.set_length(u64::from(expected.max(done)));
                    bar.set_position(u64::from(done));
                } else {
                    bar.set_message(format!("{which}: compiling, {done} files"));
                }
            }
            BuildEvent::Linking => self.stage(format!("{which}: linking")),
            BuildEvent::Finished { seconds } => self.stage(format!("{which}: built in {seconds:.0} s")),
            BuildEvent::Cached => self.stage(format!("{which}: cached")),
        }
    }
}

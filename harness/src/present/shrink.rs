//! The file and the screen of a shrunk trial.

use std::fmt::Write;
use std::path::Path;

use hotplug_side::Side;

use super::{duration, host_line};
use crate::record::{Run, ShrinkResult, rate};
use crate::scenario::Scenario;
use crate::text::harmless;

/// A scenario file that says what it repeats. `again` are the words for how often.
pub fn file(scenario: &Scenario, result: &ShrinkResult, side: Side, again: &str) -> String {
    let run = &result.run;
    let kernel = run.kernels.of(side);
    let mut text = String::new();
    let mut line = |words: String| {
        let _ = writeln!(text, "# {}", harmless(&words, 200));
    };
    line("The least that was found to give this again, by `hotplug shrink`:".into());
    line(format!("  {}", result.title));
    line(format!("signature {}", result.signature));
    let from = run.replays.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    line(format!("from      {from}/trials/{}, scenario {}", result.trial, run.scenario));
    line(format!("comes in  {again}"));
    line(format!("came in   {} of the recorded schedule", rate(result.original)));
    line(format!("kernel    {}, {}, image {}", kernel.release, kernel.source, short(&kernel.image_hash)));
    line(format!("on        QEMU {}, {}", run.host.qemu, run.host.accelerator));
    text + &scenario.to_toml()
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// What it is aimed at, in a sentence.
pub fn about(result: &ShrinkResult) -> String {
    format!("shrunk from {}: {}", result.run.scenario, harmless(&result.title, 160))
}

/// The screen. `folder` is the search's, as the reader can open it.
pub fn screen(result: &ShrinkResult, folder: &Path, out: &Path) -> String {
    let run: &Run = &result.run;
    let of = run.replays.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    let mut text = format!("hotplug shrink   {of}/trials/{}\n", result.trial);
    let mut line = |words: String| {
        let _ = writeln!(text, "{}", words.trim_end());
    };
    line(host_line(&run.host));
    line(format!("report    {}", harmless(&result.title, 120)));
    line(format!("recorded  {}", result.sizes[0]));
    line(format!("          came again in {}", rate(result.original)));
    let tried = result.steps.len();
    let taken = result.steps.iter().filter(|step| step.taken).count();
    if let Some(shrunk) = result.shrunk {
        line(format!("left      {}", result.sizes[1]));
        line(format!("          comes again in {}", rate(shrunk)));
        if result.sizes[0] == result.sizes[1] {
            line("          nothing of it could go: it is minimal already".into());
        }
    } else if result.original.seen == 0 {
        line("          so there is nothing to shrink; more of --times may show it".into());
    } else {
        line(
            "          but not where its pauses are drawn anew, as a scenario's are: --times may help".into(),
        );
    }
    line(format!(
        "tried     {tried} candidates, {taken} taken, in {} trials and {}",
        result.trials,
        duration(result.trials_seconds)
    ));
    if result.shrunk.is_some() {
        line(format!("scenario  {}", out.display()));
    }
    line(format!("result    {}/shrink.json", folder.display()));
    text
}

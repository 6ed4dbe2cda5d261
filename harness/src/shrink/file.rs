//! The scenario file of a shrunk trial.

use std::fmt::Write;

use hotplug_side::Side;

use super::{ShrinkResult, rate};
use crate::scenario::Scenario;
use crate::text::harmless;

/// The text of a scenario file, with a head that names the report that it reproduces. `again` is
/// the rate in words.
pub(super) fn file(scenario: &Scenario, result: &ShrinkResult, side: Side, again: &str) -> String {
    let run = &result.run;
    let kernel = run.kernels.of(side);
    let mut text = String::new();
    let mut line = |words: String| {
        let _ = writeln!(text, "# {}", harmless(&words, 200));
    };
    line("The smallest scenario that `hotplug shrink` found to reproduce this report:".into());
    line(format!("  {}", result.title));
    line(format!("signature {}", result.signature));
    let from = run.replays.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    line(format!("from      {from}/trials/{}, scenario {}", result.trial, run.scenario));
    line(format!("rate      {again}"));
    line(format!("recorded  {}, the rate of the recorded schedule", rate(result.original)));
    line(format!("kernel    {}, {}, image {}", kernel.release, kernel.source, short(&kernel.image_hash)));
    line(format!("on        QEMU {}, {}", run.host.qemu, run.host.accelerator));
    text + &scenario.to_toml()
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// The scenario's `about`: what it tests, in one sentence.
pub(super) fn about(result: &ShrinkResult) -> String {
    format!("shrunk from {}: {}", result.run.scenario, harmless(&result.title, 160))
}

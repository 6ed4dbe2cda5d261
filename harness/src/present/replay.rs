//! The screen of a replay: for each finding, the number of replays that showed it again.

use std::fmt::Write;
use std::path::Path;

use super::{duration, host_line, vmcores};
use crate::compare::Recurrence;
use crate::record::{ReplayResult, StartMethod};
use crate::text::harmless;

/// Widest line, in characters.
const WIDTH: usize = 100;

/// The screen. `folder` is the path of the replay's folder for the reader.
pub fn screen(result: &ReplayResult, folder: &Path) -> String {
    let run = &result.run;
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{}", text.trim_end());
    };
    let of = run.replays.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    line(format!("hotplug replay   {of}"));
    line(host_line(&run.host));
    let start = match &run.start {
        Some(StartMethod::Restored) => "restored from a checkpoint".to_owned(),
        Some(StartMethod::Cold { why }) => format!("booted ({})", harmless(why, 60)),
        None => String::new(),
    };
    let times = run.trials.unwrap_or_default();
    line(format!(
        "trials    {}: {times} times each, {start}, in {}",
        run.scenario,
        duration(result.trials_seconds)
    ));
    let mut trial = "";
    for finding in &result.findings {
        if finding.trial != trial {
            trial = &finding.trial;
            line(format!("\n{trial}"));
        }
        let class = if finding.recorded { "" } else { "also   " };
        line(format!("  {class}{}", harmless(&finding.title, WIDTH - 9)));
        line(format!("       {}", words(finding)));
    }
    line(String::new());
    line(format!("result    {}/replay.json", folder.display()));
    if let Some(notes) = &result.vmcores {
        vmcores::lines(notes, folder).into_iter().for_each(&mut line);
    }
    if let Some(example) = result.examples.values().next() {
        line(format!("look at   {}/{example}/kmsg.log", folder.display()));
    }
    out
}

/// Formats a rate as `came again in 7 of 10 (35 % to 93 %)`.
fn words(finding: &Recurrence) -> String {
    let (low, high) = finding.interval;
    let (seen, trials) = (finding.again.seen, finding.again.trials);
    let range = format!("({:.0} % to {:.0} %)", low * 100.0, high * 100.0);
    let after = match finding.earlier {
        0 => String::new(),
        1 => ", not alone but after the earlier trial of its guest".into(),
        n => format!(", not alone but after the {n} earlier trials of its guest"),
    };
    match (finding.recorded, trials) {
        (_, 0) => "no trial could have shown it".into(),
        (true, _) if seen == 0 => format!("did not come again in {trials}{after} {range}"),
        (true, _) => format!("came again in {seen} of {trials}{after} {range}"),
        (false, _) => format!("new, in {seen} of {trials}{after} {range}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Count;
    use hotplug_statistics::interval;

    #[test]
    fn a_rate_is_told_with_its_interval() {
        let finding = |recorded, seen, trials| Recurrence {
            trial: "after-000".into(),
            signature: String::new(),
            key: String::new(),
            kind: "warning".into(),
            title: "WARNING in x".into(),
            recorded,
            earlier: 0,
            again: Count { seen, trials },
            interval: interval(seen, trials),
            times: 1,
        };
        assert_eq!(words(&finding(true, 7, 10)), "came again in 7 of 10 (35 % to 93 %)");
        assert_eq!(words(&finding(true, 0, 10)), "did not come again in 10 (0 % to 31 %)");
        assert_eq!(words(&finding(false, 1, 10)), "new, in 1 of 10 (0 % to 45 %)");
        assert_eq!(words(&finding(true, 0, 0)), "no trial could have shown it");
        let with_history = Recurrence { earlier: 4, ..finding(true, 10, 10) };
        assert_eq!(
            words(&with_history),
            "came again in 10 of 10, not alone but after the 4 earlier trials of its guest (69 % to 100 %)"
        );
    }
}

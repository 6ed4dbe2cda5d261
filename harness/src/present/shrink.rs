//! The screen of a shrunk trial.

use std::fmt::Write;
use std::path::Path;

use super::{duration, host_line};
use crate::record::Run;
use crate::shrink::{ShrinkResult, rate};
use crate::text::harmless;

/// The screen. `folder` is the path of the search's folder for the reader.
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
            line("          nothing could be removed: it is minimal already".into());
        }
    } else if result.original.seen == 0 {
        line("          so there is nothing to shrink; a larger --times may show the report again".into());
    } else {
        line("          but not with pauses drawn anew, as in a scenario; a larger --times may help".into());
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

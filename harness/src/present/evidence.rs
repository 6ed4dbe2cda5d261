//! What a kernel printed for a finding, from the log of its example trial.

use std::path::Path;

use crate::compare::Finding;
use crate::files::read_json_if_there;
use crate::guest::kernel_log;
use crate::trial::{Seen, TrialRecord};

/// The maximum number of lines of the kernel log for each report.
const LINES: usize = 160;

/// The longest line of the log, in characters.
const LONGEST: usize = 400;

/// The lines of the log of the finding's example trial, as the console prints them. `folder` is the
/// run's. `None` if they are not there.
pub(super) fn printed(folder: &Path, finding: &Finding) -> Option<String> {
    let trial = folder.join(&finding.example);
    let record = read_json_if_there::<TrialRecord>(&trial.join("trial.json")).ok().flatten()?;
    let seen = seen_in(&record, finding)?;
    let log = kernel_log(&trial).ok()?;
    Some(lines(seen, &finding.example, &String::from_utf8_lossy(&log)))
}

/// The finding's report in a trial.
pub(super) fn seen_in<'a>(trial: &'a TrialRecord, finding: &Finding) -> Option<&'a Seen> {
    trial.reports.iter().find(|seen| seen.first.signature.hash == finding.signature)
}

/// The lines of a report in the log `text` of its trial, whose folder is `trial`.
pub(super) fn lines(seen: &Seen, trial: &str, text: &str) -> String {
    let (first, last) = (*seen.first.lines.start(), *seen.first.lines.end());
    let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let count = place(last.saturating_sub(first)).saturating_add(1);
    let lines = text.lines().skip(place(first.saturating_sub(1))).take(count.min(LINES));
    let mut log: Vec<String> = lines.map(|line| crate::text::harmless(&console(line), LONGEST)).collect();
    if count > LINES {
        log.push(format!("... {} more lines in {trial}/kmsg.log", count - LINES));
    }
    log.join("\n")
}

/// A record of `/dev/kmsg` as the console prints it (kernel/printk/printk.c, `info_print_prefix()`),
/// which is the form of mails and of `decode_stacktrace.sh`. Other lines stay as they are.
fn console(record: &str) -> String {
    let printed = || {
        let (head, text) = record.split_once(';')?;
        let mut fields = head.split(',');
        fields.next()?.parse::<u32>().ok()?;
        let us = fields.nth(1)?.parse::<u64>().ok()?;
        let caller = fields.find_map(|field| field.strip_prefix("caller="));
        let caller = caller.map_or_else(String::new, |caller| format!("[{caller:>6}]"));
        Some(format!("[{:>5}.{:06}]{caller} {text}", us / 1_000_000, us % 1_000_000))
    };
    printed().unwrap_or_else(|| record.to_owned())
}

#[cfg(test)]
mod tests {
    use super::console;

    #[test]
    fn records_are_shown_as_the_console_prints_them() {
        assert_eq!(console("4,339,1886183,-,caller=T33;int3: 0000"), "[    1.886183][   T33] int3: 0000");
        assert_eq!(console("6,1,12,-;a;b"), "[    0.000012] a;b");
        for other in ["[    1.886183][   T33] a; b", " SUBSYSTEM=cpu", "a,b,c;d", ""] {
            assert_eq!(console(other), other);
        }
    }
}

//! Parses `/proc/lock_stat`: the wait and hold times of each class of locks
//! (Documentation/locking/lockstat.rst).

use serde::{Deserialize, Serialize};

use super::trace::MalformedTrace;

/// The counts of one class since counting began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockTimes {
    /// The kernel's name of the class, with `-W` or `-R` if it has readers.
    pub class: String,
    /// The number of times that a task had to wait.
    pub contentions: u64,
    /// The sum of all waits, in nanoseconds.
    pub waited: f64,
    /// The number of times that it was taken.
    pub acquisitions: u64,
    /// The sum of all hold times, in nanoseconds.
    pub held: f64,
}

impl LockTimes {
    /// The average hold time, in nanoseconds; `None` if it was never taken.
    pub fn held_each(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "acquisitions of a trial are far below 2^52")]
        let times = self.acquisitions as f64;
        (self.acquisitions > 0).then(|| self.held / times)
    }
}

/// The classes of `/proc/lock_stat`.
pub fn lock_stat(text: &str) -> Result<Vec<LockTimes>, MalformedTrace> {
    // The columns below are those of this version (`seq_header()` in
    // kernel/locking/lockdep_proc.c).
    const VERSION: &str = "lock_stat version 0.4";
    if text.lines().next().map(str::trim) != Some(VERSION) {
        return Err(MalformedTrace::new(
            "/proc/lock_stat",
            1,
            &format!("it does not begin with `{VERSION}`"),
        ));
    }
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // The lines below a class are call sites: a count and `[<address>] function`. A class name
        // may contain a colon.
        let Some((class, columns)) = line.rsplit_once(": ") else { continue };
        let columns: Vec<&str> = columns.split_whitespace().collect();
        let [_, contentions, _, _, waited, _, _, acquisitions, _, _, held, _] = columns.as_slice() else {
            continue;
        };
        let odd = || MalformedTrace::new("/proc/lock_stat", number + 1, "not a valid number");
        let count = |text: &str| text.parse::<u64>().map_err(|_| odd());
        // The kernel prints microseconds with two decimals (`seq_time()`).
        let time = |text: &str| match text.parse::<f64>() {
            Ok(us) if us.is_finite() && us >= 0.0 => Ok(us * 1e3),
            _ => Err(odd()),
        };
        all.push(LockTimes {
            class: class.trim().to_owned(),
            contentions: count(contentions)?,
            waited: time(waited)?,
            acquisitions: count(acquisitions)?,
            held: time(held)?,
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "lock_stat version 0.4\n-----\n   class name    con-bounces    contentions   waittime-min\n-----\n\n";

    #[test]
    fn a_class_is_read_and_its_call_sites_are_not() {
        let text = format!(
            "{HEAD}\
             \x20      cpu_hotplug_lock-W:    0    0   0.00   0.00   0.00  0.00   1   4   10.50  30.00  81.00  20.25\n\
             \x20      cpu_hotplug_lock-R:    3    2   1.00   2.00   3.00  1.50   1   0    0.00   0.00   0.00   0.00\n\
             \x20      ------------------\n\
             \x20        cpu_hotplug_lock       2   [<ffffffff8106b5a3>] mem_hotplug_begin+0x13/0x20\n\
             \n.....................\n\
             \x20      dev:x#2/1:    1    1   0.50   0.50   0.50  0.50   1   9    0.10   1.00   1.80   0.20\n"
        );
        let all = lock_stat(&text).unwrap();
        let names: Vec<&str> = all.iter().map(|lock| lock.class.as_str()).collect();
        assert_eq!(names, ["cpu_hotplug_lock-W", "cpu_hotplug_lock-R", "dev:x#2/1"]);
        assert_eq!((all[0].acquisitions, all[0].held, all[0].held_each()), (4, 81_000.0, Some(20_250.0)));
        assert_eq!((all[1].contentions, all[1].waited, all[1].held_each()), (2, 3_000.0, None));
    }

    #[test]
    fn what_is_no_lock_stat_is_not_believed() {
        let figures =
            |waited: &str| format!("{HEAD} a: 0 0 0.00 0.00 {waited} 0.00 1 4 10.50 30.00 81.00 20.25\n");
        for (text, why) in [
            (String::new(), "line 1: it does not begin with"),
            (HEAD.replace("0.4", "0.3"), "line 1: it does not begin with"),
            (figures("-1.0"), "line 6: not a valid number"),
            (figures("inf"), "line 6: not a valid number"),
        ] {
            let error = lock_stat(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_ends_it(text in "[ -~\n]{0,300}") {
            let _ = lock_stat(&format!("lock_stat version 0.4\n{text}"));
        }
    }
}

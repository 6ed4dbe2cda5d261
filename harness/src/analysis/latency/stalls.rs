//! The stalls of the victims, by the guest's clock: the traced calls of one trial, and each loop of
//! the victims beside them.

use std::path::Path;

use hotplug_side::Side;
use maud::{Markup, html};

use crate::drawing::axis::{self, Axis, Bar, Row};
use crate::files::read_json_if_there;
use crate::latency::{self, Call, Course, Latency, TrialTimes, VictimTimes};
use crate::scenario::{ClockSource, Mark};
use crate::text::{nanoseconds, word};

/// A trial whose victims stalled.
#[derive(Debug, Clone)]
pub(super) struct Stalled {
    /// The number of its boot.
    pub(super) boot: u32,
    /// The name of its folder.
    pub(super) folder: String,
    /// Its times.
    pub(super) times: TrialTimes,
}

/// The maximum number of calls and loops of a trial that are drawn. Each takes 200 bytes of the
/// page.
const DRAWN: usize = 1600;

/// A loop is a stall if it took more than this factor times the median of its victim's loops.
const USUAL_TIMES: f64 = 10.0;

/// The maximum number of stalls of a trial that are listed.
const LISTED: usize = 60;

/// A loop that took far longer than usual.
struct Stall<'a> {
    victim: &'a str,
    began: f64,
    took: f64,
    meanwhile: Option<&'a str>,
}

/// For each side, the timed trial in which the most victims had their longest loop. If several have
/// as many, the one with the longest loop.
pub(super) fn worst(latency: &Latency, run: &Path) -> Vec<Stalled> {
    Side::BOTH.into_iter().filter_map(|side| worst_of(latency, side, run)).collect()
}

fn worst_of(latency: &Latency, side: Side, run: &Path) -> Option<Stalled> {
    let worst: Vec<&latency::Stall> =
        latency.victims.iter().filter_map(|victim| victim.worst.of(side).as_ref()).collect();
    let same = |stall: &latency::Stall| {
        worst.iter().filter(|w| (w.boot, w.trial) == (stall.boot, stall.trial)).count()
    };
    let stall = worst.iter().max_by_key(|stall| (same(stall), stall.nanoseconds))?;
    // The folder's name differs if the trial was repeated. The folder may also have been deleted.
    let trials = run.join("latency").join(stall.boot.to_string()).join("trials");
    for entry in fs_err::read_dir(trials).into_iter().flatten().flatten() {
        let times = match read_json_if_there::<TrialTimes>(&entry.path().join(latency::FILE)) {
            Ok(Some(times)) => times,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "the page lacks a trial's times");
                continue;
            }
        };
        if times.side == side && times.number == stall.trial && times.odd.is_none() {
            let folder = entry.file_name().to_string_lossy().into_owned();
            return Some(Stalled { boot: stall.boot, folder, times });
        }
    }
    None
}

pub(super) fn section(all: &[Stalled]) -> Markup {
    html! {
        @for stalled in all {
            h3 { "Stalls of the victims, " (stalled.times.side) ": boot " (stalled.boot) ", trial " (stalled.folder) }
            @let stalls = stalls(&stalled.times);
            (axis::drawing(&on_axis(&stalled.times, &stalls)))
            p {
                "By the guest's clock: functions that ran, and every loop of the victims. "
                (stalls.len()) @if stalls.len() == 1 { " loop" } @else { " loops" } " took more than ten times as long as usual."
                " Of each row the longest " (most(&stalled.times)) " are drawn; all are in "
                code { "latency/" (stalled.boot) "/trials/" (stalled.folder) "/latency.json" } "."
            }
            @if !stalls.is_empty() { (table(&stalled.times, &stalls)) }
        }
    }
}

fn table(times: &TrialTimes, stalls: &[Stall<'_>]) -> Markup {
    let begin = extent(times).0;
    html! {
        details {
            summary { "the longest of them as a table, milliseconds since the first of what is drawn" }
            div.wide tabindex="0" {
                table {
                    thead { tr { th { "what" } th.number { "began" } th.number { "took" } th { "while there ran" } } }
                    tbody {
                        @for stall in stalls.iter().take(LISTED) {
                            tr {
                                td { (stall.victim) }
                                td.number { (ms(stall.began - begin)) } td.number { (ms(stall.took)) }
                                td { @if let Some(function) = stall.meanwhile { code { (function) "()" } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The stalls of all victims, longest first.
fn stalls(times: &TrialTimes) -> Vec<Stall<'_>> {
    let mut all: Vec<Stall<'_>> = Vec::new();
    for victim in &times.victims {
        let limit = usual(victim) * USUAL_TIMES;
        all.extend(victim.times.iter().filter(|time| took(time) > limit).map(|time| Stall {
            victim: &victim.name,
            began: began(time),
            took: took(time),
            meanwhile: times.meanwhile(time),
        }));
    }
    all.sort_by(|a, b| b.took.total_cmp(&a.took));
    all
}

/// The median of a victim's loops, in microseconds.
fn usual(victim: &VictimTimes) -> f64 {
    let mut all: Vec<f64> = victim.times.iter().map(took).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::INFINITY)
}

fn on_axis(times: &TrialTimes, stalls: &[Stall<'_>]) -> Axis {
    let (begin, end) = extent(times);
    let mut rows = Vec::new();
    let mut name = "operations";
    for course in guests(times) {
        if let Some(bar) = operation(course, begin) {
            rows.push(Row { name: std::mem::take(&mut name).to_owned(), bars: vec![bar] });
        }
    }
    let most = most(times);
    for function in functions(times) {
        let calls = times.calls.iter().filter(|call| call.function == function);
        let bars =
            longest(calls, most, |call| call.nanoseconds).into_iter().map(|call| call_bar(call, begin));
        rows.push(Row { name: function.to_owned(), bars: bars.collect() });
    }
    for victim in &times.victims {
        let usually = nanoseconds(usual(victim) * 1e3);
        let bars = longest(victim.times.iter(), most, took).into_iter().map(|time| {
            let stall = stalls.iter().find(|stall| {
                stall.victim == victim.name && (stall.began, stall.took) == (began(time), took(time))
            });
            let during = stall.and_then(|stall| stall.meanwhile);
            let during = during.map_or_else(String::new, |function| format!(", while {function}() ran"));
            let at = ms(began(time) - begin);
            Bar {
                title: format!(
                    "{} at {at} ms: {}, usually {usually}{during}",
                    victim.name,
                    nanoseconds(took(time) * 1e3)
                ),
                class: if stall.is_some() { "stall" } else { "loop" },
                from: began(time),
                to: began(time) + took(time),
                marks: Vec::new(),
                words: None,
            }
        });
        rows.push(Row { name: victim.name.clone(), bars: bars.collect() });
    }
    let label = format!(
        "{} calls, and {} loops of {} victims over {:.2} s, {} of them stalls",
        times.calls.len(),
        times.victims.iter().map(|victim| victim.times.len()).sum::<usize>(),
        times.victims.len(),
        (end - begin) / 1e6,
        stalls.len()
    );
    Axis { label, begin, end, rows, moments: Vec::new() }
}

fn guests(times: &TrialTimes) -> impl Iterator<Item = &Course> {
    let is_guests = |(mark, _): &(Mark, f64)| mark.teller() == ClockSource::Guest;
    times.courses.iter().filter(move |course| course.marks.iter().all(is_guests))
}

fn operation(course: &Course, begin: f64) -> Option<Bar> {
    let [(_, from), .., (_, to)] = course.marks.as_slice() else { return None };
    let marks = course.marks.iter().map(|(mark, at)| format!(", {} at {} ms", word(mark), ms(at - begin)));
    Some(Bar {
        title: format!("{}{}", course.operation, marks.collect::<String>()),
        class: "done",
        from: *from,
        to: *to,
        marks: course.marks.iter().map(|(_, at)| *at).collect(),
        words: Some(course.operation.clone()),
    })
}

fn call_bar(call: &Call, begin: f64) -> Bar {
    Bar {
        title: format!(
            "{}() at {} ms: {}, task {}",
            call.function,
            ms(call.began_us - begin),
            nanoseconds(call.nanoseconds),
            call.task
        ),
        class: "call",
        from: call.began_us,
        to: call.ended_us(),
        marks: Vec::new(),
        words: None,
    }
}

/// The times of the first and the last element that is drawn.
fn extent(times: &TrialTimes) -> (f64, f64) {
    let calls = times.calls.iter().map(|call| (call.began_us, call.ended_us()));
    let loops = times.victims.iter().flat_map(|victim| &victim.times);
    let loops = loops.map(|time| (began(time), began(time) + took(time)));
    let all = (f64::INFINITY, 0.0_f64);
    let (begin, end) = calls.chain(loops).fold(all, |all, (from, to)| (all.0.min(from), all.1.max(to)));
    if begin.is_finite() { (begin, end) } else { (0.0, 1.0) }
}

/// The functions, in the order of their first return.
fn functions(times: &TrialTimes) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for call in &times.calls {
        if !all.contains(&call.function.as_str()) {
            all.push(&call.function);
        }
    }
    all
}

/// The maximum number of elements of a row that are drawn.
fn most(times: &TrialTimes) -> usize {
    let rows = functions(times).len() + times.victims.len();
    (DRAWN / rows.max(1)).clamp(10, 120)
}

/// The longest elements, in their original order.
fn longest<'a, T>(all: impl Iterator<Item = &'a T>, most: usize, took: impl Fn(&T) -> f64) -> Vec<&'a T> {
    let mut all: Vec<(usize, &T)> = all.enumerate().collect();
    all.sort_by(|a, b| took(b.1).total_cmp(&took(a.1)));
    all.truncate(most);
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, one)| one).collect()
}

#[expect(clippy::cast_precision_loss, reason = "below 2^52 us, which are 142 years")]
fn began(time: &hotplug_protocol::LoopTime) -> f64 {
    time.began.0 as f64
}

/// The duration, in microseconds.
#[expect(clippy::cast_precision_loss, reason = "below 2^52 ns, which are 52 days")]
fn took(time: &hotplug_protocol::LoopTime) -> f64 {
    time.nanoseconds as f64 / 1e3
}

fn ms(us: f64) -> String {
    format!("{:.1}", us / 1e3)
}

#[cfg(test)]
mod tests {
    use hotplug_protocol::{GuestTime, LoopTime};
    use hotplug_side::Side;

    use super::*;

    fn times(victims: Vec<VictimTimes>) -> TrialTimes {
        let call = Call { function: "online_pages".into(), task: 7, began_us: 1_000.0, nanoseconds: 5e6 };
        TrialTimes { calls: vec![call], victims, ..TrialTimes::new(Side::After, 1) }
    }

    /// A hundred loops of 20 us, and one of 3 ms while memory comes online.
    fn fork() -> VictimTimes {
        let mut times: Vec<LoopTime> =
            (0..100).map(|n| LoopTime { began: GuestTime(n * 100), nanoseconds: 20_000 }).collect();
        times.insert(50, LoopTime { began: GuestTime(2_000), nanoseconds: 3_000_000 });
        VictimTimes { name: "fork".into(), loops: 101, times }
    }

    #[test]
    fn what_took_ten_times_as_long_as_usual_is_a_stall() {
        let times = times(vec![fork()]);
        let stalls = stalls(&times);
        let [stall] = &stalls[..] else { panic!("{} stalls", stalls.len()) };
        assert_eq!((stall.victim, stall.meanwhile), ("fork", Some("online_pages")));
        let axis = on_axis(&times, &stalls);
        assert_eq!((axis.begin, axis.end), (0.0, 9_920.0));
        let names: Vec<(&str, usize)> = axis.rows.iter().map(|row| (&*row.name, row.bars.len())).collect();
        assert_eq!(names, [("online_pages", 1), ("fork", 101)]);
        let title = "fork at 2.0 ms: 3.000 ms, usually 20.00 us, while online_pages() ran";
        let drawn: Vec<&str> =
            axis.rows[1].bars.iter().filter(|bar| bar.class == "stall").map(|bar| &*bar.title).collect();
        assert_eq!(drawn, [title]);
    }

    #[test]
    fn of_many_loops_the_longest_are_drawn_and_a_name_marks_up_nothing() {
        let mut many = fork();
        many.name = "<img src=x>".into();
        let more = (0..60_000).map(|n| LoopTime { began: GuestTime(20_000 + n), nanoseconds: 10_000 });
        many.times.extend(more);
        let stalled = Stalled { boot: 2, folder: "after-001".into(), times: times(vec![many]) };
        let drawn = section(&[stalled]).into_string();
        assert_eq!(drawn.matches("class=\"loop\"").count(), 119);
        assert_eq!(drawn.matches("class=\"stall\"").count(), 1);
        assert!(!drawn.contains("<img") && drawn.contains("latency/2/trials/after-001"), "{drawn}");
    }

    #[test]
    fn a_trial_without_a_call_or_a_loop_is_drawn_too() {
        let empty = TrialTimes::new(Side::Before, 0);
        let drawn = section(&[Stalled { boot: 1, folder: "before-000".into(), times: empty }]).into_string();
        assert!(drawn.contains("0 loops took"), "{drawn}");
    }
}

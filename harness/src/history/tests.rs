use super::*;
use crate::compare::Count;

fn result(id: &str, started: &str, scenario: &str) -> RunResult {
    let text = include_str!("../../tests/fixtures/results/seed-6.12/result.json");
    let mut result: RunResult = serde_json::from_str(text).unwrap();
    result.run.id = id.into();
    result.run.started = started.parse().unwrap();
    result.run.scenario = scenario.into();
    result
}

#[test]
fn a_run_is_taken_in_once_and_told_of_by_scenario_and_signature() {
    let home = tempfile::tempdir().unwrap();
    let mut history = History::open(home.path()).unwrap();
    history.add(&result("a", "2026-11-25T10:00:00Z", "dimm-and-cpu")).unwrap();
    for _ in 0..2 {
        history.add(&result("b", "2026-11-26T10:00:00Z", "dimm-and-cpu")).unwrap();
    }
    let mut other = result("c", "2026-11-27T10:00:00Z", "'; DROP TABLE run; --");
    other.reports.truncate(1);
    other.reports[0].title = "it'; DROP TABLE finding; --".into();
    history.add(&other).unwrap();
    let scenarios = history.scenarios().unwrap();
    let names: Vec<(&str, u32)> = scenarios.iter().map(|row| (row.scenario.as_str(), row.runs)).collect();
    assert_eq!(names, [("'; DROP TABLE run; --", 1), ("dimm-and-cpu", 2)]);
    assert_eq!(scenarios[1].regressed, 2);
    let runs = history.runs(Some("dimm-and-cpu"), 10).unwrap();
    assert_eq!(runs.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(runs[0].trials, (10, 10));
    let bugs = history.bugs("", None, 10).unwrap();
    assert_eq!(bugs.len(), 2, "{bugs:?}");
    let shared = &bugs[0];
    assert_eq!((shared.runs, shared.title.as_str()), (3, "it'; DROP TABLE finding; --"));
    assert_eq!(shared.first, "2026-11-25T10:00:00Z");
    assert_eq!(
        (shared.before, shared.after),
        (Count { seen: 0, trials: 30 }, Count { seen: 30, trials: 30 })
    );
    assert_eq!(history.runs_with(&shared.signature, 10).unwrap().len(), 3);
    assert_eq!(history.bugs(&shared.signature[..6], Some("dimm-and-cpu"), 10).unwrap()[0].runs, 2);
}

#[test]
fn it_is_opened_again_and_a_newer_one_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    History::open(home.path()).unwrap().add(&result("a", "2026-11-25T10:00:00Z", "s")).unwrap();
    let again = History::open(home.path()).unwrap();
    assert_eq!(again.runs(None, 10).unwrap().len(), 1);
    again.0.pragma_update(None, "user_version", 99).unwrap();
    drop(again);
    let error = History::open(home.path()).unwrap_err();
    assert!(error.exit_status() == 2 && error.to_string().contains("a newer version of hotplug"), "{error}");
}

#[test]
fn two_writers_wait_for_one_another() {
    let home = tempfile::tempdir().unwrap();
    std::thread::scope(|threads| {
        for writer in 0..4 {
            let folder = home.path();
            threads.spawn(move || {
                for run in 0..20 {
                    let id = format!("{writer}-{run}");
                    History::open(folder).unwrap().add(&result(&id, "2026-11-25T10:00:00Z", "s")).unwrap();
                }
            });
        }
    });
    assert_eq!(History::open(home.path()).unwrap().runs(None, 1000).unwrap().len(), 80);
}

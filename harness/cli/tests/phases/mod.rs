//! Phases of operations, by the scripted clock of a guest and by the host's clock.

use serde_json::Value;

use crate::{Faulty, SCENARIO};

/// The trace of the fake's kernel for the DIMM of [`SCENARIO`]. In microseconds after 10 s it is
/// delivered at 100, driver 120, registered 250, online 600, and visible at 650. Then it is
/// unplugged.
const TRACE: &str = "\
# tracer: function_graph
# heard 10000650
   10.000100 |   0)  kworker-5  |     2.000 us  |  acpi_hotplug_schedule();
   10.000110 |   0)  kworker-7  |               |  acpi_device_hotplug() {
   10.000120 |   0)  kworker-7  |               |    acpi_memory_device_add() {
   10.000200 |   0)  kworker-7  |    50.000 us  |      create_memory_block_devices();
   10.000400 |   0)  kworker-7  | ! 200.000 us  |      online_pages();
   10.001000 |   0)  kworker-7  | ! 880.000 us  |    } /* acpi_memory_device_add */
   10.001010 |   0)  kworker-7  | ! 900.000 us  |  } /* acpi_device_hotplug */
   10.002000 |   0)  kworker-5  |     2.000 us  |  acpi_hotplug_schedule();
   10.002010 |   0)  kworker-7  |               |  acpi_device_hotplug() {
   10.002100 |   0)  kworker-7  | ! 300.000 us  |    offline_pages();
   10.002500 |   0)  kworker-7  | ! 100.000 us  |    acpi_memory_device_remove();
   10.002700 |   0)  kworker-7  |    40.000 us  |    acpi_evaluate_ej0();
   10.002810 |   0)  kworker-7  | ! 800.000 us  |  } /* acpi_device_hotplug */
";

/// Each phase is timed by one clock, the guest's or the host's. The two are never mixed.
#[test]
fn phases_are_each_told_by_one_clock() {
    let faulty = Faulty::new();
    let trace = faulty.path("trace.txt");
    std::fs::write(&trace, TRACE).unwrap();
    let text = SCENARIO.split("[[lane]]\nname = \"cpus\"").next().unwrap();
    let table = "[latency]\nfunctions = [\"offline_pages\"]\n\
        phases = [\"plug dimm: driver..online\", \"plug dimm: asked..ended\"]\ntrials = 1\n";
    let mut command = faulty.0.compare_with_control();
    command
        .args(["--no-control", "--no-coverage", "--no-reach", "--boots", "4"])
        .env("HOTPLUG_FAKE_TRACE", &trace);
    let output = faulty.run(&mut faulty.of(command, &format!("{text}{table}"), ""));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("no change (within"), "{output:?}");
    let times = std::fs::read(faulty.0.folder().join("latency/1/trials/before-000/latency.json")).unwrap();
    let times: Value = serde_json::from_slice(&times).unwrap();
    let course = |operation: &str, first: &str| {
        let courses = times["courses"].as_array().unwrap();
        let is_it = |course: &&Value| course["operation"] == operation && course["marks"][0][0] == first;
        let course = courses.iter().find(is_it).unwrap_or_else(|| panic!("{times:#}"));
        let mark = |mark: &Value| (mark[0].as_str().unwrap().to_owned(), mark[1].as_f64().unwrap());
        course["marks"].as_array().unwrap().iter().map(mark).collect::<Vec<(String, f64)>>()
    };
    let near = |marks: Vec<(String, f64)>, expected: &[(&str, f64)]| {
        let names = |all: &[(String, f64)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&marks), expected.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
        for ((name, at), (_, after)) in marks.iter().zip(expected) {
            assert!((at - 1e7 - after).abs() < 1e-3, "{name} at {at}");
        }
    };
    near(
        course("plug dimm", "delivered"),
        &[
            ("delivered", 100.0),
            ("driver", 120.0),
            ("registered", 250.0),
            ("online", 600.0),
            ("visible", 650.0),
        ],
    );
    near(
        course("unplug dimm", "delivered"),
        &[
            ("delivered", 2000.0),
            ("offline-begun", 2100.0),
            ("offline-done", 2400.0),
            ("removed", 2600.0),
            ("ejected", 2740.0),
        ],
    );
    // Events of the monitor and of the agent have no order between them. A uevent may even come
    // after the operation's end.
    for (operation, told, late) in [
        ("plug dimm", ["told"].as_slice(), "told-online"),
        ("unplug dimm", &["deleted", "told"], "told-offline"),
    ] {
        let marks = course(operation, "asked");
        let mut names: Vec<&str> = marks.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names.remove(0), names.remove(0), names.pop()), ("asked", "accepted", Some("ended")));
        names.retain(|name| *name != late);
        names.sort_unstable();
        assert_eq!(names, told, "{marks:?}");
        assert!(marks.is_sorted_by(|a, b| a.1 <= b.1), "{marks:?}");
    }
    let result = faulty.0.result();
    let metrics = result["latency"]["metrics"].as_array().unwrap();
    let metric = |name: &str| metrics.iter().find(|metric| metric["name"] == name).unwrap();
    let online = metric("plug dimm: driver..online");
    assert_eq!(
        (&online["told"], &online["boots"]["after"][3]),
        (&"no-change".into(), &480_000.0.into()),
        "{online:#}"
    );
    assert_eq!(metric("offline_pages")["told"], "no-change");
    assert_eq!(metric("plug dimm: asked..ended")["samples"]["before"], 4);
}

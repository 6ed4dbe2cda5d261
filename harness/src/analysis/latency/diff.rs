//! The latency of two runs compared: of a patch and its next version, for example.

use std::path::Path;

use hotplug_side::Sides;

use crate::latency::{Latency, Timed};
use crate::record::{Run, read_result};
use crate::{Error, Result, environment};

/// The latency of the run in `folder`, and the run. The user's error: it has none.
pub fn of_run(folder: &Path) -> Result<(Latency, Run)> {
    let result = read_result(folder)?;
    let latency = result.latency.ok_or_else(|| {
        Error::user(format!("{} has no latency result", folder.display()))
            .help("name a comparison that ended; a control does not measure latency")
    })?;
    Ok((latency, result.run))
}

/// Compares the after kernels of two runs, by the median of each boot. The user's error: they differ in more than the
/// kernel, or one of them has no times.
pub fn diff(before: &Path, after: &Path) -> Result<Latency> {
    let (first, first_run) = of_run(before)?;
    let (second, second_run) = of_run(after)?;
    for (folder, latency) in [(before, &first), (after, &second)] {
        if let Some(why) = &latency.none {
            return Err(Error::user(format!("{}: latency was not judged: {why}", folder.display()))
                .help("name a run with timed trials, such as one of scenarios/latency.toml"));
        }
    }
    comparable(&first_run, &second_run)?;
    let (scenario, _) = environment::kept_scenario(after, &second_run, &second_run.scenario)?;
    let timing = scenario.latency.ok_or_else(|| Error::user("the run's scenario has no [latency] table"))?;
    let metrics = Timed::of_boots(&first, &second).judge(&timing, second.clock);
    Ok(Latency {
        clock: second.clock,
        boots: Sides { before: first.boots.after, after: second.boots.after },
        trials: Sides { before: first.trials.after, after: second.trials.after },
        left_out: Sides { before: first.left_out.after, after: second.left_out.after },
        despite_reports: first.despite_reports || second.despite_reports,
        metrics,
        ..Latency::default()
    })
}

/// Checks that the two runs differ in nothing but the kernel.
fn comparable(first: &Run, second: &Run) -> Result<()> {
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    let dimensions = [
        ("clock", first.plan.clock.to_string(), second.plan.clock.to_string()),
        ("accelerator", first.host.accelerator.clone(), second.host.accelerator.clone()),
        ("QEMU", first.host.qemu.clone(), second.host.qemu.clone()),
        ("machine", first.host.machine(), second.host.machine()),
        (
            "scenario",
            format!("{} {}", first.scenario, short(&first.scenario_hash)),
            format!("{} {}", second.scenario, short(&second.scenario_hash)),
        ),
        ("guest agent", short(&first.initramfs_hash), short(&second.initramfs_hash)),
    ];
    let differ: Vec<String> = dimensions
        .into_iter()
        .filter(|(_, first, second)| first != second)
        .map(|(what, first, second)| format!("{what}: {first} in the first run, {second} in the second"))
        .collect();
    if differ.is_empty() {
        return Ok(());
    }
    Err(Error::user("the times of these two runs cannot be compared")
        .detail(differ.join("\n"))
        .help("run both comparisons on one machine, with the same options"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Clock;

    fn run() -> Run {
        let host = serde_json::json!({
            "qemu": "10.0.2", "accelerator": "TCG", "accelerator_reason": "", "cores": 2, "cpu": "Xeon", "kernel": "6.1"
        });
        let run = serde_json::json!({
            "schema": 1, "hotplug": "0.1.0", "id": "a", "started": "2026-11-27T00:00:00Z", "command": [], "host": host,
            "kernels": {
                "before": crate::record::KernelNote::default(), "after": crate::record::KernelNote::default()
            },
            "patches": [], "scenario": "latency", "scenario_hash": "abc", "initramfs_hash": "def", "seed": 1,
            "trials": 1, "plan": crate::record::RunPlan::default(), "pair": [], "start": null, "continued": [],
            "replays": null
        });
        serde_json::from_value(run).unwrap()
    }

    #[test]
    fn times_of_another_kind_are_not_compared_and_the_kind_is_named() {
        comparable(&run(), &run()).unwrap();
        let change = |change: &dyn Fn(&mut Run)| {
            let mut other = run();
            change(&mut other);
            let error = comparable(&run(), &other).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            error.to_string()
        };
        for (name, said) in [
            (
                "accelerator: TCG in the first run, KVM in the second",
                change(&|run| run.host.accelerator = "KVM".into()),
            ),
            (
                "QEMU: 10.0.2 in the first run, 9.2.0 in the second",
                change(&|run| run.host.qemu = "9.2.0".into()),
            ),
            (
                "clock: wall in the first run, exact in the second",
                change(&|run| run.plan.clock = Clock::Exact),
            ),
            ("machine: Xeon with 2 processors", change(&|run| run.host.cores = 4)),
            (
                "scenario: latency abc in the first run, latency xyz in the second",
                change(&|run| run.scenario_hash = "xyz".into()),
            ),
            ("guest agent: def in the first run", change(&|run| run.initramfs_hash = "0".into())),
        ] {
            assert!(said.contains(name), "{said}");
        }
    }
}

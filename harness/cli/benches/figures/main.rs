//! `make bench`: the figures of the project, each measured in one run.
//! `make bench ONLY=name` runs one of them.
//!
//! Prints a table and writes `results/bench.json`. Names are stable, so that figures can be
//! followed over time.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod atlas;
mod compare;
mod fleet;
mod forecasts;
mod latency;
mod locks;
mod portfolio;
mod prove;
mod races;
mod results;
mod scan;
mod trials;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use hotplug::scenario::Clock;
use serde_json::{Value, json};

/// One figure: its name, its unit, and the function that measures it.
struct Figure {
    name: &'static str,
    unit: &'static str,
    /// The value that it should have, for the table only.
    goal: &'static str,
    /// Returns all measured values, of which the table shows the median.
    measure: fn(&Path) -> Result<Vec<f64>, String>,
}

const FIGURES: &[Figure] = &[
    Figure {
        name: "pair_build_ratio",
        unit: "ratio",
        goal: "at most 1.08",
        measure: compare::pair_build_ratio,
    },
    Figure {
        name: "start_to_first_trial_s",
        unit: "s",
        goal: "at most 1.0",
        measure: compare::start_to_first_trial_s,
    },
    Figure {
        name: "header_pair_build_ratio",
        unit: "ratio",
        goal: "at most 2.3",
        measure: compare::header_pair_build_ratio,
    },
    Figure {
        name: "portfolio_seconds",
        unit: "s",
        goal: "at most 240",
        measure: portfolio::portfolio_seconds,
    },
    Figure {
        name: "reach_callbacks_built",
        unit: "count",
        goal: "to be followed",
        measure: portfolio::reach_callbacks_built,
    },
    Figure {
        name: "reach_callbacks_run",
        unit: "count",
        goal: "to be followed",
        measure: portfolio::reach_callbacks_run,
    },
    Figure {
        name: "reach_rollbacks_run",
        unit: "count",
        goal: "to be followed",
        measure: portfolio::reach_rollbacks_run,
    },
    Figure { name: "compare_seconds", unit: "s", goal: "at most 60", measure: compare::compare_seconds },
    Figure {
        name: "seed_verdict_seconds",
        unit: "s",
        goal: "at most 10",
        measure: compare::seed_verdict_seconds,
    },
    Figure {
        name: "restore_to_first_op_ms",
        unit: "ms",
        goal: "at most 60, goal 20",
        measure: trials::restore_to_first_op_ms,
    },
    Figure {
        name: "restore_8g_over_512m_ratio",
        unit: "ratio",
        goal: "at most 1.2",
        measure: trials::restore_8g_over_512m_ratio,
    },
    Figure {
        name: "trials_per_minute",
        unit: "1/min",
        goal: "at least 400",
        measure: trials::trials_per_minute,
    },
    Figure {
        name: "trials_vs_cold_ratio",
        unit: "ratio",
        goal: "at least 15",
        measure: trials::trials_vs_cold_ratio,
    },
    Figure {
        name: "round_core_seconds",
        unit: "s",
        goal: "to be followed",
        measure: trials::round_core_seconds,
    },
    Figure {
        name: "cores_busy_share",
        unit: "ratio",
        goal: "at least 0.95",
        measure: trials::cores_busy_share,
    },
    Figure {
        name: "harness_cpu_share",
        unit: "ratio",
        goal: "at most 0.03",
        measure: trials::harness_cpu_share,
    },
    Figure {
        name: "prove_planted_found_share",
        unit: "ratio",
        goal: "1",
        measure: prove::planted_found_share,
    },
    Figure { name: "prove_real_found", unit: "count", goal: "at least 9 of 10", measure: prove::real_found },
    Figure { name: "prove_false_reports", unit: "count", goal: "0", measure: prove::false_reports },
    Figure { name: "prove_quick_seconds", unit: "s", goal: "at most 300", measure: prove::quick_seconds },
    Figure { name: "merge_1000_shards_s", unit: "s", goal: "under 60", measure: fleet::merge_1000_shards_s },
    Figure {
        name: "merge_1000_shards_mib",
        unit: "MiB",
        goal: "under 1024",
        measure: fleet::merge_1000_shards_mib,
    },
    Figure {
        name: "rendezvous_overhead_ms",
        unit: "ms",
        goal: "under 150",
        measure: races::rendezvous_overhead_ms,
    },
    Figure {
        name: "sweep_pairs_per_minute",
        unit: "1/min",
        goal: "to be followed",
        measure: races::sweep_pairs_per_minute,
    },
    Figure {
        name: "atlas_search_seconds",
        unit: "s",
        goal: "under 2, in 1 GiB",
        measure: atlas::search_seconds,
    },
    Figure { name: "forecast_false", unit: "count", goal: "0", measure: atlas::forecast_false },
    Figure {
        name: "armed_share_masked",
        unit: "%",
        goal: "at least 95, on three kernels",
        measure: atlas::armed_share_masked,
    },
    Figure {
        name: "forecast_confirmed",
        unit: "count",
        goal: "at least 5 of 6",
        measure: forecasts::forecast_confirmed,
    },
    Figure { name: "lock_compare_seconds", unit: "s", goal: "under 2", measure: locks::compare_seconds },
    Figure {
        name: "lock_false_lists_per_100",
        unit: "count",
        goal: "at most 1",
        measure: locks::false_lists,
    },
    Figure {
        name: "exact_offline_cv_percent_idle",
        unit: "%",
        goal: "at most 0.1",
        measure: |root| latency::scatter(root, Clock::Exact, false, "offline_pages"),
    },
    Figure {
        name: "exact_offline_cv_percent_busy",
        unit: "%",
        goal: "at most 0.1",
        measure: |root| latency::scatter(root, Clock::Exact, true, "offline_pages"),
    },
    Figure {
        name: "exact_online_cv_percent_idle",
        unit: "%",
        goal: "at most 0.7",
        measure: |root| latency::scatter(root, Clock::Exact, false, "online_pages"),
    },
    Figure {
        name: "exact_online_cv_percent_busy",
        unit: "%",
        goal: "at most 0.7",
        measure: |root| latency::scatter(root, Clock::Exact, true, "online_pages"),
    },
    Figure {
        name: "wall_offline_cv_percent_idle",
        unit: "%",
        goal: "for comparison",
        measure: |root| latency::scatter(root, Clock::Wall, false, "offline_pages"),
    },
    Figure {
        name: "wall_offline_cv_percent_busy",
        unit: "%",
        goal: "for comparison",
        measure: |root| latency::scatter(root, Clock::Wall, true, "offline_pages"),
    },
    Figure {
        name: "wall_online_cv_percent_idle",
        unit: "%",
        goal: "for comparison",
        measure: |root| latency::scatter(root, Clock::Wall, false, "online_pages"),
    },
    Figure {
        name: "wall_online_cv_percent_busy",
        unit: "%",
        goal: "for comparison",
        measure: |root| latency::scatter(root, Clock::Wall, true, "online_pages"),
    },
    Figure {
        name: "latency_false_alarms_per_1000",
        unit: "count",
        goal: "at most 50",
        measure: latency::false_alarms,
    },
    Figure {
        name: "latency_1_percent_found_per_1000",
        unit: "count",
        goal: "at least 900",
        measure: latency::found,
    },
    Figure {
        name: "wall_20_percent_found_per_1000",
        unit: "count",
        goal: "at least 900",
        measure: latency::found_by_the_wall_clock,
    },
    Figure {
        name: "wall_false_alarms_per_1000",
        unit: "count",
        goal: "at most 50",
        measure: latency::false_alarms_of_the_wall_clock,
    },
    Figure {
        name: "traced_call_instructions",
        unit: "count",
        goal: "stated in docs/latency.md",
        measure: latency::cost_of_a_call,
    },
    Figure {
        name: "page_10000_trials_bytes",
        unit: "B",
        goal: "at most 2097152",
        measure: results::page_bytes,
    },
    Figure { name: "page_10000_trials_s", unit: "s", goal: "at most 5", measure: results::page_seconds },
    Figure {
        name: "history_query_ms",
        unit: "ms",
        goal: "all under 200",
        measure: results::history_query_ms,
    },
    Figure { name: "scan_clean_mb_per_s", unit: "MB/s", goal: "at least 300", measure: scan::clean },
    Figure { name: "scan_vs_grep_ratio", unit: "ratio", goal: "at least 1", measure: scan::against_grep },
    Figure { name: "scan_dense_mb_per_s", unit: "MB/s", goal: "at least 30", measure: scan::dense },
    Figure { name: "scan_peak_rss_mib", unit: "MiB", goal: "at most 64", measure: scan::peak_memory },
];

fn main() -> ExitCode {
    // cargo bench passes --bench.
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let Some(unknown) = only.iter().find(|name| FIGURES.iter().all(|f| f.name != **name)) {
        let known: Vec<_> = FIGURES.iter().map(|f| f.name).collect();
        eprintln!("bench: no figure is called {unknown}; the figures are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut figures = Vec::new();
    let mut failed = false;
    println!("{:<28} {:>10} {:<8} {:>3} {:>10} {:>10}  goal", "figure", "value", "unit", "n", "min", "max");
    for figure in FIGURES.iter().filter(|f| only.is_empty() || only.iter().any(|name| name == f.name)) {
        match (figure.measure)(&root) {
            Ok(mut values) => {
                values.sort_by(f64::total_cmp);
                let (value, min, max) = (values[values.len() / 2], values[0], values[values.len() - 1]);
                let (name, unit, n) = (figure.name, figure.unit, values.len());
                println!(
                    "{name:<28} {value:>10.3} {unit:<8} {n:>3} {min:>10.3} {max:>10.3}  {}",
                    figure.goal
                );
                figures.push(
                    json!({ "name": name, "value": value, "unit": unit, "n": n, "min": min, "max": max }),
                );
            }
            Err(why) => {
                failed = true;
                println!("{:<28} failed: {why}", figure.name);
            }
        }
    }
    let path = root.join("results/bench.json");
    // Figures that were not measured now are kept from the last file, if it is from this machine.
    let machine = machine();
    let last: Value =
        std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    if last["machine"] == machine {
        let measured = |old: &&Value| !figures.iter().any(|new: &Value| new["name"] == old["name"]);
        let kept: Vec<Value> =
            last["figures"].as_array().into_iter().flatten().filter(measured).cloned().collect();
        figures.extend(kept);
    }
    let bench = json!({ "schema": 1, "machine": machine, "figures": figures });
    if let Err(error) = std::fs::create_dir_all(root.join("results"))
        .and_then(|()| std::fs::write(&path, format!("{bench:#}\n")))
    {
        eprintln!("bench: cannot write {}: {error}", path.display());
        failed = true;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn machine() -> Value {
    let first_line = |program: &str, arguments: &[&str]| {
        let out = Command::new(program).args(arguments).output().ok()?;
        String::from_utf8_lossy(&out.stdout).lines().next().map(str::to_owned)
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map(|l| l.trim_start_matches(['\t', ':', ' ']));
    json!({
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": first_line("uname", &["-r"]),
        "qemu": first_line("qemu-system-x86_64", &["--version"]),
        "accelerator": "as hotplug doctor finds it",
    })
}

fn hotplug(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotplug"));
    command.current_dir(root).stderr(Stdio::inherit());
    command
}

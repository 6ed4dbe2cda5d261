//! Guests of POWER, where memory and CPUs come and go by PAPR's firmware instead of ACPI.

#![expect(clippy::unwrap_used, reason = "a helper of tests is a test")]

use predicates::prelude::*;
use serde_json::json;

use crate::common::{Run, patch};

/// The reports of the after kernel: their titles and their frames.
fn reports(result: &serde_json::Value) -> Vec<(&str, Vec<&str>)> {
    let all = result["reports"].as_array().unwrap().iter();
    let of_after = all.filter(|report| report["before"]["seen"] == 0);
    of_after
        .map(|report| {
            let frames = report["frames"].as_array().unwrap().iter().filter_map(|frame| frame.as_str());
            (report["title"].as_str().unwrap(), frames.collect())
        })
        .collect()
}

/// With the hash MMU, the kernel relies on the lock that the patch removes both when memory comes and
/// when it goes.
#[test]
fn the_seed_patch_breaks_both_ways_of_a_dimm_with_the_hash_mmu() {
    let run = Run::new();
    let mut command = run.compare();
    command.args(["--arch", "ppc64le", "--scenario", "pseries-hash", "--trials", "1"]).arg(patch("seed"));
    // One trial a side decides nothing.
    command.assert().code(3).stdout(predicate::str::contains("0 refused by the guest"));
    let result = run.result();
    assert_eq!(result["run"]["kernels"]["after"]["arch"], "ppc64le");
    let reports = reports(&result);
    let frames = |function: &str| {
        let title = format!("in {function}");
        &reports.iter().find(|(one, _)| one.ends_with(&title)).unwrap().1
    };
    assert!(frames("stop_machine_cpuslocked").contains(&"pseries_lpar_resize_hpt"), "{reports:?}");
    assert!(frames("stop_machine_cpuslocked").contains(&"add_memory_resource"), "{reports:?}");
    assert!(frames("flush_all_cpus_locked").contains(&"dlpar_remove_lmb"), "{reports:?}");
    for side in ["before", "after"] {
        assert_eq!(result["trials"][side]["armed"], json!(1), "{result:#}");
        // The lock order comes from the guest's memory.
        assert!(result["lock_order"]["extent"][side]["edges"].as_u64().unwrap() > 1000, "{result:#}");
    }
    run.assert_nothing_left();
}

#[test]
fn what_is_of_another_architecture_is_refused() {
    let refused = |arguments: &[&str], fault: &str| {
        let run = Run::new();
        let mut command = run.compare();
        command.args(arguments).arg("--same");
        command.assert().code(2).stderr(predicate::str::contains(fault));
        assert!(!run.results().exists());
    };
    let both = ["--scenario", "dimm-and-cpu", "--scenario", "pseries-radix"];
    refused(&both, "scenario pseries-radix is for guests of ppc64le, not of x86_64");
    let other = ["--arch", "ppc64le", "--scenario", "dimm-and-cpu"];
    refused(&other, "scenario dimm-and-cpu is for guests of x86_64, not of ppc64le");
    let named = ["--arch", "ppc64le", "--scenario", "pseries-radix", "--scenario", "latency"];
    refused(&named, "scenario latency is for guests of x86_64, not of ppc64le");
    let wide = ["--arch", "ppc64le", "--scenario", "pseries-radix", "--wide"];
    refused(&wide, "there are no wide kernels for ppc64le");
    let kvm = ["--scenario", "pseries-radix", "--accel", "kvm"];
    refused(&kvm, "KVM is used for guests of x86_64, not of ppc64le");
    // A sweep runs `race` unless another scenario is named.
    let run = Run::new();
    let mut race = assert_cmd::Command::cargo_bin("hotplug").unwrap();
    race.args(["race", "--arch", "ppc64le", "--functions", "offline_pages", "--against", "_cpu_up"]);
    race.arg("--results").arg(run.results()).arg(patch("seed"));
    race.assert()
        .code(2)
        .stderr(predicate::str::contains("scenario race is for guests of x86_64, not of ppc64le"));
    assert!(!run.results().exists());
}

//! The result for KCIDB, the database of the kernel's CI systems: one checkout, one build and a test
//! for each expectation (kcidb-io, schema 5.3). The before kernel is what it is compared with, and
//! is no build of its own there.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::conclusion::{Case, CaseOutcome};
use crate::record::{RunResult, Settled};
use crate::text::harmless;
use crate::{Error, Result};

/// The version of the schema.
const VERSION: Version = Version { major: 5, minor: 3 };

/// Longest excerpt of a log, in bytes.
const EXCERPT: usize = 16384;

#[derive(Debug, Serialize)]
struct Submission {
    version: Version,
    checkouts: Vec<Checkout>,
    builds: Vec<Build>,
    tests: Vec<Test>,
}

#[derive(Debug, Serialize)]
struct Version {
    major: u32,
    minor: u32,
}

#[derive(Debug, Serialize)]
struct Checkout {
    id: String,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    git_commit_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patchset_hash: Option<String>,
    comment: String,
    start_time: String,
    valid: bool,
}

#[derive(Debug, Serialize)]
struct Build {
    id: String,
    origin: String,
    checkout_id: String,
    comment: String,
    start_time: String,
    architecture: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_excerpt: Option<String>,
}

#[derive(Debug, Serialize)]
struct Test {
    id: String,
    origin: String,
    build_id: String,
    path: String,
    comment: String,
    status: &'static str,
    start_time: String,
    environment: Environment,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_excerpt: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Environment {
    comment: String,
}

/// The submission, as JSON. `origin` is the name of the CI system.
///
/// Fails with a user error if the name is not one that the database accepts.
pub fn kcidb(result: &RunResult, cases: &[Case], origin: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if origin.is_empty() || !origin.chars().all(plain) {
        return Err(
            Error::user(format!("`{origin}` is no name of a CI system")).help("KCIDB accepts a-z, 0-9 and _")
        );
    }
    let run = &result.run;
    let of = |part: &str| format!("{origin}:{}{part}", run.id);
    let start_time = run.started.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string();
    let failed = match &result.settled {
        Some(Settled::DoesNotCompile { lines, .. }) => Some(excerpt(lines)),
        _ => None,
    };
    let subjects = run.series.iter().filter_map(|patch| patch.subject.as_deref());
    let change: Vec<&str> = if run.series.iter().any(|patch| patch.subject.is_some()) {
        subjects.collect()
    } else {
        run.patches.iter().map(String::as_str).collect()
    };
    let checkout = Checkout {
        id: of(""),
        origin: origin.to_owned(),
        git_commit_hash: commit(result),
        patchset_hash: patchset_hash(result),
        comment: text(&format!("{}: {}", run.kernels.before.source, change.join("; "))),
        start_time: start_time.clone(),
        valid: true,
    };
    let build = Build {
        id: of("-after"),
        origin: origin.to_owned(),
        checkout_id: of(""),
        comment: text(&format!("{} {}", run.kernels.after.release, run.kernels.after.built)),
        start_time: start_time.clone(),
        architecture: run.kernels.after.arch.table().name,
        status: if failed.is_some() { "FAIL" } else { "PASS" },
        log_excerpt: failed,
    };
    let environment = Environment {
        comment: text(&format!(
            "QEMU {}, {}, on {}",
            run.host.qemu,
            run.host.accelerator,
            run.host.machine()
        )),
    };
    let test = |(number, case): (usize, &Case)| {
        let (status, why, more) = match &case.outcome {
            CaseOutcome::Passed => ("PASS", "", [].as_slice()),
            CaseOutcome::Failed { why, more } => ("FAIL", why.as_str(), more.as_slice()),
            // It neither passed nor failed.
            CaseOutcome::Skipped { why } => ("SKIP", why.as_str(), [].as_slice()),
            CaseOutcome::Broken { why } => ("ERROR", why.as_str(), [].as_slice()),
        };
        let separator = if why.is_empty() { "" } else { ": " };
        Test {
            id: of(&format!("-{number}")),
            origin: origin.to_owned(),
            build_id: of("-after"),
            path: format!("hotplug.{}.{}", slug(&run.scenario), slug(&case.name)),
            comment: text(&format!("{}{separator}{why}", case.name)),
            status,
            start_time: start_time.clone(),
            environment: environment.clone(),
            log_excerpt: (!more.is_empty()).then(|| excerpt(more)),
        }
    };
    let tests = cases.iter().enumerate().map(test).collect();
    let all = Submission { version: VERSION, checkouts: vec![checkout], builds: vec![build], tests };
    Ok(serde_json::to_string_pretty(&all).map_err(Error::infrastructure)? + "\n")
}

fn text(text: &str) -> String {
    harmless(text, 1000)
}

fn excerpt(lines: &[String]) -> String {
    let mut all = String::new();
    for line in lines {
        let line = harmless(line, 400);
        if all.len() + line.len() >= EXCERPT {
            break;
        }
        all += &line;
        all.push('\n');
    }
    all
}

/// A part of a path: `the verdict` is `the_verdict`.
fn slug(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let slug: String = name.chars().map(plain).collect();
    let words: Vec<&str> = slug.split('_').filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "_".to_owned() } else { words.join("_") }
}

/// The commit that the patches were applied to, or that was judged.
fn commit(result: &RunResult) -> Option<String> {
    let kernels = &result.run.spec.kernels;
    let of_source = kernels.source.as_deref().and_then(|source| source.rsplit_once('@'));
    let name = kernels.after.as_deref().or(of_source.map(|(_, revision)| revision))?;
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (name.len() == 40 && name.bytes().all(lower)).then(|| name.to_owned())
}

/// SHA-256 of the lines with the SHA-256 of each patch file, as the schema defines it. `None` if a
/// copy of the run is gone.
fn patchset_hash(result: &RunResult) -> Option<String> {
    let patches = &result.run.spec.kernels.patches;
    if patches.is_empty() {
        return Some(String::new());
    }
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(&Sha256::digest(bytes));
    let mut lines = String::new();
    for file in patches.iter().map(|patch| crate::kernel::patch_files(patch)) {
        for file in file.ok()? {
            lines += &hex(&fs_err::read(file).ok()?);
            lines.push('\n');
        }
    }
    Some(hex(lines.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::present::cases::cases;

    #[test]
    fn each_expectation_is_a_test_of_one_build() {
        let text = include_str!("../../tests/fixtures/results/seed-6.12/result.json");
        let result: RunResult = serde_json::from_str(text).unwrap();
        let cases = cases(&result);
        let value: serde_json::Value =
            serde_json::from_str(&kcidb(&result, &cases, "my_ci").unwrap()).unwrap();
        assert_eq!(value["tests"].as_array().unwrap().len(), cases.len());
        let first = &value["tests"][0];
        assert_eq!(
            (&first["path"], &first["status"]),
            (&"hotplug.dimm-and-cpu.the_verdict".into(), &"FAIL".into())
        );
        assert_eq!(first["build_id"], value["builds"][0]["id"]);
        assert_eq!(value["builds"][0]["checkout_id"], value["checkouts"][0]["id"]);
        assert_eq!(kcidb(&result, &cases, "My CI").unwrap_err().exit_status(), 2);
        assert_eq!(slug("[ ]"), "_");
    }
}
